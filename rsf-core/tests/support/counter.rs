//! A tonic service and its client, as tonic's code generator writes them: `test.v1.Counter` with the unary `Next` and
//! the server-streaming `Count`.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program compiles the harness for itself and uses a part of it"
)]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tonic::server::NamedService;
use tonic_prost::ProstCodec;

use crate::support::Note;

type Notes = Pin<Box<dyn Stream<Item = Result<Note, tonic::Status>> + Send>>;

/// Counts; `number` 0 is an error.
#[derive(Clone)]
pub struct Counter;

impl NamedService for Counter {
    const NAME: &'static str = "test.v1.Counter";
}

struct Next;

impl tonic::server::UnaryService<Note> for Next {
    type Response = Note;
    type Future = BoxFuture<'static, Result<tonic::Response<Note>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Note>) -> Self::Future {
        Box::pin(async move {
            let caller = request
                .metadata()
                .get("rsf-caller")
                .and_then(|value| value.to_str().ok());
            let text = caller.unwrap_or_default().to_owned();
            let number = request.get_ref().number;
            if request.get_ref().text == "hold" {
                return std::future::pending().await;
            }
            if number == 0 {
                let mut status = tonic::Status::not_found("no number \u{4f1a}");
                status
                    .metadata_mut()
                    .insert("hint", "start at one".parse().unwrap());
                return Err(status);
            }
            let mut response = tonic::Response::new(Note {
                number: number + 1,
                text,
                ..Note::default()
            });
            for key in ["tenant", "traceparent", "rsf-request-id"] {
                if let Some(value) = request.metadata().get(key) {
                    response.metadata_mut().insert(key, value.clone());
                }
            }
            if request.get_ref().text == "seen" {
                note_seen(&request, &mut response);
            }
            Ok(response)
        })
    }
}

/// All that came with the request, as `seen-<name>`, and what the handler's context says.
fn note_seen(request: &tonic::Request<Note>, response: &mut tonic::Response<Note>) {
    let seen = response.metadata_mut();
    for pair in request.metadata().iter() {
        if let tonic::metadata::KeyAndValueRef::Ascii(key, value) = pair {
            let key = tonic::metadata::AsciiMetadataKey::from_bytes(format!("seen-{key}").as_bytes());
            seen.insert(key.unwrap(), value.clone());
        }
    }
    let context = rsf_core::context::Context::current().expect("a hosted handler has one");
    let mut note = |key: &'static str, value: String| seen.insert(key, value.parse().unwrap());
    note("context-caller", context.caller().unwrap_or_default().to_owned());
    note("context-proven", context.identity().is_proven().to_string());
    note("context-priority", format!("{:?}", context.priority()));
    if let Some(remaining) = context.remaining() {
        note("context-remaining-ms", remaining.as_millis().to_string());
    }
}

struct Count;

impl tonic::server::ServerStreamingService<Note> for Count {
    type Response = Note;
    type ResponseStream = Notes;
    type Future = BoxFuture<'static, Result<tonic::Response<Notes>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Note>) -> Self::Future {
        Box::pin(async move {
            let until = request.get_ref().number;
            let numbers =
                futures_util::stream::iter((0..until).map(|number| Ok(crate::support::number(number))));
            let stream: Notes = match request.get_ref().text.as_str() {
                // Goes on for ever after the last number.
                "hold" => Box::pin(futures_util::StreamExt::chain(
                    numbers,
                    futures_util::stream::pending(),
                )),
                // Breaks off after the last number.
                "fail" => {
                    let end = std::future::ready(Err(tonic::Status::unavailable("broke off")));
                    Box::pin(futures_util::StreamExt::chain(
                        numbers,
                        futures_util::stream::once(end),
                    ))
                }
                _ => Box::pin(numbers),
            };
            Ok(tonic::Response::new(stream))
        })
    }
}

impl tower::Service<http::Request<Body>> for Counter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Note, Note>::default());
            Ok(match request.uri().path() {
                "/test.v1.Counter/Next" => grpc.unary(Next, request).await,
                "/test.v1.Counter/Count" => grpc.server_streaming(Count, request).await,
                _ => tonic::Status::unimplemented("").into_http(),
            })
        })
    }
}

/// A tonic client of notes.
#[derive(Clone)]
pub struct Client<T>(tonic::client::Grpc<T>);

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    pub fn new(transport: T) -> Self {
        Client(tonic::client::Grpc::new(transport))
    }

    pub async fn unary(
        &mut self,
        path: &'static str,
        request: tonic::Request<Note>,
    ) -> Result<tonic::Response<Note>, tonic::Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static(path);
        self.0.unary(request, path, ProstCodec::default()).await
    }

    pub async fn streaming(
        &mut self,
        path: &'static str,
        request: tonic::Request<Note>,
    ) -> Result<tonic::Streaming<Note>, tonic::Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static(path);
        let response = self
            .0
            .server_streaming(request, path, ProstCodec::default())
            .await?;
        Ok(response.into_inner())
    }

    async fn ready(&mut self) -> Result<(), tonic::Status> {
        self.0
            .ready()
            .await
            .map_err(|error| tonic::Status::unknown(format!("not ready: {}", error.into())))
    }
}
