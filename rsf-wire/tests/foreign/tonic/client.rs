//! gRPC's interop cases by tonic's client.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataValue, BinaryMetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::interop::{INPUT_SIZES, SPECIAL, STREAM_SIZES};
use crate::testing::{
    EchoStatus, INITIAL, InputRequest, InputResponse, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingRequest, TRAILING, payload,
};

/// tonic's client, as its code generator writes such.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) tonic::client::Grpc<Channel>);

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

    pub(crate) async fn case(&mut self, name: &str) {
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
