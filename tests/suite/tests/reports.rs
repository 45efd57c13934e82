//! Rule R with what real consumers report, over an embedded registry whose pump does not ask the instances themselves.
//!
//! Each case has its control: the same with a pump that reads no reports.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test has nothing better to do with an error"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rsf::{Application, Settings};
use rsf_pump::{ConsumerReports, Pump, PumpHandle, PumpSettings};
use rsf_registry::embedded::{EmbeddedRegistry, EmbeddedStore, serve_guarded};
use rsf_registry::record::{Lease, PolicyRecord, ServiceList};
use rsf_registry::{
    Backend, ControlBackend, Directory, LeaseStore, Observed, PolicyWriter, Renewal, StoreError, Watch,
};
use rsf_suite::{PROBE, ProbeClient, ProbeRequest, ProbeServer, Prober, SOON};
use rsf_testkit::{Process, Program, TempDir, eventually};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const NAMESPACE: &str = "reports";
const TOKEN: &str = "secret";
const LEASE_TTL: Duration = Duration::from_secs(3);
/// An implementation of the same service that stays well in every case.
const STABLE: &str = "stable";

struct Site {
    _store: Arc<EmbeddedStore>,
    address: String,
    pump: PumpHandle,
    list: Watch<ServiceList>,
    folder: TempDir,
    end: CancellationToken,
}

impl Site {
    /// A registry and its pump, which makes no probes.
    async fn start(settings: PumpSettings) -> Site {
        let folder = TempDir::new("reports");
        let store = EmbeddedStore::open(&folder.join("registry"), &[NAMESPACE]).await;
        let store = Arc::new(store.unwrap());
        let namespace = store.namespace(NAMESPACE).unwrap();
        for (revision, service) in [(1, PROBE.to_owned()), (2, format!("{PROBE}:{STABLE}"))] {
            let document = r#"{"call":{"balance":"round_robin","timeout_ms":1000,"connections":{"floor":20,"max_pause_ms":500}}}"#;
            let record = PolicyRecord {
                scope: format!("service/{service}"),
                revision,
                document: document.into(),
                ..PolicyRecord::default()
            };
            namespace.publish(&record).await.unwrap();
        }
        let end = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(serve_guarded(listener, store.clone(), TOKEN, end.clone()));

        let control = ControlBackend::from(namespace.clone());
        let settings = PumpSettings {
            lease_ttl_ms: LEASE_TTL.as_millis() as u64,
            sweep_ms: 500,
            probe: false,
            probe_interval_ms: 1_500,
            ..settings
        };
        let metrics = prometheus::Registry::new();
        let config = settings.validate().unwrap();
        let pump = Pump::new(control.lease_sources, control.directory, config, &metrics).unwrap();
        let reports = ConsumerReports::new(control.reports, &metrics).unwrap();
        let pump = pump.with_evidence(Arc::new(reports));
        let handle = pump.handle();
        tokio::spawn(pump.run(end.clone()));
        Site {
            list: Directory::watch(&namespace, PROBE),
            _store: store,
            address,
            pump: handle,
            folder,
            end,
        }
    }

    fn url(&self) -> String {
        format!("rsf://{TOKEN}@{}", self.address)
    }

    fn settings(&self, name: &str) -> Settings {
        Settings {
            registry: Some(self.url()),
            namespace: Some(NAMESPACE.to_owned()),
            instance: Some(name.to_owned()),
            state: Some(self.folder.join(format!("state-{name}"))),
            lease_ttl_ms: Some(LEASE_TTL.as_millis() as u64),
            ..Settings::default()
        }
    }

    /// The registry as instances have it whose leases can be cut off from it.
    fn mortal(&self, cut: &Arc<AtomicBool>) -> Backend {
        let registry = EmbeddedRegistry::with_token(&self.address, NAMESPACE, Some(TOKEN)).unwrap();
        let backend = Backend::from(registry);
        let leases = Cut {
            store: backend.leases.clone(),
            cut: cut.clone(),
        };
        Backend {
            leases: Arc::new(leases),
            ..backend
        }
    }

    /// How many instances of the service the pump lists.
    fn listed(&self) -> usize {
        match self.list.current() {
            Observed::Present(list) => list.instances.len(),
            Observed::Absent | Observed::Unknown => 0,
        }
    }

    async fn lists(&self, count: usize) {
        eventually(SOON, async || match self.listed() {
            listed if listed == count => Ok(()),
            listed => Err(format!("{listed} of {count} are listed")),
        })
        .await;
    }

    /// How often the pump was told so by consumers.
    fn told(&self, finding: &str) -> u64 {
        let counters = &self.pump.status().counters;
        counters.evidence.get("reports").map_or(0, |said| said[finding])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// A way to the registry for leases, which can be cut.
struct Cut {
    store: Arc<dyn LeaseStore>,
    cut: Arc<AtomicBool>,
}

impl Cut {
    fn check(&self, instance: &str) -> Result<(), StoreError> {
        match self.cut.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable {
                backend: "registry",
                address: instance.to_owned(),
                reason: "cut off".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl LeaseStore for Cut {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.check(&lease.instance)?;
        self.store.put(lease, ttl).await
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        self.check(instance)?;
        self.store.renew(instance, incarnation, ttl).await
    }
}

/// A consumer that calls all the time.
struct Consumer {
    _application: Application,
    _calls: AbortOnDropHandle<()>,
}

impl Consumer {
    /// Begins to call these implementations, and returns when all their instances have answered it.
    async fn start(site: &Site, name: &str, implementations: &[(&'static str, usize)]) -> Consumer {
        let application = Application::builder(name).settings(site.settings(name));
        let application = application.start().await.unwrap();
        let client = application.client::<ProbeClient>();
        let clients: Vec<ProbeClient> = implementations
            .iter()
            .map(|(implementation, _)| client.implementation(implementation))
            .collect();
        let calls = tokio::spawn(async move {
            loop {
                for client in &clients {
                    // Some fail while instances die; what counts is who answered.
                    let _ = client.echo(ProbeRequest::default()).await;
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        for (implementation, instances) in implementations {
            let channel = application
                .channel_for(PROBE, "Echo")
                .implementation(implementation);
            eventually(SOON, async || {
                let views = channel.view().instances;
                let connected = views.iter().filter(|view| view.connected).count();
                match connected {
                    connected if connected == *instances => Ok(()),
                    connected => Err(format!("{connected} of {instances} are connected")),
                }
            })
            .await;
        }
        // In turn, so that by then each has answered.
        for (implementation, instances) in implementations {
            let client = client.implementation(implementation);
            for _ in 0..instances * 3 {
                client.echo(ProbeRequest::default()).await.unwrap();
            }
        }
        Consumer {
            _application: application,
            _calls: AbortOnDropHandle::new(calls),
        }
    }
}

/// Six providers lose the registry and serve on; how many of them were listed at least until the hold's time was long over.
async fn cut_off(reports: bool) -> (Site, usize, Arc<AtomicBool>, Vec<Application>) {
    let site = Site::start(PumpSettings {
        reports,
        shrink_window_ms: 1_000,
        shrink_hold_ms: 8_000,
        ..PumpSettings::default()
    })
    .await;
    let cut = Arc::new(AtomicBool::new(false));
    let mut providers = Vec::new();
    for number in 0..6 {
        let builder = Application::builder("probe").settings(site.settings(&number.to_string()));
        let builder = builder.registry(site.mortal(&cut));
        let builder = builder.service(ProbeServer::new(Prober::default()));
        providers.push(builder.start().await.unwrap());
    }
    site.lists(6).await;
    let consumer = Consumer::start(&site, "customers", &[("", 6)]).await;

    cut.store(true, Ordering::Relaxed);
    let (begun, mut least) = (Instant::now(), 6);
    while begun.elapsed() < LEASE_TTL + Duration::from_secs(8 + 6) {
        least = least.min(site.listed());
        sleep(Duration::from_millis(20)).await;
    }
    drop(consumer);
    (site, least, cut, providers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_lasts_while_a_consumer_is_answered() {
    let (site, least, cut, providers) = cut_off(true).await;
    let status = site.pump.status();
    assert!(
        least >= 3,
        "half of six stay listed: {least}; {:?}",
        status.counters
    );
    assert!(site.told("answers") > 0 && site.told("gone") == 0);
    assert_eq!(status.counters.holds, 1);
    // The registry is there again.
    cut.store(false, Ordering::Relaxed);
    site.lists(6).await;
    drop(providers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_reports_the_same_hold_ends_by_time() {
    let (site, least, _cut, _providers) = cut_off(false).await;
    assert!(least < 3, "{least}");
    assert_eq!(site.told("answers"), 0);
}

/// Five of eight providers are killed while two consumers call them; how long they stayed listed, if they left within the
/// time in which rule R lets two of them go.
async fn killed(reports: bool) -> (Site, Option<Duration>) {
    let site = Site::start(PumpSettings {
        reports,
        shrink_window_ms: 10_000,
        shrink_hold_ms: 60_000,
        ..PumpSettings::default()
    })
    .await;
    let mut providers: Vec<Process> = Vec::new();
    for number in 0..8 {
        let program = Program::workspace("suite-provider")
            .name(format!("provider-{number}"))
            .env("RSF_REGISTRY", site.url())
            .env("RSF_NAMESPACE", NAMESPACE)
            .env("RSF_INSTANCE", number.to_string())
            .env("RSF_STATE", site.folder.join(format!("state-{number}")))
            .env("RSF_LEASE_TTL_MS", LEASE_TTL.as_millis().to_string());
        let provider = program.start();
        provider.line(" serves on ", SOON).await;
        providers.push(provider);
    }
    let mut stable = Vec::new();
    for number in 0..5 {
        let builder = Application::builder("stable").settings(site.settings(&format!("stable-{number}")));
        let builder = builder.implementation(STABLE, ProbeServer::new(Prober::default()));
        stable.push(builder.start().await.unwrap());
    }
    site.lists(8).await;
    let all = [("", 8), (STABLE, 5)];
    let _consumers = [
        Consumer::start(&site, "customers-1", &all).await,
        Consumer::start(&site, "customers-2", &all).await,
    ];

    for provider in &providers[..5] {
        provider.kill9().await;
    }
    let begun = Instant::now();
    let gone = timeout(Duration::from_secs(20), async {
        while site.listed() > 3 {
            sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    });
    let gone = gone.await.ok();
    (site, gone)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_that_are_refused_end_a_hold() {
    let (site, gone) = killed(true).await;
    assert!(
        gone.is_some(),
        "{} are listed; {:?}",
        site.listed(),
        site.pump.status().counters
    );
    assert!(site.told("gone") > 0);
    assert_eq!(site.listed(), 3, "and nobody who lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_reports_the_killed_stay_for_as_long_as_the_hold_says() {
    let (site, gone) = killed(false).await;
    assert_eq!(gone, None);
    assert!(site.listed() >= 5, "{}", site.listed());
}
