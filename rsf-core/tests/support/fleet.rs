//! Providers and consumers on one wire and one control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rsf_core::PolicyBook;
use rsf_core::call::Call;
use rsf_core::client::{Channel, Consumer, ConsumerParts};
use rsf_core::control::{ControlPlane, Instance, Scope, StaticControlPlane};
use rsf_core::message::Request;
use rsf_core::metrics::Metrics;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::{Provider, ProviderBuilder, ProviderIdentity, Service};
use rsf_core::wire::http2::{Http2Wire, ServerOptions, serve};
use rsf_core::wire::in_process::{Bound, InProcessWire};
use rsf_core::wire::{Dispatch, Wire};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ECHO, GET, Note, PUT, SOON, descriptor, eventually};

/// Which wire a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RSF's own engine, at both ends or at one.
    Engine,
    EngineToHttp2,
    Http2ToEngine,
    Http2,
    InProcess,
}

/// Providers and consumers that share a control plane and a wire.
pub struct Fleet {
    pub kind: Kind,
    pub runtime: IoRuntime,
    pub control: Arc<StaticControlPlane>,
    /// A wire of the test's own, for what the usual ones cannot do.
    pub other_wire: Option<Arc<dyn Wire>>,
    in_process: InProcessWire,
    listed: Mutex<Vec<Instance>>,
    next: AtomicU32,
}

impl Fleet {
    /// On a runtime of its own with two threads.
    pub fn new(kind: Kind) -> Fleet {
        Fleet::on(kind, IoRuntime::start(2).unwrap())
    }

    /// In this process and on the test's own runtime, so that the test owns the time.
    pub fn in_test() -> Fleet {
        Fleet::on(
            Kind::InProcess,
            IoRuntime::shared(tokio::runtime::Handle::current()),
        )
    }

    pub fn on(kind: Kind, runtime: IoRuntime) -> Fleet {
        // What is written for hyper's wire must hold for the engine: `RSF_TEST_WIRE=engine` runs it there.
        let kind = match std::env::var("RSF_TEST_WIRE") {
            Ok(wire) if wire == "engine" && kind == Kind::Http2 => Kind::Engine,
            _ => kind,
        };
        Fleet {
            kind,
            runtime,
            control: Arc::new(StaticControlPlane::new()),
            other_wire: None,
            in_process: InProcessWire::new(),
            listed: Mutex::default(),
            next: AtomicU32::new(1),
        }
    }

    pub fn wire(&self) -> Arc<dyn Wire> {
        if let Some(wire) = &self.other_wire {
            return wire.clone();
        }
        match self.kind {
            Kind::Http2 => Arc::new(Http2Wire::new()),
            Kind::InProcess => Arc::new(self.in_process.clone()),
            Kind::Engine | Kind::EngineToHttp2 => Arc::new(rsf_core::wire::engine::EngineWire::new()),
            Kind::Http2ToEngine => Arc::new(Http2Wire::new()),
        }
    }

    /// Starts a provider of `service` and lists it.
    pub fn provide(&self, service: Arc<dyn Service>) -> Node {
        self.provide_as(|_| {}, service)
    }

    /// Starts a provider of `service` and lists it with changes.
    pub fn provide_as(&self, change: impl FnOnce(&mut Instance), service: Arc<dyn Service>) -> Node {
        let node = self.start(Provider::builder().service("", service), change);
        self.list(|instances| instances.push(node.instance.clone()));
        node
    }

    /// Starts a provider of what `builder` has and lists it.
    pub fn provide_built(&self, builder: ProviderBuilder) -> Node {
        let node = self.start(builder, |_| {});
        self.list(|instances| instances.push(node.instance.clone()));
        node
    }

    /// Starts a provider without listing it.
    pub fn start(&self, builder: ProviderBuilder, change: impl FnOnce(&mut Instance)) -> Node {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let listening = (self.kind != Kind::InProcess).then(Listening::new);
        let address = match &listening {
            Some(listening) => listening.address.clone(),
            None => format!("node-{place}:1"),
        };
        let mut instance = Instance {
            id: format!("echo/{place}").into(),
            ..Instance::at("echo", &address)
        };
        change(&mut instance);
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let policies = self.book(&metrics);
        let identity = ProviderIdentity {
            application: instance.application.to_string(),
            target: (instance.incarnation != 0).then(|| format!("test/{}", instance.id)),
            zone: instance.zone.to_string(),
            tags: instance.tags.clone(),
        };
        let provider = builder.build(identity, &metrics, &policies).unwrap();
        let mut node = Node {
            instance,
            provider,
            registry,
            _policies: policies,
            kind: self.kind,
            fleet_wire: self.in_process.clone(),
            running: None,
        };
        node.run(listening);
        node
    }

    /// Changes the list of instances.
    pub fn list(&self, change: impl FnOnce(&mut Vec<Instance>)) {
        let mut listed = self.listed.lock();
        change(&mut listed);
        self.control.set_instances(ECHO, listed.clone());
    }

    pub fn consumer(&self) -> Peer {
        self.consumer_as(|_| {})
    }

    /// A consumer with a name of its own, in a zone.
    pub fn consumer_in(&self, instance: &str, zone: &str) -> Peer {
        self.consumer_as(|parts| {
            parts.instance = instance.to_owned();
            parts.zone = zone.to_owned();
        })
    }

    /// A consumer with changes.
    pub fn consumer_as(&self, change: impl FnOnce(&mut ConsumerParts)) -> Peer {
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let mut parts = ConsumerParts {
            application: "tester".to_owned(),
            namespace: "test".to_owned(),
            zone: String::new(),
            instance: String::new(),
            runtime: self.runtime.clone(),
            wire: self.wire(),
            control: self.control.clone(),
            policies: self.book(&metrics),
            token: Default::default(),
            interceptors: Default::default(),
            metrics: metrics.clone(),
            balancers: Default::default(),
        };
        change(&mut parts);
        let consumer = Consumer::new(parts);
        Peer {
            channel: consumer.channel(&descriptor(), ""),
            consumer,
            metrics,
            registry,
        }
    }

    fn book(&self, metrics: &Metrics) -> Arc<PolicyBook> {
        let control: Arc<dyn ControlPlane> = self.control.clone();
        PolicyBook::new(control, self.runtime.clone(), metrics.policies_refused.clone())
    }

    pub fn policy(&self, scope: &str, revision: u64, document: &str) {
        let scope: Scope = scope.parse().unwrap();
        self.control.set_policy(&scope, revision, document);
    }

    /// Publishes a policy of the echo service that must be good.
    pub fn service_policy(&self, revision: u64, document: &str) {
        self.policy(&format!("service/{ECHO}"), revision, document);
    }

    /// Publishes a policy of the echo service that sets something for `Get`, and waits until `peer` goes by it.
    pub async fn govern(&self, peer: &Peer, revision: u64, document: &str) {
        self.service_policy(revision, document);
        peer.governed_by(revision).await;
    }

    pub fn acknowledged(&self, scope: &str) -> Option<(u64, Option<String>)> {
        self.control.acknowledged(&scope.parse().unwrap())
    }
}

/// A consuming process.
pub struct Peer {
    pub consumer: Consumer,
    pub channel: Channel,
    pub metrics: Arc<Metrics>,
    pub registry: prometheus::Registry,
}

impl Peer {
    pub fn get(&self, message: Note) -> Call<Note> {
        self.channel.call(GET, Request::new(message))
    }

    pub fn put(&self, message: Note) -> Call<Note> {
        self.channel.call(PUT, Request::new(message))
    }

    /// Waits until so many instances are listed and connected.
    pub async fn connected(&self, count: usize) {
        let all = || {
            let view = self.channel.view();
            view.instances.len() == count && view.instances.iter().all(|instance| instance.connected)
        };
        eventually("all instances are connected", all).await;
    }

    /// Waits until `Get` is governed by that revision of the echo service's policy.
    pub async fn governed_by(&self, revision: u64) {
        let origin = format!("service/{ECHO}@{revision}");
        self.governed(|policy| policy.origins.values().any(|by| **by == *origin))
            .await;
    }

    /// Waits until the policy of `Get` is as wanted.
    pub async fn governed(&self, wanted: impl Fn(&rsf_core::policy::MethodPolicy) -> bool) {
        let governed = || self.channel.view().policies.get("Get").is_some_and(&wanted);
        eventually("the policy is in force", governed).await;
    }
}

/// A providing process.
pub struct Node {
    pub instance: Instance,
    pub provider: Arc<Provider>,
    pub registry: prometheus::Registry,
    _policies: Arc<PolicyBook>,
    kind: Kind,
    fleet_wire: InProcessWire,
    running: Option<Running>,
}

enum Running {
    InProcess(Bound),
    Http2 {
        drain: CancellationToken,
        /// Ends when it has drained.
        serving: JoinHandle<()>,
        runtime: Option<tokio::runtime::Runtime>,
    },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Running::Http2 { runtime, .. } = self {
            let runtime = runtime.take().unwrap();
            // Returns when every socket is closed. On a thread of its own, because a test's may not be blocked.
            std::thread::spawn(move || runtime.shutdown_timeout(SOON))
                .join()
                .unwrap();
        }
    }
}

impl Node {
    pub fn address(&self) -> &str {
        &self.instance.address
    }

    /// Sudden death: connections break, nothing listens any more.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Graceful end.
    pub fn drain(&self) {
        match self.running.as_ref().unwrap() {
            Running::InProcess(bound) => bound.drain(),
            Running::Http2 { drain, .. } => drain.cancel(),
        }
    }

    /// Graceful end over HTTP/2; returns when the last call has ended.
    pub async fn drained(&mut self) {
        self.drain();
        let Some(Running::Http2 { serving, .. }) = &mut self.running else {
            panic!("only a server over HTTP/2 says when it has drained");
        };
        let ended = tokio::time::timeout(SOON, serving).await;
        assert!(ended.is_ok(), "its calls end in time");
        ended.unwrap().unwrap();
    }

    /// Comes back at the same address.
    pub fn restart(&mut self) {
        let in_process = self.address().starts_with("node-");
        self.kill();
        self.run((!in_process).then(|| Listening::at(self.address())));
    }

    fn run(&mut self, listening: Option<Listening>) {
        let dispatch: Arc<dyn Dispatch> = self.provider.clone();
        self.running = Some(match listening {
            None => Running::InProcess(self.fleet_wire.bind(self.address(), dispatch)),
            Some(listening) => listening.serve(self.kind, dispatch),
        });
    }
}

/// A port that listens already, so that the first connection finds it.
struct Listening {
    socket: std::net::TcpListener,
    address: String,
}

impl Listening {
    fn new() -> Listening {
        Listening::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Listening {
        // By way of tokio, which sets SO_REUSEADDR: connections of the earlier life may linger.
        let runtime = IoRuntime::start(1).unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        let socket = std::thread::spawn(move || {
            runtime
                .handle()
                .block_on(async { TcpListener::bind(address).await.unwrap().into_std().unwrap() })
        });
        let socket = socket.join().unwrap();
        let address = socket.local_addr().unwrap().to_string();
        Listening { socket, address }
    }

    /// On a runtime of its own: dropping it is the death of the process.
    fn serve(self, kind: Kind, dispatch: Arc<dyn Dispatch>) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let drain = CancellationToken::new();
        let stop = drain.clone();
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(self.socket).unwrap();
            let options = ServerOptions::default();
            match kind {
                Kind::Engine | Kind::Http2ToEngine => {
                    rsf_core::wire::engine::serve(listener, dispatch, options, stop).await;
                }
                _ => serve(listener, dispatch, options, stop).await,
            }
        });
        Running::Http2 {
            drain,
            serving,
            runtime: Some(runtime),
        }
    }
}
