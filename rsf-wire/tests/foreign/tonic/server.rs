//! gRPC's interop service over tonic's server.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use prost::Message;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::{Bytes, StdError};
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::testing::{
    EchoStatus, INITIAL, InputRequest, InputResponse, SimpleRequest, SimpleResponse, StreamingRequest,
    TRAILING, payload,
};

/// gRPC's interop service as tonic's code generator writes such; says which call began and was abandoned.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) mpsc::UnboundedSender<&'static str>);

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
