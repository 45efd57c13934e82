//! The echo service, written by hand as generated code would be, and what its handlers have seen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rsf_core::message::{Request, Response};
use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
use rsf_core::server::{CallScope, Handled, Service, handle};
use rsf_core::status::Status;
use tokio::sync::{Semaphore, watch};

use super::SOON;

/// The service's name.
pub const ECHO: &str = "test.v1.Echo";
/// The idempotent method's place.
pub const GET: usize = 0;
/// The place of the method that must not run twice.
pub const PUT: usize = 1;
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

    /// Answers when it gets a permit.
    pub fn gated() -> (Arc<Echo>, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        let echo = Echo::with({
            let gate = gate.clone();
            move |_, request| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(Response::new(request.into_inner()))
                }
            }
        });
        (echo, gate)
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

/// The number of attempts before the one that is being handled.
pub fn previous() -> u32 {
    let context = rsf_core::context::Context::current().unwrap();
    let previous = context.metadata().get("grpc-previous-rpc-attempts");
    previous.map_or(0, |number| number.parse().unwrap())
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

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        scope.run(async move {
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
