//! Providers of a deduplicated method, the store that they share, and one consumer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rsf_core::call::Call;
use rsf_core::client::Channel;
use rsf_core::message::{Request, Response};
use rsf_core::method::ServiceDescriptor;
use rsf_core::server::dedup::{
    Claim, Claimed, DedupKey, DedupStore, DedupStoreError, Entry, EntryState, Held, MemoryDedup,
};
use rsf_core::server::{CallScope, Handled, Provider, Service};
use tokio::time::{Instant, sleep};

use crate::support::{ECHO, Echo, Fleet, Node, Note, PUT, Peer, counted, descriptor, eventually, number};

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The echo service, whose `Put` is deduplicated and whose `Get` is nothing special.
pub(crate) struct Deduplicated(pub(crate) Arc<Echo>, pub(crate) ServiceDescriptor);

impl Service for Deduplicated {
    fn descriptor(&self) -> &ServiceDescriptor {
        &self.1
    }

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        self.0.clone().call(method, request, scope)
    }
}

pub(crate) fn deduplicated() -> ServiceDescriptor {
    let mut service = descriptor();
    service.methods.to_mut()[PUT].dedup = true;
    service
}

/// A store that can fail, answer late, and forget.
pub(crate) struct Store {
    inner: Mutex<Arc<MemoryDedup>>,
    mode: Mutex<Mode>,
    /// How often it was told a claim's end.
    pub(crate) settles: std::sync::atomic::AtomicU32,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Up,
    Down,
    /// Does what it is asked for and never says so.
    Mute,
    /// Panics where it is asked what stands there.
    Blind,
    /// Does what it is asked for, and panics.
    Mad,
}

impl Store {
    pub(crate) fn new() -> Arc<Store> {
        Arc::new(Store {
            inner: Mutex::new(Arc::new(MemoryDedup::new())),
            mode: Mutex::new(Mode::Up),
            settles: Default::default(),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    /// Restarts empty.
    pub(crate) fn forget(&self) {
        *self.inner.lock() = Arc::new(MemoryDedup::new());
    }

    fn ask<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&MemoryDedup) -> Result<T, DedupStoreError>,
    ) -> BoxFuture<'static, Result<T, DedupStoreError>> {
        let (inner, mode) = (self.inner.lock().clone(), *self.mode.lock());
        let answer = match mode {
            Mode::Up | Mode::Blind => Some(operation(&inner)),
            Mode::Mad => {
                let _ = operation(&inner);
                panic!("the store's own panic");
            }
            Mode::Down => Some(Err(DedupStoreError {
                store: "test".to_owned(),
                reason: "pulled the plug".to_owned(),
            })),
            Mode::Mute => {
                let _ = operation(&inner);
                None
            }
        };
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }

    pub(crate) fn state(&self, id: &str) -> Option<EntryState> {
        let inner = self.inner.lock().clone();
        let found = inner.look(&key(id)).now_or_never().unwrap();
        found.unwrap().map(|entry| entry.state)
    }
}

impl DedupStore for Store {
    fn claim<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Claimed, DedupStoreError>> {
        self.ask(|inner| inner.claim(key, claim).now_or_never().unwrap())
    }

    fn renew<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        self.ask(|inner| inner.renew(key, claim).now_or_never().unwrap())
    }

    fn settle<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
        outcome: Option<&'a Bytes>,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        self.settles.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.ask(|inner| inner.settle(key, claim, outcome).now_or_never().unwrap())
    }

    fn look<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<Option<Entry>, DedupStoreError>> {
        assert!(*self.mode.lock() != Mode::Blind, "the store's own panic");
        self.ask(|inner| inner.look(key).now_or_never().unwrap())
    }
}

/// The key of the consumer's `Put` with this request id.
pub(crate) fn key(id: &str) -> DedupKey {
    DedupKey::of("tester", ECHO, "Put", id)
}

/// Providers that share a store, and one consumer.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) store: Arc<Store>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) peer: Peer,
    pub(crate) channel: Channel,
}

impl World {
    /// In the test's own time, with one provider whose store has been up for long.
    pub(crate) async fn of(echo: &Arc<Echo>) -> World {
        World::on(Fleet::in_test(), &[echo]).await
    }

    pub(crate) async fn on(fleet: Fleet, echoes: &[&Arc<Echo>]) -> World {
        World::governed(fleet, echoes, "").await
    }

    /// With policy of the service: `provider.dedup` has these fields.
    pub(crate) async fn governed(fleet: Fleet, echoes: &[&Arc<Echo>], dedup: &str) -> World {
        let store = Store::new();
        let mut world = World {
            peer: fleet.consumer(),
            channel: Channel::clone(&fleet.consumer().channel),
            nodes: Vec::new(),
            store,
            fleet,
        };
        world.policy(1, dedup);
        for echo in echoes {
            world.provide(echo);
        }
        world.channel = world.peer.consumer.channel(&deduplicated(), "");
        world.peer.connected(echoes.len()).await;
        world
    }

    pub(crate) fn policy(&self, revision: u64, dedup: &str) {
        let call =
            r#""call":{"timeout_ms":60000,"retry":{"attempts":3,"budget_percent":100,"backoff_ms":1}}"#;
        let document = format!(r#"{{{call},"provider":{{"dedup":{{{dedup}}}}}}}"#);
        self.fleet.service_policy(revision, &document);
    }

    /// Publishes another policy and waits until its provider follows it.
    pub(crate) async fn change(&self, revision: u64, dedup: &str) {
        self.policy(revision, dedup);
        let scope = format!("service/{ECHO}");
        eventually("the policy is acknowledged", || {
            self.fleet.acknowledged(&scope) == Some((revision, None))
        })
        .await;
        sleep(ms(5)).await;
    }

    pub(crate) fn provide(&mut self, echo: &Arc<Echo>) {
        let service = Arc::new(Deduplicated(echo.clone(), deduplicated()));
        let builder = Provider::builder()
            .service("", service)
            .dedup_store(self.store.clone());
        let node = self.fleet.start(builder, |_| {});
        self.fleet.list(|list| list.push(node.instance.clone()));
        self.nodes.push(node);
    }

    pub(crate) fn put(&self, id: &str, message: Note) -> Call<Note> {
        self.channel.call(PUT, Request::new(message)).request_id(id)
    }

    /// Calls with so many of this outcome, at all providers.
    pub(crate) fn counted(&self, outcome: &str) -> u64 {
        let one = |node: &Node| counted(&node.registry, "rsf_dedup_total", outcome);
        self.nodes.iter().map(one).sum()
    }
}

/// Answers with the number of its run.
pub(crate) fn numbering() -> Arc<Echo> {
    let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    Echo::with(move |_, request| {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        async move {
            let (_, metadata) = request.into_parts();
            Ok(Response::from_parts(number(run), metadata))
        }
    })
}

/// Timers are a millisecond apart.
pub(crate) fn within(begun: Instant, expected: u128) {
    let elapsed = begun.elapsed().as_millis();
    assert!(
        (expected..expected + 3).contains(&elapsed),
        "{elapsed} ms instead of {expected}"
    );
}

pub(crate) async fn began(echo: &Echo, count: u32) {
    echo.seen()
        .until("handlers began", |counts| counts.began == count)
        .await;
}

/// Past the time in which a store is too young to know what had happened before.
pub(crate) async fn old_enough() {
    sleep(ms(700_000)).await;
}

/// The place of the node that has a call under way.
pub(crate) fn busy(nodes: &[Node]) -> usize {
    let busy = |node: &Node| counted(&node.registry, "rsf_server_calls_underway", "") == 1;
    nodes.iter().position(busy).unwrap()
}
