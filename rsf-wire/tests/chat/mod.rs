//! A tonic service of gRPC's four shapes and its client, as tonic's code generator writes them.

#![allow(unreachable_pub, reason = "a part of one test program")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tonic::server::{
    ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub text: String,
}

pub fn note(number: u32, text: &str) -> Note {
    Note {
        number,
        text: text.to_owned(),
    }
}

type Notes = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

/// `Echo`, `Count`, `Sum` and `Chat`; counts the streams of `Count` that are under way.
#[derive(Clone)]
pub struct Chat {
    pub running: watch::Sender<usize>,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            running: watch::Sender::new(0),
        }
    }
}

struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl UnaryService<Note> for Chat {
    type Response = Note;
    type Future = BoxFuture<'static, Result<Response<Note>, Status>>;

    fn call(&mut self, request: Request<Note>) -> Self::Future {
        Box::pin(async move {
            if request.get_ref().number == 0 {
                return Err(Status::not_found("no number \u{4f1a}"));
            }
            let tenant = request.metadata().get("tenant").cloned();
            let mut response = Response::new(request.into_inner());
            if let Some(tenant) = tenant {
                response.metadata_mut().insert("tenant", tenant);
            }
            Ok(response)
        })
    }
}

impl ServerStreamingService<Note> for Chat {
    type Response = Note;
    type ResponseStream = Notes;
    type Future = BoxFuture<'static, Result<Response<Notes>, Status>>;

    fn call(&mut self, request: Request<Note>) -> Self::Future {
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        let asked = request.into_inner();
        let numbers = futures_util::stream::iter((0..asked.number).map(|number| Ok(note(number, ""))));
        let last: Notes = match asked.text.as_str() {
            "hold" => Box::pin(futures_util::stream::pending()),
            "fail" => Box::pin(futures_util::stream::iter([Err(Status::aborted("broke off"))])),
            _ => Box::pin(futures_util::stream::empty()),
        };
        let notes: Notes = Box::pin(numbers.chain(last).inspect(move |_| {
            let _held = &running;
        }));
        Box::pin(async move { Ok(Response::new(notes)) })
    }
}

impl ClientStreamingService<Note> for Chat {
    type Response = Note;
    type Future = BoxFuture<'static, Result<Response<Note>, Status>>;

    fn call(&mut self, request: Request<Streaming<Note>>) -> Self::Future {
        Box::pin(async move {
            let mut notes = request.into_inner();
            let mut sum = 0;
            while let Some(note) = notes.next().await {
                sum += note?.number;
            }
            Ok(Response::new(note(sum, "")))
        })
    }
}

impl StreamingService<Note> for Chat {
    type Response = Note;
    type ResponseStream = Notes;
    type Future = BoxFuture<'static, Result<Response<Notes>, Status>>;

    fn call(&mut self, request: Request<Streaming<Note>>) -> Self::Future {
        let notes: Notes = Box::pin(request.into_inner());
        Box::pin(async move { Ok(Response::new(notes)) })
    }
}

impl NamedService for Chat {
    const NAME: &'static str = "chat.v1.Chat";
}

impl<B> tower_service::Service<http::Request<B>> for Chat
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let chat = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Note, Note>::default());
            Ok(match request.uri().path() {
                "/chat.v1.Chat/Echo" => grpc.unary(chat, request).await,
                "/chat.v1.Chat/Count" => grpc.server_streaming(chat, request).await,
                "/chat.v1.Chat/Sum" => grpc.client_streaming(chat, request).await,
                "/chat.v1.Chat/Chat" => grpc.streaming(chat, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// A tonic client of notes.
pub struct ChatClient<T>(tonic::client::Grpc<T>);

impl<T> ChatClient<T>
where
    T: GrpcService<Body, ResponseBody: Send + 'static>,
    T::Error: Into<StdError>,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    pub fn new(transport: T) -> Self {
        ChatClient(tonic::client::Grpc::new(transport))
    }

    async fn ready(&mut self, method: &str) -> Result<http::uri::PathAndQuery, Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(format!("not ready: {}", error.into())))?;
        Ok(format!("/chat.v1.Chat/{method}").parse().unwrap())
    }

    pub async fn unary(&mut self, method: &str, request: Request<Note>) -> Result<Response<Note>, Status> {
        let path = self.ready(method).await?;
        self.0.unary(request, path, ProstCodec::default()).await
    }

    pub async fn server_streaming(
        &mut self,
        method: &str,
        request: Request<Note>,
    ) -> Result<Response<Streaming<Note>>, Status> {
        let path = self.ready(method).await?;
        self.0
            .server_streaming(request, path, ProstCodec::default())
            .await
    }

    pub async fn client_streaming(
        &mut self,
        method: &str,
        request: Request<impl Stream<Item = Note> + Send + 'static>,
    ) -> Result<Response<Note>, Status> {
        let path = self.ready(method).await?;
        self.0
            .client_streaming(request, path, ProstCodec::default())
            .await
    }

    pub async fn streaming(
        &mut self,
        method: &str,
        request: Request<impl Stream<Item = Note> + Send + 'static>,
    ) -> Result<Response<Streaming<Note>>, Status> {
        let path = self.ready(method).await?;
        self.0.streaming(request, path, ProstCodec::default()).await
    }
}
