//! gRPC's interop cases against tonic's own client and server.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::{Bytes, StdError};
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::interop::{
    CASES, Habits, INPUT_SIZES, SPECIAL, STREAM_SIZES, given_up_cases, streaming_cases, unary_cases,
};
use crate::testing::{
    EchoStatus, INITIAL, InputRequest, InputResponse, ResponseParameters, SOON, SimpleRequest,
    SimpleResponse, StreamingRequest, TRAILING, connected, payload, served,
};

/// gRPC's interop service as tonic's code generator writes such; says which call began and was abandoned.
#[derive(Clone)]
struct Service(mpsc::UnboundedSender<&'static str>);

/// Says so when the call is dropped without an answer.
struct Abandoned(mpsc::UnboundedSender<&'static str>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        let _ = self.0.send("abandoned");
    }
}

fn refused(status: Option<&EchoStatus>) -> Result<(), Status> {
    match status.filter(|status| status.code != 0) {
        Some(status) => Err(Status::new(status.code.into(), &status.message)),
        None => Ok(()),
    }
}

fn sized(size: i32) -> SimpleResponse {
    let payload = payload(size as usize);
    SimpleResponse { payload }
}

type Answering<T> = BoxFuture<'static, Result<Response<T>, Status>>;

impl UnaryService<()> for Service {
    type Response = ();
    type Future = Answering<()>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        Box::pin(async { Ok(Response::new(())) })
    }
}

impl UnaryService<SimpleRequest> for Service {
    type Response = SimpleResponse;
    type Future = Answering<SimpleResponse>;

    fn call(&mut self, request: Request<SimpleRequest>) -> Self::Future {
        let says = self.0.clone();
        Box::pin(async move {
            refused(request.get_ref().response_status.as_ref())?;
            if request.get_ref().response_size < 0 {
                let _ = says.send("began");
                let _abandoned = Abandoned(says);
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(sized(request.get_ref().response_size));
            if let Some(value) = request.metadata().get(INITIAL) {
                response.metadata_mut().insert(INITIAL, value.clone());
            }
            Ok(response)
        })
    }
}

type Replies = BoxStream<'static, Result<SimpleResponse, Status>>;

fn replies(request: StreamingRequest) -> Replies {
    let sizes = request.response_parameters.into_iter();
    Box::pin(tokio_stream::iter(sizes.map(|wanted| Ok(sized(wanted.size)))))
}

impl ServerStreamingService<StreamingRequest> for Service {
    type Response = SimpleResponse;
    type ResponseStream = Replies;
    type Future = Answering<Replies>;

    fn call(&mut self, request: Request<StreamingRequest>) -> Self::Future {
        Box::pin(async { Ok(Response::new(replies(request.into_inner()))) })
    }
}

impl ClientStreamingService<InputRequest> for Service {
    type Response = InputResponse;
    type Future = Answering<InputResponse>;

    fn call(&mut self, request: Request<Streaming<InputRequest>>) -> Self::Future {
        Box::pin(async {
            let mut requests = request.into_inner();
            let mut size = 0;
            while let Some(request) = requests.next().await {
                size += request?.payload.map_or(0, |payload| payload.body.len());
            }
            let aggregated_payload_size = size as i32;
            Ok(Response::new(InputResponse {
                aggregated_payload_size,
            }))
        })
    }
}

impl StreamingService<StreamingRequest> for Service {
    type Response = SimpleResponse;
    type ResponseStream = Replies;
    type Future = Answering<Replies>;

    fn call(&mut self, request: Request<Streaming<StreamingRequest>>) -> Self::Future {
        Box::pin(async {
            let requests = request.into_inner();
            let answers = requests.flat_map(|request| {
                let request = request.and_then(|request| {
                    refused(request.response_status.as_ref())?;
                    Ok(request)
                });
                match request {
                    Ok(request) => replies(request),
                    Err(status) => Box::pin(tokio_stream::once(Err(status))),
                }
            });
            let answers: Replies = Box::pin(answers);
            Ok(Response::new(answers))
        })
    }
}

impl NamedService for Service {
    const NAME: &'static str = "grpc.testing.TestService";
}

impl<B> tower_service::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            // tonic's generated code leaves trailers of a unary reply to the layers around it.
            let trailing = request.headers().get(TRAILING).cloned();
            let response = match method {
                "EmptyCall" => codec::<(), ()>().unary(service, request).await,
                "UnaryCall" => {
                    codec::<SimpleRequest, SimpleResponse>()
                        .unary(service, request)
                        .await
                }
                "StreamingOutputCall" => {
                    codec::<StreamingRequest, _>()
                        .server_streaming(service, request)
                        .await
                }
                "StreamingInputCall" => {
                    codec::<InputRequest, _>()
                        .client_streaming(service, request)
                        .await
                }
                "FullDuplexCall" => codec::<StreamingRequest, _>().streaming(service, request).await,
                _ => Status::unimplemented("").into_http(),
            };
            Ok(match trailing {
                Some(value) => response.map(|body| with_trailer(body, value)),
                None => response,
            })
        })
    }
}

fn codec<Q, R>() -> Grpc<ProstCodec<R, Q>>
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
}

fn with_trailer(body: Body, value: http::HeaderValue) -> Body {
    use http_body_util::BodyExt as _;
    Body::new(body.map_frame(move |frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers.insert(TRAILING, value.clone());
            http_body::Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }))
}

async fn tonic_server() -> (u16, mpsc::UnboundedReceiver<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (says, said) = mpsc::unbounded_channel();
    let incoming = TcpListenerStream::new(listener);
    let server = Server::builder().add_service(Service(says));
    tokio::spawn(server.serve_with_incoming(incoming));
    (port, said)
}

/// A late call is CANCELLED, as long as its reply has not begun. And h2 ends a connection of which more than 20 streams are
/// reset before it looked at them.
const TONICS: Habits = Habits {
    late: 1,
    late_streams: false,
    patience: 30,
};

#[tokio::test]
async fn the_engine_calls_tonic() {
    let (port, mut said) = tonic_server().await;
    let client = connected(port).await;
    unary_cases(&client).await;
    given_up_cases(&client, TONICS, async |word| {
        let next = tokio::time::timeout(SOON, said.recv()).await.expect(word);
        assert_eq!(next, Some(word));
    })
    .await;
    streaming_cases(&client, TONICS).await;
}

/// tonic's client, as its code generator writes such.
#[derive(Clone)]
struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn unary<Q, R>(&mut self, method: &str, request: Request<Q>) -> Result<Response<R>, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let path = self.ready(method).await;
        self.0.unary(request, path, ProstCodec::<Q, R>::default()).await
    }

    async fn ready(&mut self, method: &str) -> http::uri::PathAndQuery {
        self.0.ready().await.unwrap();
        format!("/grpc.testing.{method}").parse().unwrap()
    }

    async fn simple(&mut self, request: SimpleRequest) -> Result<Response<SimpleResponse>, Status> {
        self.unary("TestService/UnaryCall", Request::new(request)).await
    }

    async fn input(
        &mut self,
        requests: impl Stream<Item = InputRequest> + Send + 'static,
    ) -> Result<InputResponse, Status> {
        let path = self.ready("TestService/StreamingInputCall").await;
        let total = self
            .0
            .client_streaming(Request::new(requests), path, ProstCodec::default());
        total.await.map(Response::into_inner)
    }

    /// A conversation: where to say requests, and what comes back.
    async fn talk(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<(mpsc::Sender<StreamingRequest>, Streaming<SimpleResponse>), Status> {
        let path = self.ready("TestService/FullDuplexCall").await;
        let (say, said) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(said));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let replies = self.0.streaming(request, path, ProstCodec::default()).await?;
        Ok((say, replies.into_inner()))
    }

    async fn case(&mut self, name: &str) {
        match name {
            "empty_unary" => {
                let reply: Result<Response<()>, _> =
                    self.unary("TestService/EmptyCall", Request::new(())).await;
                reply.unwrap();
            }
            "large_unary" => assert_eq!(self.large(Request::new(asks(314_159, 271_828))).await.0, 314_159),
            "many_at_once" => self.many_at_once().await,
            "custom_metadata" => self.custom_metadata().await,
            "status_code_and_message" => self.status("test status message").await,
            "special_status_message" => self.status(SPECIAL).await,
            "unimplemented_method" => self.unimplemented("TestService").await,
            "unimplemented_service" => self.unimplemented("UnimplementedService").await,
            "cancel_unary" => {
                let late = tokio::time::timeout(Duration::from_millis(100), self.simple(asks(-1, 0)));
                assert!(late.await.is_err());
            }
            "timeout_unary" => {
                let mut request = Request::new(asks(-1, 0));
                request.set_timeout(Duration::from_millis(200));
                let late: Result<Response<SimpleResponse>, _> =
                    self.unary("TestService/UnaryCall", request).await;
                out_of_time(&late.unwrap_err());
            }
            "client_streaming" => {
                let requests = INPUT_SIZES.map(|size| InputRequest {
                    payload: payload(size),
                });
                let total = self.input(tokio_stream::iter(requests)).await.unwrap();
                let sum: usize = INPUT_SIZES.iter().sum();
                assert_eq!(total.aggregated_payload_size as usize, sum);
            }
            "server_streaming" => self.server_streaming().await,
            "ping_pong" => self.ping_pong().await,
            "empty_stream" => {
                let (say, mut replies) = self.talk(None).await.unwrap();
                drop(say);
                assert!(replies.next().await.is_none());
            }
            "cancel_after_begin" => {
                let late =
                    tokio::time::timeout(Duration::from_millis(100), self.input(tokio_stream::pending()));
                assert!(late.await.is_err());
            }
            "cancel_after_first_response" => {
                let (say, mut replies) = self.talk(None).await.unwrap();
                say.send(wants(31_415, 27_182)).await.unwrap();
                assert_eq!(length(replies.next().await.unwrap()), 31_415);
            }
            "timeout_on_sleeping_server" => {
                match self.talk(Some(Duration::from_millis(200))).await {
                    Ok((_say, mut replies)) => out_of_time(&replies.next().await.unwrap().unwrap_err()),
                    Err(status) => out_of_time(&status),
                };
            }
            "status_of_a_stream" => self.status_of_a_stream().await,
            _ => panic!("no case {name}"),
        }
    }

    /// Bytes of the reply, with what came around it.
    async fn large(&mut self, request: Request<SimpleRequest>) -> (usize, tonic::metadata::MetadataMap) {
        let reply: Response<SimpleResponse> = self.unary("TestService/UnaryCall", request).await.unwrap();
        let (metadata, reply, _) = reply.into_parts();
        (length(Ok(reply)), metadata)
    }

    async fn many_at_once(&self) {
        let calls = (0..500).map(|_| {
            let mut client = self.clone();
            tokio::spawn(async move { client.simple(asks(2_000, 3_000)).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(length(call.await.unwrap().map(Response::into_inner)), 2_000);
        }
    }

    async fn custom_metadata(&mut self) {
        let mut request = Request::new(asks(314_159, 271_828));
        let initial = AsciiMetadataValue::from_static("test_initial_metadata_value");
        request.metadata_mut().insert(INITIAL, initial.clone());
        let trailing = BinaryMetadataValue::from_bytes(&[0xab; 3]);
        request.metadata_mut().insert_bin(TRAILING, trailing.clone());
        // tonic gives headers and trailers of a unary reply as one map.
        let (length, metadata) = self.large(request).await;
        assert_eq!(length, 314_159);
        assert_eq!(metadata.get(INITIAL), Some(&initial));
        assert_eq!(metadata.get_bin(TRAILING), Some(&trailing));
    }

    async fn status(&mut self, text: &str) {
        let status = EchoStatus {
            code: 2,
            message: text.to_owned(),
        };
        let request = SimpleRequest {
            response_status: Some(status),
            ..SimpleRequest::default()
        };
        let error = self.simple(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Unknown, text));
    }

    async fn unimplemented(&mut self, service: &str) {
        let method = format!("{service}/UnimplementedCall");
        let reply: Result<Response<()>, _> = self.unary(&method, Request::new(())).await;
        assert_eq!(reply.unwrap_err().code(), Code::Unimplemented);
    }

    async fn server_streaming(&mut self) {
        let path = self.ready("TestService/StreamingOutputCall").await;
        let response_parameters = STREAM_SIZES.map(|size| ResponseParameters { size }).to_vec();
        let request = StreamingRequest {
            response_parameters,
            ..StreamingRequest::default()
        };
        let codec = ProstCodec::<_, SimpleResponse>::default();
        let replies = self
            .0
            .server_streaming(Request::new(request), path, codec)
            .await
            .unwrap();
        let sizes: Vec<_> = replies
            .into_inner()
            .map(|reply| length(reply) as i32)
            .collect()
            .await;
        assert_eq!(sizes, STREAM_SIZES);
    }

    async fn ping_pong(&mut self) {
        let (say, mut replies) = self.talk(None).await.unwrap();
        for (size, with) in STREAM_SIZES.into_iter().zip(INPUT_SIZES) {
            say.send(wants(size, with)).await.unwrap();
            assert_eq!(length(replies.next().await.unwrap()), size as usize);
        }
        drop(say);
        assert!(replies.next().await.is_none());
    }

    async fn status_of_a_stream(&mut self) {
        let (say, mut replies) = self.talk(None).await.unwrap();
        let status = EchoStatus {
            code: 2,
            message: "test status message".to_owned(),
        };
        let request = StreamingRequest {
            response_status: Some(status),
            ..StreamingRequest::default()
        };
        say.send(request).await.unwrap();
        let error = replies.next().await.unwrap().unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::Unknown, "test status message")
        );
    }
}

fn asks(response_size: i32, with: usize) -> SimpleRequest {
    SimpleRequest {
        response_size,
        payload: payload(with),
        response_status: None,
    }
}

fn wants(size: i32, with: usize) -> StreamingRequest {
    let response_parameters = vec![ResponseParameters { size }];
    StreamingRequest {
        response_parameters,
        payload: payload(with),
        response_status: None,
    }
}

fn length(reply: Result<SimpleResponse, Status>) -> usize {
    reply.unwrap().payload.map_or(0, |payload| payload.body.len())
}

/// tonic's client calls it CANCELLED when its own clock runs out, which it watches until the reply begins.
fn out_of_time(status: &Status) {
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
}

#[tokio::test]
async fn tonic_calls_the_engine() {
    let address = served().await;
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = Client(tonic::client::Grpc::new(endpoint.connect().await.unwrap()));
    for name in CASES {
        let case = tokio::time::timeout(SOON, client.case(name));
        case.await.unwrap_or_else(|_| panic!("{name} hangs"));
    }
}
