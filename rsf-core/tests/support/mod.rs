//! The harness of the data path's tests: an echo service whose handler each test writes, providers that can be killed
//! and drained, and a consumer, over either wire.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program compiles the harness for itself and uses a part of it"
)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rsf_core::PolicyBook;
use rsf_core::call::Call;
use rsf_core::client::{Channel, Consumer, ConsumerParts};
use rsf_core::control::{ControlPlane, Instance, Scope, StaticControlPlane};
use rsf_core::message::{Request, Response};
use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
use rsf_core::metrics::Metrics;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::{Provider, ProviderBuilder, ProviderIdentity, Service, handle};
use rsf_core::status::Status;
use rsf_core::wire::http2::{Http2Wire, ServerOptions, serve};
use rsf_core::wire::in_process::{Bound, InProcessWire};
use rsf_core::wire::{Dispatch, Frame, Wire};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The service's name.
pub const ECHO: &str = "test.v1.Echo";
/// The idempotent method's place.
pub const GET: usize = 0;
/// The place of the method that must not run twice.
pub const PUT: usize = 1;
/// How long a test waits for something that must happen.
pub const SOON: Duration = Duration::from_secs(10);

/// The service's one message, in both directions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    #[prost(uint32, tag = "3")]
    pub number: u32,
}

pub fn note(text: &str) -> Note {
    Note {
        text: text.to_owned(),
        ..Note::default()
    }
}

pub fn number(number: u32) -> Note {
    Note {
        number,
        ..Note::default()
    }
}

/// The service as both sides know it.
pub fn descriptor() -> ServiceDescriptor {
    let method = |name, idempotent| MethodDescriptor {
        idempotent,
        ..MethodDescriptor::plain(ECHO, name)
    };
    ServiceDescriptor {
        name: ECHO.into(),
        methods: vec![method("Get", true), method("Put", false)].into(),
        schema: schema().into(),
    }
}

/// The encoded descriptor set, as generated code would carry it.
pub fn schema() -> Vec<u8> {
    use prost::Message as _;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
        ServiceDescriptorProto,
    };
    let field = |name: &str, number, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(kind as i32),
        ..FieldDescriptorProto::default()
    };
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.v1.Note".to_owned()),
        output_type: Some(".test.v1.Note".to_owned()),
        ..MethodDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/echo.proto".to_owned()),
        package: Some("test.v1".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("Note".to_owned()),
            field: vec![
                field("text", 1, Type::String),
                field("data", 2, Type::Bytes),
                field("number", 3, Type::Uint32),
            ],
            ..DescriptorProto::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Echo".to_owned()),
            method: vec![method("Get"), method("Put")],
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

type Handler =
    dyn Fn(usize, Request<Note>) -> BoxFuture<'static, Result<Response<Note>, Status>> + Send + Sync;

/// The echo service, hand-written as generated code would be, with the test's handler.
pub struct Echo {
    descriptor: ServiceDescriptor,
    handler: Box<Handler>,
    seen: Arc<Seen>,
}

/// What has happened in a service's handlers.
pub struct Seen {
    counts: watch::Sender<Counts>,
}

/// Handlers that began, that returned, and that were dropped before they returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub began: u32,
    pub ended: u32,
    pub dropped: u32,
}

impl Echo {
    /// Answers with the message and the metadata that came.
    pub fn plain() -> Arc<Echo> {
        Echo::with(|_, request| async move {
            let (message, metadata) = request.into_parts();
            Ok(Response::from_parts(message, metadata))
        })
    }

    /// Answers as `handler` does; it is told the method's place.
    pub fn with<F>(handler: impl Fn(usize, Request<Note>) -> F + Send + Sync + 'static) -> Arc<Echo>
    where
        F: Future<Output = Result<Response<Note>, Status>> + Send + 'static,
    {
        Arc::new(Echo {
            descriptor: descriptor(),
            handler: Box::new(move |method, request| handler(method, request).boxed()),
            seen: Arc::new(Seen {
                counts: watch::Sender::new(Counts::default()),
            }),
        })
    }

    /// Never answers.
    pub fn silent() -> Arc<Echo> {
        Echo::with(|_, _| std::future::pending())
    }

    /// Answers after a time.
    pub fn slow(time: Duration) -> Arc<Echo> {
        Echo::with(move |_, request| async move {
            tokio::time::sleep(time).await;
            Ok(Response::new(request.into_inner()))
        })
    }

    /// Fails each time.
    pub fn failing(status: Status) -> Arc<Echo> {
        Echo::with(move |_, _| std::future::ready(Err(status.clone())))
    }

    pub fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    pub fn counts(&self) -> Counts {
        self.seen.now()
    }
}

impl Seen {
    pub fn now(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&Counts) -> bool) {
        let mut counts = self.counts.subscribe();
        let reached = tokio::time::timeout(SOON, counts.wait_for(wanted)).await.is_ok();
        assert!(reached, "not in time: {what}; {:?}", self.now());
    }
}

impl Service for Echo {
    fn descriptor(&self) -> &ServiceDescriptor {
        &self.descriptor
    }

    fn call(
        self: Arc<Self>,
        method: usize,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<Frame>, Status>> {
        Box::pin(async move {
            struct Running<'a>(&'a Seen, bool);
            impl Drop for Running<'_> {
                fn drop(&mut self) {
                    self.0.counts.send_modify(|counts| match self.1 {
                        true => counts.ended += 1,
                        false => counts.dropped += 1,
                    });
                }
            }
            let echo = &*self;
            let respond = |request: Request<Note>| async move {
                echo.seen.counts.send_modify(|counts| counts.began += 1);
                let mut running = Running(&echo.seen, false);
                let result = (echo.handler)(method, request).await;
                running.1 = true;
                result
            };
            handle(request, respond).await
        })
    }
}

/// Which wire a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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

    /// Starts a provider without listing it.
    pub fn start(&self, builder: ProviderBuilder, change: impl FnOnce(&mut Instance)) -> Node {
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let listening = (self.kind == Kind::Http2).then(Listening::new);
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
        };
        let provider = builder.build(identity, &metrics, &policies).unwrap();
        let mut node = Node {
            instance,
            provider,
            registry,
            _policies: policies,
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
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let consumer = Consumer::new(ConsumerParts {
            application: "tester".to_owned(),
            namespace: "test".to_owned(),
            runtime: self.runtime.clone(),
            wire: self.wire(),
            control: self.control.clone(),
            policies: self.book(&metrics),
            metrics: metrics.clone(),
        });
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

    /// Waits until the policy of `Get` is as wanted.
    pub async fn governed(&self, wanted: impl Fn(&rsf_core::policy::MethodPolicy) -> bool) {
        let governed = || self.channel.view().policies.get("Get").is_some_and(&wanted);
        eventually("the policy is in force", governed).await;
    }
}

/// The value of a counter, summed over all its labels that contain `label`.
pub fn counted(registry: &prometheus::Registry, name: &str, label: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let fits = |metric: &&prometheus::proto::Metric| {
        label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
    };
    let sum: f64 = metrics
        .iter()
        .filter(fits)
        .map(|metric| {
            metric.get_counter().get_value()
                + metric.get_gauge().get_value()
                + metric.get_histogram().get_sample_count() as f64
        })
        .sum();
    sum as u64
}

/// Looks until `condition` holds; fails when it does not in time.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(SOON, looking).await.is_ok(),
        "not in time: {what}"
    );
}

/// A providing process.
pub struct Node {
    pub instance: Instance,
    pub provider: Arc<Provider>,
    pub registry: prometheus::Registry,
    _policies: Arc<PolicyBook>,
    fleet_wire: InProcessWire,
    running: Option<Running>,
}

enum Running {
    InProcess(Bound),
    Http2 {
        drain: CancellationToken,
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
            Some(listening) => listening.serve(dispatch),
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
    fn serve(self, dispatch: Arc<dyn Dispatch>) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let drain = CancellationToken::new();
        let stop = drain.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(self.socket).unwrap();
            serve(listener, dispatch, ServerOptions::default(), stop).await;
        });
        Running::Http2 {
            drain,
            runtime: Some(runtime),
        }
    }
}
