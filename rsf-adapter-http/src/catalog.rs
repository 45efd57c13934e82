//! What the adapter can call right now: an immutable table that requests read, and the task that keeps it true.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use rsf_core::client::{Channel, Consumer};
use rsf_core::method::service_key;
use rsf_core::status::Code;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::schema::{MethodSchema, Schema, SchemaError, SchemaSource, SchemaVersion};

/// How often the list of services is read where nothing says that it changed. Jittered by up to a fifth.
const REFRESH: Duration = Duration::from_secs(5);
/// The least time between two passes, however often somebody asks for one.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// Schemas that are fetched at the same time.
const FETCHES: usize = 16;
/// A version that could not be read is tried again after this time, and twice it each further time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// At most.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The adapter's view of the services.
pub(crate) struct Catalog {
    source: Arc<dyn SchemaSource>,
    consumer: Consumer,
    table: ArcSwap<Table>,
    failures: Mutex<HashMap<FailureKey, FailedVersion>>,
    poke: Notify,
}

/// Service key and hash.
type FailureKey = (String, Arc<str>);

/// Services by key.
#[derive(Default, Clone)]
pub(crate) struct Table {
    /// Whether the source has answered since the start.
    pub(crate) complete: bool,
    pub(crate) services: BTreeMap<String, Entry>,
}

/// One service key.
#[derive(Clone)]
pub(crate) enum Entry {
    /// It can be called.
    Ready(Arc<ReadyService>),
    /// It is listed, but no version of its schema could be read so far.
    Unreadable(Arc<str>),
}

/// A service that can be called.
pub(crate) struct ReadyService {
    pub(crate) schema: Schema,
    pub(crate) channel: Channel,
}

impl ReadyService {
    /// The method of that exact name. The error says which there are.
    pub(crate) fn method(&self, name: &str) -> Result<&MethodSchema, Failure> {
        self.schema.method(name).ok_or_else(|| {
            let known = some_of(self.schema.methods.iter().map(|method| method.name.as_str()));
            let service = &self.schema.service.name;
            Failure::unknown_path(format!(
                "service `{service}` has no method `{name}`; it has: {known}"
            ))
        })
    }
}

struct FailedVersion {
    again_at: Instant,
    pause: Duration,
    error: SchemaError,
}

impl Catalog {
    pub(crate) fn new(source: Arc<dyn SchemaSource>, consumer: Consumer) -> Self {
        Catalog {
            source,
            consumer,
            table: ArcSwap::default(),
            failures: Mutex::default(),
            poke: Notify::new(),
        }
    }

    /// What is known now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The service that a path names. The error says what there is instead.
    pub(crate) fn find(&self, name: &str, implementation: &str) -> Result<Arc<ReadyService>, Failure> {
        let key = service_key(name, implementation);
        let table = self.table.load();
        let missing = match table.services.get(&key) {
            Some(Entry::Ready(service)) => return Ok(service.clone()),
            Some(Entry::Unreadable(reason)) => {
                let message =
                    format!("service `{key}` is registered, but its schema cannot be read: {reason}");
                Failure::new(Code::Unavailable, message)
            }
            None if !table.complete => {
                let message = "the adapter has not read the list of services yet; try again in a second";
                Failure::new(Code::Unavailable, message)
            }
            None => {
                let known = some_of(table.services.keys().map(String::as_str));
                Failure::unknown_path(format!(
                    "no service `{key}` is registered; there are: {known}. GET / lists all"
                ))
            }
        };
        // It may have appeared just now.
        self.poke.notify_one();
        Err(missing)
    }

    /// Keeps the table true until it is dropped.
    pub(crate) async fn follow(&self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(LEAST_PAUSE).await;
            let pause = REFRESH.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.source.changed() => {}
                () = self.poke.notified() => {}
            }
        }
    }

    /// One pass. A service that fails keeps its last good schema, and stops no other.
    async fn refresh(&self) {
        let services = match self.source.services().await {
            Ok(services) => services,
            Err(error) => {
                tracing::warn!(%error, "cannot read the list of services; the known ones stay");
                return;
            }
        };
        let mut passes = futures_util::stream::iter(services)
            .map(|key| async move {
                let entry = self.entry(&key).await;
                (key, entry)
            })
            .buffer_unordered(FETCHES);
        while let Some((key, entry)) = passes.next().await {
            if let Some(entry) = entry {
                self.publish(|table| {
                    table.services.insert(key, entry);
                });
            }
        }
        if !self.table.load().complete {
            self.publish(|table| table.complete = true);
        }
    }

    fn publish(&self, change: impl FnOnce(&mut Table)) {
        let mut table = (**self.table.load()).clone();
        change(&mut table);
        self.table.store(Arc::new(table));
    }

    /// A new entry for `key`; `None` where the present one is right.
    async fn entry(&self, key: &str) -> Option<Entry> {
        let versions = self.source.versions(key);
        let current = self.table.load().services.get(key).cloned();
        self.failures
            .lock()
            .retain(|(of, hash), _| of != key || versions.iter().any(|v| v.hash == *hash));
        for version in &versions {
            if let Some(Entry::Ready(ready)) = &current
                && ready.schema.hash == version.hash
            {
                return None;
            }
            match self.read(key, version).await {
                Some(Ok(ready)) => {
                    let methods = ready.schema.methods.len();
                    tracing::info!(service = key, hash = &*version.hash, methods, "schema in use");
                    return Some(Entry::Ready(Arc::new(ready)));
                }
                Some(Err(error)) => {
                    tracing::warn!(service = key, hash = &*version.hash, %error, "schema not readable")
                }
                None => {}
            }
        }
        match current {
            Some(Entry::Ready(_)) => None,
            _ => Some(Entry::Unreadable(self.why_unreadable(key).into())),
        }
    }

    /// Reads one version; `None` while its last failure is too recent to try again.
    async fn read(&self, key: &str, version: &SchemaVersion) -> Option<Result<ReadyService, SchemaError>> {
        let at = (key.to_owned(), version.hash.clone());
        let failed = self
            .failures
            .lock()
            .get(&at)
            .map(|failed| (failed.again_at, failed.pause));
        if failed.is_some_and(|(again_at, _)| Instant::now() < again_at) {
            return None;
        }
        let result = self.fetch(key, version).await;
        let mut failures = self.failures.lock();
        match &result {
            Ok(_) => {
                failures.remove(&at);
            }
            Err(error) => {
                let pause = failed.map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(LAST_RETRY));
                let again_at = Instant::now() + pause;
                failures.insert(
                    at,
                    FailedVersion {
                        again_at,
                        pause,
                        error: error.clone(),
                    },
                );
            }
        }
        Some(result)
    }

    async fn fetch(&self, key: &str, version: &SchemaVersion) -> Result<ReadyService, SchemaError> {
        let (name, implementation) = key.split_once(':').unwrap_or((key, ""));
        let bytes = self.source.fetch(key, version).await?;
        let from = format!("schema {}", version.hash);
        let (service, hash) = (name.to_owned(), version.hash.clone());
        // On a thread of its own: a large schema takes long, and one that makes the parser panic harms nobody else.
        let compiled =
            tokio::task::spawn_blocking(move || Schema::compile(&from, &service, hash, &bytes)).await;
        let schema = compiled.unwrap_or_else(|_| {
            let reason = "the schema's parser panicked on it".to_owned();
            Err(SchemaError::Invalid {
                from: format!("schema {}", version.hash),
                reason,
            })
        })?;
        let channel = self.consumer.channel(&schema.service, implementation);
        Ok(ReadyService { schema, channel })
    }

    fn why_unreadable(&self, key: &str) -> String {
        let failures = self.failures.lock();
        let reasons: Vec<_> = failures
            .iter()
            .filter(|((of, _), _)| of == key)
            .map(|(_, failed)| failed.error.to_string())
            .collect();
        if reasons.is_empty() {
            "no instance has published a schema yet".to_owned()
        } else {
            reasons.join("; ")
        }
    }
}

/// The first names of a list that may be long.
fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.collect();
    match names.len() {
        0 => "none".to_owned(),
        all if all > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
        _ => names.join(", "),
    }
}
