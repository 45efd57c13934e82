//! In-memory twins of the stores, whose failures the tests steer, and a console that stands on them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rsf_console::{Console, ConsoleClient, ConsoleSettings, Parts, Token};
use rsf_registry::lease::LiveLease;
use rsf_registry::record::{
    Acknowledgement, Lease, LeaseState, ListVersion, ListedInstance, PolicyRecord, ProvidedService, Removal,
    RemovalCause, ServiceList,
};
use rsf_registry::{
    Acknowledgements, Directory, Hint, LeaseSource, Observed, PolicyStore, PolicyWriter, StoreError, Sweep,
    Watch,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "test-token-0123456789";
pub(crate) const MEMBER: &str = "shop.v1.MemberService";

/// What the policy store does with the next writes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fault {
    None,
    /// Fails without having written.
    Before,
    /// Writes and then fails, as when the answer is lost.
    After,
    /// Understands and refuses.
    Refuse,
}

#[derive(Default)]
pub(crate) struct Twin {
    pub(crate) policies: Mutex<BTreeMap<String, PolicyRecord>>,
    pub(crate) fault: Mutex<Option<Fault>>,
    pub(crate) reads_fail: Mutex<bool>,
    pub(crate) writes: AtomicU32,
    pub(crate) acks: Mutex<HashMap<(String, String), Acknowledgement>>,
    pub(crate) lists: Mutex<BTreeMap<String, watch::Sender<Observed<ServiceList>>>>,
    pub(crate) leases: Mutex<Vec<Lease>>,
}

pub(crate) fn down() -> StoreError {
    StoreError::Unavailable {
        backend: "twin",
        address: "nowhere".to_owned(),
        reason: "switched off".to_owned(),
    }
}

impl Twin {
    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.fault.lock() = Some(fault);
        *self.reads_fail.lock() = fault == Fault::Before;
    }

    pub(crate) fn stored(&self, scope: &str) -> Option<PolicyRecord> {
        self.policies.lock().get(scope).cloned()
    }

    pub(crate) fn list(&self, service: &str, instances: Vec<ListedInstance>, removed: Vec<Removal>) {
        let list = ServiceList {
            service: service.to_owned(),
            version: Some(ListVersion {
                epoch: 3,
                sequence: 7,
            }),
            written_unix_ms: 1_700_000_000_000,
            instances,
            removed,
            hold: None,
        };
        self.lists
            .lock()
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Observed::Unknown))
            .send_replace(Observed::Present(Arc::new(list)));
    }

    pub(crate) fn acknowledges(&self, instance: &str, scope: &str, revision: u64, refusal: &str) {
        let acknowledgement = Acknowledgement {
            instance: instance.to_owned(),
            incarnation: 1,
            application: instance.split('/').next().unwrap_or_default().to_owned(),
            scope: scope.to_owned(),
            revision,
            refusal: refusal.to_owned(),
            at_unix_ms: 1_700_000_000_000,
        };
        self.acks
            .lock()
            .insert((scope.to_owned(), instance.to_owned()), acknowledgement);
    }
}

pub(crate) fn listed(id: &str, zone: &str, admin: &str) -> ListedInstance {
    ListedInstance {
        instance: id.to_owned(),
        incarnation: 1,
        application: id.split('/').next().unwrap_or_default().to_owned(),
        address: "127.0.0.1:1".to_owned(),
        admin_address: admin.to_owned(),
        zone: zone.to_owned(),
        weight: 100,
        state: LeaseState::Up as i32,
        ..ListedInstance::default()
    }
}

pub(crate) fn lease(id: &str, zone: &str, admin: &str, services: &[&str]) -> Lease {
    let provided = |name: &&str| ProvidedService {
        name: (*name).to_owned(),
        ..ProvidedService::default()
    };
    Lease {
        namespace: "test".to_owned(),
        application: id.split('/').next().unwrap_or_default().to_owned(),
        instance: id.to_owned(),
        incarnation: 1,
        address: if services.is_empty() {
            String::new()
        } else {
            "127.0.0.1:1".to_owned()
        },
        admin_address: admin.to_owned(),
        zone: zone.to_owned(),
        weight: 100,
        services: services.iter().map(provided).collect(),
        state: LeaseState::Up as i32,
        ..Lease::default()
    }
}

pub(crate) fn removal(id: &str, cause: RemovalCause) -> Removal {
    Removal {
        instance: id.to_owned(),
        incarnation: 1,
        cause: cause as i32,
        at_unix_ms: 1_700_000_000_000,
    }
}

#[async_trait]
impl PolicyStore for Twin {
    fn watch(&self, _: &str) -> Watch<PolicyRecord> {
        Watch::new(watch::channel(Observed::Unknown).1, None)
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        if *self.reads_fail.lock() {
            return Err(down());
        }
        Ok(self.policies.lock().values().cloned().collect())
    }
}

#[async_trait]
impl PolicyWriter for Twin {
    async fn publish(&self, record: &PolicyRecord) -> Result<(), StoreError> {
        let fault = self.fault.lock().unwrap_or(Fault::None);
        match fault {
            Fault::Before => return Err(down()),
            Fault::Refuse => {
                return Err(StoreError::Refused {
                    backend: "twin",
                    reason: "no permission".to_owned(),
                });
            }
            Fault::None | Fault::After => {}
        }
        // As over a network: the caller may be gone before the write, and before its answer. Several turns each, so
        // that a test that counts turns meets both, however many the database takes.
        turns().await;
        self.write(record)?;
        turns().await;
        if fault == Fault::After {
            Err(down())
        } else {
            Ok(())
        }
    }
}

async fn turns() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

impl Twin {
    fn write(&self, record: &PolicyRecord) -> Result<(), StoreError> {
        let mut policies = self.policies.lock();
        if let Some(stored) = policies.get(&record.scope) {
            let same = stored.revision == record.revision && stored.document == record.document;
            if stored.revision >= record.revision && !same {
                return Err(StoreError::Stale {
                    key: record.scope.clone(),
                    reason: format!("stored {}, offered {}", stored.revision, record.revision),
                });
            }
        }
        policies.insert(record.scope.clone(), record.clone());
        self.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Acknowledgements for Twin {
    async fn acknowledge(&self, all: &[Acknowledgement], _: Duration) -> Result<(), StoreError> {
        let mut acks = self.acks.lock();
        for one in all {
            acks.insert((one.scope.clone(), one.instance.clone()), one.clone());
        }
        Ok(())
    }

    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        if *self.reads_fail.lock() {
            return Err(down());
        }
        let acks = self.acks.lock();
        Ok(acks.values().filter(|ack| ack.scope == scope).cloned().collect())
    }
}

#[async_trait]
impl Directory for Twin {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        let mut lists = self.lists.lock();
        let sender = lists
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Observed::Absent));
        Watch::new(sender.subscribe(), None)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        if *self.reads_fail.lock() {
            return Err(down());
        }
        Ok(self.lists.lock().keys().cloned().collect())
    }
}

#[async_trait]
impl LeaseSource for Twin {
    fn name(&self) -> &str {
        "twin"
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        let live = |lease: &Lease| LiveLease {
            lease: lease.clone(),
            remaining: Duration::from_secs(15),
        };
        Ok(Sweep {
            source: "twin".to_owned(),
            leases: self.leases.lock().iter().map(live).collect(),
        })
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        Ok(instances.iter().map(|_| None).collect())
    }

    async fn hints(&self) -> Result<futures_util::stream::BoxStream<'static, Hint>, StoreError> {
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

/// A served console over a twin.
pub(crate) struct Served {
    pub(crate) twin: Arc<Twin>,
    pub(crate) address: SocketAddr,
    pub(crate) client: ConsoleClient,
    pub(crate) folder: Arc<tempfile::TempDir>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::over(Arc::default(), Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn over(twin: Arc<Twin>, folder: Arc<tempfile::TempDir>) -> Self {
        Self::with(twin, folder, true, 100).await
    }

    pub(crate) async fn with(
        twin: Arc<Twin>,
        folder: Arc<tempfile::TempDir>,
        leases: bool,
        scrape_ms: u64,
    ) -> Self {
        let settings = ConsoleSettings {
            namespace: Some("test".to_owned()),
            database: Some(folder.path().join("console.db")),
            reconcile_interval_ms: Some(100),
            scrape_interval_ms: Some(scrape_ms),
            ..ConsoleSettings::default()
        };
        let parts = Parts {
            policies: twin.clone(),
            acknowledgements: twin.clone(),
            directory: twin.clone(),
            leases: leases
                .then(|| twin.clone() as Arc<dyn LeaseSource>)
                .into_iter()
                .collect(),
            pump: None,
        };
        let token = Token::new(TOKEN).unwrap();
        let console = Console::new(settings.validate().unwrap(), token, parts)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { console.serve(listener, stop).await.unwrap() });
        let client = ConsoleClient::new(&format!("http://{address}"), TOKEN).unwrap();
        Served {
            twin,
            address,
            client,
            folder,
            shutdown,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Ends the console without letting it finish anything, as a kill does.
    pub(crate) async fn kill(self) -> (Arc<Twin>, Arc<tempfile::TempDir>) {
        self.task.abort();
        let _ = self.task.await;
        (self.twin, self.folder)
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) -> (Arc<Twin>, Arc<tempfile::TempDir>) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        (self.twin, self.folder)
    }
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let held = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(held.await.is_ok(), "never: {what}");
}
