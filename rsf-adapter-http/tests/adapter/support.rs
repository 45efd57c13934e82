//! A provider, a directory that tests write, and an adapter between them and an HTTP client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use rsf_adapter_http::{Adapter, AdapterSettings, DirectorySchemas};
use rsf_core::PolicyBook;
use rsf_core::client::{Consumer, ConsumerParts};
use rsf_core::context::Context;
use rsf_core::control::{Instance, StaticControlPlane};
use rsf_core::identity::TokenVerifier;
use rsf_core::message::{Request, Response};
use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
use rsf_core::metrics::Metrics;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::{CallScope, Handled, Provider, ProviderIdentity, Service};
use rsf_core::status::{Code, Status};
use rsf_core::wire::Frame;
use rsf_core::wire::http2::{Http2Wire, ServerOptions, serve};
use rsf_registry::record::{LeaseState, ListedInstance, ServiceList};
use rsf_registry::{Directory, Observed, StoreError, Watch};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The service of `tests/proto/probe.proto`.
pub(crate) const PROBE: &str = "test.v1.Probe";

/// An adapter that runs, with everything behind it; all of it ends when it is dropped.
pub(crate) struct World {
    pub(crate) control: Arc<StaticControlPlane>,
    pub(crate) directory: Arc<FakeDirectory>,
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    pub(crate) shutdown: CancellationToken,
    /// Notified when a `Hang` has begun.
    pub(crate) hanging: Arc<Notify>,
    pub(crate) served: tokio::task::JoinHandle<std::io::Result<()>>,
    _guards: Vec<DropGuard>,
    /// The providers' policies; dropped, they are followed no more.
    _policies: Vec<Arc<PolicyBook>>,
}

impl World {
    /// An adapter in front of one provider of [`PROBE`], with its schema read.
    pub(crate) async fn start(settings: AdapterSettings) -> World {
        let mut world = World::empty(settings).await;
        let address = world
            .provide(&compile(include_str!("../proto/probe.proto")))
            .await;
        world.list(&[(address, "one")]);
        world.until_callable("/test.v1.Probe/Echo").await;
        world
    }

    /// An adapter that knows no service.
    pub(crate) async fn empty(settings: AdapterSettings) -> World {
        World::trusting(settings, None).await
    }

    /// An adapter that checks its callers' tokens, and knows no service.
    pub(crate) async fn trusting(settings: AdapterSettings, verifier: Option<TokenVerifier>) -> World {
        let control = Arc::new(StaticControlPlane::new());
        let directory = Arc::new(FakeDirectory::default());
        let consumer = consumer(control.clone());
        let schemas = Arc::new(DirectorySchemas::new(directory.clone()));
        let mut adapter = Adapter::new(consumer, schemas, settings.validate().unwrap());
        if let Some(verifier) = verifier {
            adapter = adapter.tokens(Arc::new(verifier));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(adapter.serve(listener, shutdown.clone()));
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let _guards = vec![shutdown.clone().drop_guard()];
        World {
            control,
            directory,
            address,
            http,
            shutdown,
            hanging: Arc::default(),
            served,
            _guards,
            _policies: Vec::new(),
        }
    }

    /// Starts a provider of the first service in `schema`; returns its address.
    pub(crate) async fn provide(&mut self, schema: &[u8]) -> SocketAddr {
        self.provide_checked(schema, None).await
    }

    /// The same, checking its callers' tokens.
    pub(crate) async fn provide_checked(
        &mut self,
        schema: &[u8],
        verifier: Option<TokenVerifier>,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let policies = PolicyBook::new(self.control.clone(), runtime, metrics.policies_refused.clone());
        let identity = ProviderIdentity {
            application: "probe".to_owned(),
            target: None,
            zone: String::new(),
            tags: Default::default(),
        };
        let probe = Arc::new(Probe::new(schema, self.hanging.clone()));
        let mut provider = Provider::builder().service("", probe);
        if let Some(verifier) = verifier {
            provider = provider.tokens(Arc::new(verifier));
        }
        let provider = provider.build(identity, &metrics, &policies).unwrap();
        self._policies.push(policies);
        let drain = CancellationToken::new();
        self._guards.push(drain.clone().drop_guard());
        tokio::spawn(serve(listener, provider, ServerOptions::default(), drain));
        address
    }

    /// Lists instances of [`PROBE`] by address and schema hash, for calls and for schemas.
    pub(crate) fn list(&self, instances: &[(SocketAddr, &str)]) {
        let listed = instances.iter().map(|(address, hash)| ListedInstance {
            instance: format!("probe/{address}"),
            incarnation: 1,
            application: "probe".to_owned(),
            address: address.to_string(),
            weight: 100,
            state: LeaseState::Up as i32,
            schema_hash: (*hash).to_owned(),
            ..ListedInstance::default()
        });
        let list = ServiceList {
            service: PROBE.to_owned(),
            instances: listed.collect(),
            ..ServiceList::default()
        };
        let addresses: Vec<_> = instances
            .iter()
            .map(|(address, _)| Instance::at("probe", &address.to_string()))
            .collect();
        self.control.set_instances(PROBE, addresses);
        self.directory.put(PROBE, list);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Posts JSON and returns status, headers and body.
    pub(crate) async fn post(&self, path: &str, json: &str) -> Answer {
        let request = self
            .http
            .post(self.url(path))
            .header("content-type", "application/json");
        Answer::of(request.body(json.to_owned())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(self.url(path))).await
    }

    /// Waits until the schema that has the method at `path` is in use.
    pub(crate) async fn until_callable(&self, path: &str) {
        let asked = async {
            while matches!(self.post(path, "{}").await.status, 404 | 503) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asked)
            .await
            .expect("the method never appeared");
    }
}

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an HTTP response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer {
            status,
            headers,
            body: response.bytes().await.unwrap(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks Connect's error body and returns its message.
    pub(crate) fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        body["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// An encoded `FileDescriptorSet` of one .proto text, imports included.
pub(crate) fn compile(proto: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("probe.proto"), proto).unwrap();
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler =
        protox::Compiler::new([folder.path(), published.as_ref() as &std::path::Path]).unwrap();
    compiler.include_imports(true).open_file("probe.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn consumer(control: Arc<StaticControlPlane>) -> Consumer {
    let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let policies = PolicyBook::new(control.clone(), runtime.clone(), metrics.policies_refused.clone());
    Consumer::new(ConsumerParts {
        application: "adapter".to_owned(),
        namespace: "test".to_owned(),
        zone: String::new(),
        instance: String::new(),
        runtime,
        wire: Arc::new(Http2Wire::new()),
        control,
        policies,
        metrics: Arc::new(metrics),
        token: Default::default(),
        interceptors: Default::default(),
        balancers: rsf_core::client::Balancers::new(),
    })
}

/// A directory whose lists the test writes.
#[derive(Default)]
pub(crate) struct FakeDirectory {
    lists: Mutex<HashMap<String, watch::Sender<Observed<ServiceList>>>>,
}

impl FakeDirectory {
    pub(crate) fn put(&self, service: &str, list: ServiceList) {
        let mut lists = self.lists.lock();
        let sender = lists
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Observed::Unknown));
        sender.send_replace(Observed::Present(Arc::new(list)));
    }
}

#[async_trait::async_trait]
impl Directory for FakeDirectory {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        let mut lists = self.lists.lock();
        let sender = lists
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Observed::Unknown));
        Watch::new(sender.subscribe(), None)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        let mut services: Vec<_> = self.lists.lock().keys().cloned().collect();
        services.sort();
        Ok(services)
    }
}

/// The methods of `probe.proto`, by name; a method that it does not know echoes. One whose name ends in `Once` is
/// deduplicated.
struct Probe {
    descriptor: ServiceDescriptor,
    service: prost_reflect::ServiceDescriptor,
    hanging: Arc<Notify>,
}

impl Probe {
    fn new(schema: &[u8], hanging: Arc<Notify>) -> Probe {
        let pool = DescriptorPool::decode(schema).unwrap();
        let service = pool.services().next().unwrap();
        let unary = service.methods().filter(|method| !method.is_server_streaming());
        let methods: Vec<_> = unary
            .map(|method| MethodDescriptor {
                dedup: method.name().ends_with("Once"),
                ..MethodDescriptor::plain(service.full_name(), method.name())
            })
            .collect();
        let descriptor = ServiceDescriptor {
            name: service.full_name().to_owned().into(),
            methods: methods.into(),
            schema: schema.to_vec().into(),
        };
        Probe {
            descriptor,
            service,
            hanging,
        }
    }
}

impl Service for Probe {
    fn descriptor(&self) -> &ServiceDescriptor {
        &self.descriptor
    }

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        let name = self.descriptor.methods[method].name.clone();
        let method = self.service.methods().find(|known| known.name() == name).unwrap();
        scope.run(async move {
            let (message, metadata) = request.into_parts();
            let asked = DynamicMessage::decode(method.input(), message.clone()).unwrap();
            match name.trim_end_matches("Once") {
                "Fail" => Err(failure(&asked)),
                "Hang" => {
                    self.hanging.notify_one();
                    std::future::pending().await
                }
                "Inspect" => {
                    let seen = seen(DynamicMessage::new(method.output()), &metadata);
                    let mut reply = Response::new(Frame::encode(&seen).unwrap());
                    reply.metadata_mut().insert("shelf", "upper").unwrap();
                    reply
                        .metadata_mut()
                        .insert_bin("digest-bin", &[0, 1, 2, 255])
                        .unwrap();
                    Ok(reply)
                }
                _ => Ok(Response::new(Frame::from_message(&message).unwrap())),
            }
        })
    }
}

fn failure(asked: &DynamicMessage) -> Status {
    let code = asked.get_field_by_name("code").unwrap().as_u32().unwrap();
    let message = asked
        .get_field_by_name("message")
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    let reasons = asked.get_field_by_name("reasons").unwrap();
    let details = reasons.as_list().unwrap().iter().map(|reason| prost_types::Any {
        type_url: "type.googleapis.com/test.v1.Reason".to_owned(),
        value: reason.as_message().unwrap().encode_to_vec(),
    });
    // `google.rpc.Status`: 1 code, 2 message, 3 details.
    let mut encoded = Vec::new();
    prost::encoding::uint32::encode(1, &code, &mut encoded);
    prost::encoding::string::encode(2, &message, &mut encoded);
    prost::encoding::message::encode_repeated(3, &details.collect::<Vec<_>>(), &mut encoded);
    Status::new(Code::from_number(code), message).with_details(encoded)
}

fn seen(mut seen: DynamicMessage, metadata: &rsf_core::metadata::Metadata) -> DynamicMessage {
    let context = Context::current().unwrap();
    let pairs = metadata
        .iter()
        .map(|(k, v)| (MapKey::String(k.to_owned()), Value::String(v.to_owned())));
    seen.set_field_by_name("metadata", Value::Map(pairs.collect()));
    let text = |text: Option<&str>| Value::String(text.unwrap_or_default().to_owned());
    seen.set_field_by_name("request_id", text(context.request_id()));
    seen.set_field_by_name("caller", text(context.caller()));
    seen.set_field_by_name(
        "trace",
        text(context.trace().map(|trace| trace.to_string()).as_deref()),
    );
    let remaining = context.remaining().map_or(0, |left| left.as_millis() as i64);
    seen.set_field_by_name("remaining_ms", Value::I64(remaining));
    seen
}
