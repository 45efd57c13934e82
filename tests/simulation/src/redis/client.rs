//! One process's connection to the server, with the same requests as RSF's own client of Redis.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use rsf_registry::lease::LiveLease;
use rsf_registry::record::Lease;
use rsf_registry::{Hint, LeaseSource, LeaseStore, Renewal, StoreError, Sweep};

use super::{Redis, hints};
use crate::process::Process;

/// How many keys one step of a sweep asks for.
const PAGE: usize = 8;

/// The leases in one server as one process uses them.
#[derive(Clone)]
pub(crate) struct RedisClient {
    pub(super) redis: Arc<Redis>,
    pub(super) process: Arc<Process>,
    /// The source of the last sweep.
    pub(super) swept: Arc<Mutex<Option<String>>>,
}

impl RedisClient {
    pub(crate) fn new(redis: Arc<Redis>, process: Arc<Process>) -> Self {
        RedisClient {
            redis,
            process,
            swept: Arc::default(),
        }
    }

    pub(super) async fn identity(&self) -> Result<String, StoreError> {
        self.redis.ask(&self.process, |state, _| state.identity()).await
    }

    async fn read_page(&self, page: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        let page = page.to_vec();
        let read = self
            .redis
            .ask(&self.process, move |state, now| Ok(state.read(&page, now)));
        read.await
    }
}

#[async_trait]
impl LeaseStore for RedisClient {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        let lease = lease.clone();
        let put = self
            .redis
            .ask(&self.process, move |state, now| state.put(lease, ttl, now));
        put.await
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        let instance = instance.to_owned();
        let renewed = self.redis.ask(&self.process, move |state, now| {
            state.renew(&instance, incarnation, ttl, now)
        });
        Ok(match renewed.await? {
            true => Renewal::Renewed,
            false => Renewal::Unknown,
        })
    }
}

#[async_trait]
impl LeaseSource for RedisClient {
    fn name(&self) -> &str {
        &self.redis.name
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        let keys = self.redis.ask(&self.process, |state, _| Ok(state.keys())).await?;
        let mut leases = Vec::new();
        for page in keys.chunks(PAGE) {
            leases.extend(self.read_page(page).await?.into_iter().flatten());
        }
        let source = self.identity().await?;
        *self.swept.lock() = Some(source.clone());
        Ok(Sweep { source, leases })
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        let mut found = Vec::with_capacity(instances.len());
        for page in instances.chunks(PAGE) {
            found.extend(self.read_page(page).await?);
        }
        if found.iter().any(Option::is_none) {
            let source = self.identity().await?;
            if self.swept.lock().as_ref().is_some_and(|swept| *swept != source) {
                return Err(self.redis.unavailable("it lost its data since the last sweep"));
            }
        }
        Ok(found)
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        hints::subscribe(self.clone()).await
    }
}
