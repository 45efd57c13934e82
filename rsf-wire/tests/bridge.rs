//! tonic and axum over the engine: services behind it, clients in front of it, in gRPC's four shapes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

mod chat;

use std::sync::Arc;
use std::time::Duration;

use chat::{Chat, ChatClient, Note, note};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Full};
use rsf_wire::bridge::{Host, HttpClient};
use rsf_wire::{Client, Handler, Limits, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request};

const SOON: Duration = Duration::from_secs(20);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("not in time")
}

/// The engine serves this handler; the address.
async fn engine_server<H: Handler>(handler: Arc<H>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let handler = handler.clone();
            tokio::spawn(async move {
                let _ = serve(stream, handler, Limits::default(), std::future::pending()).await;
            });
        }
    });
    address
}

async fn tonic_server(chat: Chat) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(chat).serve_with_incoming(incoming));
    address
}

async fn engine_client(address: &str) -> (Arc<Client>, HttpClient) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = Client::new(stream, address, Limits::default(), |_| {});
    tokio::spawn(connection);
    let client = Arc::new(client);
    (client.clone(), HttpClient::new(client))
}

async fn tonic_client(address: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// gRPC's four shapes, errors, and large messages.
async fn all_shapes<T>(mut client: ChatClient<T>, chat: Chat)
where
    T: tonic::client::GrpcService<tonic::body::Body, ResponseBody: Send + 'static>,
    T::Error: Into<tonic::codegen::StdError>,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    // Unary.
    let mut request = Request::new(note(1, "hello"));
    request.metadata_mut().insert("tenant", "north".parse().unwrap());
    let reply = soon(client.unary("Echo", request)).await.unwrap();
    assert_eq!(reply.metadata().get("tenant").unwrap(), "north");
    assert_eq!(reply.into_inner(), note(1, "hello"));
    let error = soon(client.unary("Echo", Request::new(note(0, ""))))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "no number \u{4f1a}")
    );
    let error = soon(client.unary("Nope", Request::new(note(1, ""))))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    // A message that passes every window and frame.
    let large = note(7, &"x".repeat(3 << 20));
    let reply = soon(client.unary("Echo", Request::new(large.clone())))
        .await
        .unwrap();
    assert!(reply.into_inner() == large);
    // Server streaming.
    let stream = soon(client.server_streaming("Count", Request::new(note(1000, ""))))
        .await
        .unwrap();
    let numbers: Vec<u32> = soon(stream.into_inner().map(|note| note.unwrap().number).collect()).await;
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    // Client streaming.
    let notes = tokio_stream::iter((1..=1000).map(|number| note(number, "part")));
    let sum = soon(client.client_streaming("Sum", Request::new(notes)))
        .await
        .unwrap();
    assert_eq!(sum.into_inner().number, 500_500);
    // Both: each note waits for the answer to the one before it.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let call = client.streaming("Chat", Request::new(ReceiverStream::new(receiver)));
    let mut answers = soon(call).await.unwrap().into_inner();
    for number in 1..50 {
        sender
            .send(note(number, &"y".repeat(number as usize * 100)))
            .await
            .unwrap();
        assert_eq!(soon(answers.next()).await.unwrap().unwrap().number, number);
    }
    drop(sender);
    assert!(soon(answers.next()).await.is_none());
    // A stream that breaks off by a status.
    let stream = soon(client.server_streaming("Count", Request::new(note(3, "fail"))))
        .await
        .unwrap();
    let notes: Vec<_> = soon(stream.into_inner().collect()).await;
    assert_eq!(notes.len(), 4);
    assert_eq!(notes[3].as_ref().unwrap_err().code(), Code::Aborted);
    // Cancelled by dropping: the handler's stream is dropped too.
    for _ in 0..10 {
        let stream = soon(client.server_streaming("Count", Request::new(note(2, "hold"))))
            .await
            .unwrap();
        let mut stream = stream.into_inner();
        assert_eq!(soon(stream.next()).await.unwrap().unwrap().number, 0);
        assert_eq!(*chat.running.borrow(), 1);
        drop(stream);
        let mut running = chat.running.subscribe();
        soon(running.wait_for(|running| *running == 0)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tonic_service_and_a_tonic_client_meet_over_the_engine() {
    let chat = Chat::default();
    let address = engine_server(Host::new(chat.clone())).await;
    let (connection, client) = engine_client(&address).await;
    all_shapes(ChatClient::new(client), chat).await;
    assert_eq!(connection.pending(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonics_own_client_calls_a_service_behind_the_engine() {
    let chat = Chat::default();
    let address = engine_server(Host::new(chat.clone())).await;
    all_shapes(ChatClient::new(tonic_client(&address).await), chat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_the_engine_calls_tonics_own_server() {
    let chat = Chat::default();
    let address = tonic_server(chat.clone()).await;
    let (connection, client) = engine_client(&address).await;
    all_shapes(ChatClient::new(client), chat).await;
    assert_eq!(connection.pending(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_goes_over_the_engine_too() {
    use axum::routing::{get, post};
    let router = axum::Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/echo", post(|body: String| async move { body }))
        .route("/where", get(|uri: http::Uri| async move { uri.to_string() }));
    let address = engine_server(Host::new(router)).await;
    let (connection, client) = engine_client(&address).await;
    let ask = |method: &str, path: &str, body: &'static str| {
        let request = http::Request::builder().method(method).uri(path);
        let request = request
            .header("connection", "close")
            .header("content-type", "text/plain")
            .body(Full::new(bytes::Bytes::from_static(body.as_bytes())))
            .unwrap();
        let sent = client.send(request);
        async move {
            let response = soon(sent).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = soon(body.collect()).await.unwrap().to_bytes();
            (parts.status.as_u16(), parts.headers, body)
        }
    };
    assert_eq!(ask("GET", "/hello", "").await.2, "hello");
    let (status, headers, body) = ask("HEAD", "/hello", "").await;
    assert_eq!((status, &body[..]), (200, &b""[..]));
    assert_eq!(headers["content-length"], "5");
    assert_eq!(ask("POST", "/echo", "a body").await.2, "a body");
    let (status, _, body) = ask("GET", "/where?a=1", "").await;
    assert_eq!(
        (status, body),
        (200, format!("http://{address}/where?a=1").into())
    );
    assert_eq!(ask("DELETE", "/hello", "").await.0, 405);
    assert_eq!(ask("GET", "/nowhere", "").await.0, 404);
    // The service of requests is one of tower's.
    let request = http::Request::get("/hello")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let mut service = client.clone();
    let response = soon(tower_service::Service::call(&mut service, request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    assert_eq!(connection.pending(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_cancels_its_request() {
    let chat = Chat::default();
    let address = engine_server(Host::new(chat.clone())).await;
    let (connection, client) = engine_client(&address).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, String>>(1);
    let request = http::Request::post("/chat.v1.Chat/Sum")
        .header("content-type", "application/grpc")
        .body(http_body_util::StreamBody::new(ReceiverStream::new(receiver)))
        .unwrap();
    let response = client.send(request);
    sender.send(Err("the disk is gone".to_owned())).await.unwrap();
    assert!(soon(response).await.is_err());
    // The task that sends the body lets go of its half in its own time.
    let over = async {
        while connection.pending() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(over).await;
    let _: Note = soon(ChatClient::new(client).unary("Echo", Request::new(note(1, "on"))))
        .await
        .unwrap()
        .into_inner();
}
