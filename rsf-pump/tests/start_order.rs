//! Whatever starts first: consumer and provider come to work by themselves, and say once what they miss.

#![allow(clippy::expect_used, reason = "a test's steps may not fail")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::Registry;
use rsf_core::control::{ControlPlane, Discovery};
use rsf_pump::{Pump, PumpSettings};
use rsf_registry::backend::ControlBackend;
use rsf_registry::embedded::{EmbeddedRegistry, EmbeddedStore, serve};
use rsf_registry::record::ProvidedService;
use rsf_registry::{AgentOptions, Backend, Registration, RegistrationRequest, RegistryAgent, RegistryUrl};
use rsf_testkit::{RedisServer, TempDir, ZooKeeper};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

const SERVICE: &str = "shop.v1.MemberService";
const TTL: Duration = Duration::from_secs(3);
/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a part is missed: several times the longest pause between two attempts.
const MISSED: Duration = Duration::from_secs(7);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Consumer,
    Provider,
    Pump,
    Redis,
    ZooKeeper,
}

/// What runs of one site.
#[derive(Default)]
struct Running {
    consumer: Option<(RegistryAgent, watch::Receiver<Discovery>)>,
    provider: Option<(RegistryAgent, Registration)>,
    pump: Option<AbortOnDropHandle<()>>,
}

impl Running {
    fn consume(&mut self, backend: Backend, namespace: &str) {
        let agent = RegistryAgent::new(backend, options(namespace)).expect("an agent");
        let instances = agent.instances(SERVICE);
        self.consumer = Some((agent, instances));
    }

    fn provide(&mut self, backend: Backend, namespace: &str) {
        let agent = RegistryAgent::new(backend, options(namespace)).expect("an agent");
        let request = RegistrationRequest {
            application: "member".into(),
            address: "127.0.0.1:7001".into(),
            services: vec![ProvidedService {
                name: SERVICE.into(),
                ..ProvidedService::default()
            }],
            ..RegistrationRequest::default()
        };
        let registration = agent.register(request).expect("a good request");
        self.provider = Some((agent, registration));
    }

    fn fold(&mut self, control: ControlBackend) {
        let settings = PumpSettings {
            lease_ttl_ms: 3_000,
            sweep_ms: 500,
            coalesce_ms: 100,
            ..PumpSettings::default()
        };
        let config = settings.validate().expect("valid");
        let pump = Pump::new(control.lease_sources, control.directory, config, &Registry::new());
        let pump = pump.expect("a fresh registry");
        self.pump = Some(AbortOnDropHandle::new(tokio::spawn(
            pump.run(CancellationToken::new()),
        )));
    }

    /// Waits until the consumer and the provider, as far as they run, have said that something is missing.
    async fn misses(&mut self, directory: bool, leases: bool) {
        if let (Some((_, instances)), true) = (&mut self.consumer, directory) {
            let not_ready = |state: &Discovery| matches!(state, Discovery::NotReady { .. });
            told(instances, "the consumer is not ready", not_ready).await;
        }
        if let (Some((_, registration)), true) = (&self.provider, leases) {
            let mut status = registration.status();
            told(&mut status, "the provider cannot register", |status| {
                status.last_error.is_some()
            })
            .await;
        }
    }

    /// Waits until the consumer has the provider.
    async fn works(&mut self, order: &str) {
        let (_, registration) = self.provider.as_ref().expect("it was started");
        let mut status = registration.status();
        told(&mut status, &format!("{order}: registered"), |status| {
            status.registered
        })
        .await;
        let (_, instances) = self.consumer.as_mut().expect("it was started");
        let one = |state: &Discovery| matches!(state, Discovery::Ready(list) if list.instances.len() == 1);
        told(instances, &format!("{order}: the consumer has the provider"), one).await;
    }
}

fn options(namespace: &str) -> AgentOptions {
    AgentOptions {
        lease_ttl: TTL,
        ..AgentOptions::new(namespace, "a test")
    }
}

async fn told<T: Debug>(receiver: &mut watch::Receiver<T>, what: &str, wanted: impl FnMut(&T) -> bool) {
    let waited = timeout(PATIENCE, receiver.wait_for(wanted))
        .await
        .map(|seen| seen.is_ok());
    assert_eq!(waited, Ok(true), "never: {what}; last {:?}", receiver.borrow());
}

/// Two stores that are down at first.
struct Stores {
    redis: RedisServer,
    zookeeper: ZooKeeper,
    url: RegistryUrl,
}

impl Stores {
    async fn down() -> Stores {
        let (redis, zookeeper) = tokio::join!(RedisServer::start(), ZooKeeper::start());
        let url = format!("{},{}", redis.url(), zookeeper.url())
            .parse()
            .expect("a registry");
        let stores = Stores {
            redis,
            zookeeper,
            url,
        };
        stores.kill().await;
        stores
    }

    async fn kill(&self) {
        tokio::join!(self.redis.kill9(), self.zookeeper.kill9());
    }

    /// Starts the parts one after the other, each when those before it have noticed what is missing.
    async fn in_order(&mut self, namespace: &str, order: &[Part]) -> Running {
        let (mut running, mut up) = (Running::default(), Vec::new());
        for part in order {
            let backend = || Backend::open(&self.url, namespace).expect("a backend");
            match part {
                Part::Consumer => running.consume(backend(), namespace),
                Part::Provider => running.provide(backend(), namespace),
                Part::Pump => running.fold(ControlBackend::open(&self.url, namespace).expect("a backend")),
                Part::Redis => self.redis.restart().await,
                Part::ZooKeeper => self.zookeeper.restart().await,
            }
            up.push(*part);
            let (directory, leases) = (!up.contains(&Part::ZooKeeper), !up.contains(&Part::Redis));
            running.misses(directory, leases).await;
        }
        running
    }
}

/// A test for each order, with stores of its own.
macro_rules! orders {
    ($($name:ident: $($part:ident),*;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let order = [$(Part::$part),*];
            let mut stores = Stores::down().await;
            let mut running = stores.in_order("order", &order).await;
            running.works(&format!("{order:?}")).await;
        }
    )*};
}

orders! {
    consumer_provider_redis_zookeeper_pump: Consumer, Provider, Redis, ZooKeeper, Pump;
    consumer_provider_redis_pump_zookeeper: Consumer, Provider, Redis, Pump, ZooKeeper;
    consumer_provider_zookeeper_redis_pump: Consumer, Provider, ZooKeeper, Redis, Pump;
    consumer_provider_zookeeper_pump_redis: Consumer, Provider, ZooKeeper, Pump, Redis;
    consumer_provider_pump_redis_zookeeper: Consumer, Provider, Pump, Redis, ZooKeeper;
    consumer_provider_pump_zookeeper_redis: Consumer, Provider, Pump, ZooKeeper, Redis;
    provider_redis_consumer_zookeeper_pump: Provider, Redis, Consumer, ZooKeeper, Pump;
    provider_pump_consumer_redis_zookeeper: Provider, Pump, Consumer, Redis, ZooKeeper;
    provider_zookeeper_pump_consumer_redis: Provider, ZooKeeper, Pump, Consumer, Redis;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_or_provider_before_an_embedded_registry() {
    for consumer_first in [true, false] {
        let folder = TempDir::new("start-order");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        // It accepts, by its backlog, and says nothing yet.
        let client =
            || Backend::from(EmbeddedRegistry::new(&address.to_string(), "default").expect("a client"));
        let mut running = Running::default();
        match consumer_first {
            true => {
                running.consume(client(), "default");
                running.misses(true, false).await;
                running.provide(client(), "default");
            }
            false => {
                running.provide(client(), "default");
                running.misses(false, true).await;
                running.consume(client(), "default");
            }
        }
        running.misses(true, true).await;
        let store = EmbeddedStore::open(&folder.join("registry"), &["default"]).await;
        let store = Arc::new(store.expect("a file"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, store.clone(), stop.clone()));
        running.fold(ControlBackend::from(store.namespace("default").expect("served")));
        running
            .works(&format!("embedded, consumer first: {consumer_first}"))
            .await;
        drop(running);
        stop.cancel();
        let _ended = serving.await.expect("it does not panic");
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_once_and_not_each_second() {
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).expect("the only one of this process");
    let mut stores = Stores::down().await;
    let mut running = stores.in_order("once", &[Part::Consumer, Part::Provider]).await;
    sleep(MISSED).await;
    let said = heard.0.lock().clone();
    let names = |store: &str| said.iter().any(|(_, line)| line.contains(store));
    assert!(
        names(&stores.zookeeper.address().to_string()) && names(&stores.redis.address().to_string()),
        "both are named: {said:#?}"
    );
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    said.iter()
        .for_each(|(place, _)| *times.entry(place).or_default() += 1);
    // Two processes, so twice at most.
    assert!(times.values().all(|times| *times <= 2), "{said:#?}");
    stores.redis.restart().await;
    stores.zookeeper.restart().await;
    running.fold(ControlBackend::open(&stores.url, "once").expect("a backend"));
    running.works("and then it works").await;
}

/// Each warning: where it was given, and its text.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<(&'static str, String)>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().push((event.metadata().name(), line.0));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
