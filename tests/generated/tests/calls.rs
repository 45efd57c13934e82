//! Calls of every generated method over the in-process wire, which really serializes.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::sync::Arc;

use bytes::Bytes;
use rsf_core::PolicyBook;
use rsf_core::client::{Client, Consumer, ConsumerParts};
use rsf_core::control::{Instance, StaticControlPlane};
use rsf_core::metrics::Metrics;
use rsf_core::outcome::Reason;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::{Provider, ProviderIdentity};
use rsf_core::status::Code;
use rsf_core::wire::in_process::{Bound, InProcessWire};
use rsf_generated::awkward::v1::{
    self as awkward, Awkward, AwkwardClient, AwkwardServer, Blob, Nested, OnlyStreamsServer, nested, result,
};
use rsf_generated::common::Money;
use rsf_generated::rsf::{CallScope, Request, Response, Service, Status};
use rsf_generated::{Ping, Pinger, PingerClient, PingerServer, Pong};

type Answer<T> = Result<Response<T>, Status>;

/// Answers with the name of the method that was called, so that a mix-up of numbers shows.
struct Handlers {
    /// Tells implementations apart.
    name: &'static str,
}

impl Handlers {
    fn named(&self, method: &str, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        let said = request.into_inner().some;
        let ok = format!("{}{method}({said})", self.name);
        Ok(Response::new(awkward::Result {
            result: Some(result::Result::Ok(ok)),
        }))
    }
}

impl Awkward for Handlers {
    async fn new_(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("New", request)
    }

    async fn clone_(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("Clone", request)
    }

    async fn implementation_(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("Implementation", request)
    }

    async fn descriptor_(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("Descriptor", request)
    }

    async fn as_ref(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("AsRef", request)
    }

    async fn r#type(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("Type", request)
    }

    async fn self_(&self, request: Request<awkward::Option>) -> Answer<awkward::Result> {
        self.named("Self", request)
    }

    async fn http_get(&self, request: Request<Blob>) -> Answer<Blob> {
        let tenant = request.metadata().get("tenant").unwrap_or_default().to_owned();
        let mut response = Response::new(request.into_inner());
        let echoed = response.metadata_mut().insert("tenant-seen", &tenant);
        echoed.map_err(|error| Status::internal(error.to_string()))?;
        Ok(response)
    }

    async fn nothing(&self, _request: Request<()>) -> Answer<()> {
        Ok(Response::new(()))
    }

    async fn pay(&self, request: Request<Money>) -> Answer<Money> {
        let refused = Status::failed_precondition(format!("no {}", request.get_ref().currency));
        Err(refused.with_details(Bytes::from_static(b"\x08\x09")))
    }

    async fn old(&self, request: Request<nested::Inner>) -> Answer<Nested> {
        let inner = request.into_inner();
        let by_name = [(inner.key.clone(), inner)].into();
        Ok(Response::new(Nested {
            by_name,
            kinds: vec![0, 1],
            perhaps: Some(0),
            ..Nested::default()
        }))
    }

    async fn panics(&self, _request: Request<awkward::Option>) -> Answer<awkward::Result> {
        panic!("this handler always does");
    }
}

impl awkward::OnlyStreams for Handlers {}

impl Pinger for Handlers {
    async fn ping(&self, _request: Request<Ping>) -> Answer<Pong> {
        Ok(Response::new(Pong { count: 1 }))
    }
}

/// A provider with both implementations of the service, and a consumer, in one process.
struct Fixture {
    consumer: Consumer,
    _bound: Bound,
}

fn fixture() -> Fixture {
    let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
    let control = Arc::new(StaticControlPlane::new());
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let policies = PolicyBook::new(control.clone(), runtime.clone(), metrics.policies_refused.clone());
    let identity = ProviderIdentity {
        application: "provider".to_owned(),
        target: None,
        zone: String::new(),
        tags: Default::default(),
    };
    let provider = Provider::builder()
        .service("", Arc::new(AwkwardServer::new(Handlers { name: "" })))
        .service(
            "gold",
            Arc::new(AwkwardServer::from_arc(Arc::new(Handlers { name: "gold " }))),
        )
        .service("", Arc::new(PingerServer::new(Handlers { name: "" })))
        .build(identity, &metrics, &policies)
        .unwrap();
    for service in ["awkward.v1.Awkward", "awkward.v1.Awkward:gold", "Pinger"] {
        control.set_instances(service, vec![Instance::at("provider", "one")]);
    }
    let wire = InProcessWire::new();
    let bound = wire.bind("one", provider);
    let consumer = Consumer::new(ConsumerParts {
        application: "consumer".to_owned(),
        namespace: "test".to_owned(),
        zone: String::new(),
        instance: String::new(),
        runtime,
        wire: Arc::new(wire),
        control,
        policies,
        metrics,
        token: Default::default(),
        interceptors: Default::default(),
        balancers: rsf_core::client::Balancers::new(),
    });
    Fixture {
        consumer,
        _bound: bound,
    }
}

fn ok(reply: Result<Response<awkward::Result>, rsf_core::error::RpcError>) -> String {
    match reply.unwrap().into_inner().result {
        Some(result::Result::Ok(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_method_reaches_its_own_handler() {
    let fixture = fixture();
    let client: AwkwardClient = fixture.consumer.client();
    let ask = || awkward::Option { some: "x".to_owned() };
    assert_eq!(ok(client.new_(ask()).await), "New(x)");
    assert_eq!(ok(client.clone_(ask()).await), "Clone(x)");
    assert_eq!(ok(client.implementation_(ask()).await), "Implementation(x)");
    assert_eq!(ok(client.descriptor_(ask()).await), "Descriptor(x)");
    assert_eq!(ok(client.as_ref(ask()).await), "AsRef(x)");
    assert_eq!(ok(client.r#type(ask()).await), "Type(x)");
    assert_eq!(ok(client.self_(Request::new(ask())).await), "Self(x)");
    assert_eq!(client.nothing(()).await.unwrap().into_inner(), ());

    let inner = nested::Inner {
        key: "k".to_owned(),
        deep: None,
    };
    #[allow(deprecated, reason = "it works all the same")]
    let old = client.old(inner.clone()).await.unwrap().into_inner();
    assert_eq!(old.by_name["k"], inner);
    assert_eq!((old.kinds, old.perhaps), (vec![0, 1], Some(0)));

    let pinger: PingerClient = fixture.consumer.client();
    assert_eq!(
        pinger.ping(Ping {}).await.unwrap().into_inner(),
        Pong { count: 1 }
    );
}

#[tokio::test]
async fn metadata_travels_both_ways() {
    let fixture = fixture();
    let client: AwkwardClient = fixture.consumer.client();
    let mut request = Request::new(Blob {
        content: Bytes::from_static(&[0, 255]),
    });
    request.metadata_mut().insert("tenant", "north").unwrap();
    let reply = client.http_get(request).await.unwrap();
    assert_eq!(reply.metadata().get("tenant-seen"), Some("north"));
    assert_eq!(reply.into_inner().content, [0, 255][..]);
}

#[tokio::test]
async fn implementations_stand_side_by_side() {
    let fixture = fixture();
    let client: AwkwardClient = fixture.consumer.client();
    let gold = client.implementation("gold");
    let ask = || awkward::Option { some: String::new() };
    assert_eq!(ok(gold.new_(ask()).await), "gold New()");
    assert_eq!(ok(client.new_(ask()).await), "New()");
    assert_eq!(ok(gold.implementation("").new_(ask()).await), "New()");
}

#[tokio::test]
async fn a_handlers_error_comes_through_with_its_details() {
    let fixture = fixture();
    let client: AwkwardClient = fixture.consumer.client();
    let error = client
        .pay(Money {
            currency: "shells".to_owned(),
            cents: 1,
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::FailedPrecondition, Reason::Handler)
    );
    assert_eq!(error.message(), "no shells");
    assert_eq!(error.status().details(), b"\x08\x09");
}

#[tokio::test]
async fn a_handler_that_panics_answers_internal_and_serves_on() {
    let fixture = fixture();
    let client: AwkwardClient = fixture.consumer.client();
    let error = client.panics(awkward::Option::default()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Internal, Reason::Panic));
    assert_eq!(client.nothing(()).await.unwrap().into_inner(), ());
}

#[tokio::test]
async fn an_unknown_number_and_a_broken_message_get_a_status() {
    let server = Arc::new(AwkwardServer::new(Handlers { name: "" }));
    let unknown = server
        .clone()
        .call(99, Request::new(Bytes::new()), CallScope::alone())
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert_eq!(unknown.message(), "awkward.v1.Awkward has no method of number 99");
    let broken = server
        .call(0, Request::new(Bytes::from_static(&[0xff])), CallScope::alone())
        .await
        .unwrap_err();
    assert_eq!(broken.code(), Code::Internal);

    let empty = Arc::new(OnlyStreamsServer::new(Handlers { name: "" }));
    assert!(empty.descriptor().methods.is_empty());
    let none = empty
        .call(0, Request::new(Bytes::new()), CallScope::alone())
        .await
        .unwrap_err();
    assert_eq!(none.code(), Code::Unimplemented);
}

#[test]
fn clients_and_servers_are_cheap_to_share() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    shared::<AwkwardClient>();
    shared::<AwkwardServer<Handlers>>();
    assert_eq!(AwkwardClient::descriptor().name, "awkward.v1.Awkward");
}
