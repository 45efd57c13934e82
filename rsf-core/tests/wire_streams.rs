//! What every wire must do with streams, the same suite over each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[macro_use]
mod support;

#[path = "support/line.rs"]
mod line;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use line::{Line, connect, read, request, soon};
use rsf_core::server::Provider;
use rsf_core::wire::{Connection, Fate, WireError};
use support::{Echo, Fleet, Kind, note};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;

/// `Echo` answers with the request's body as it comes, and trailers; `Hold` with headers, and reads nothing; `Early` with
/// a status at once.
#[derive(Clone)]
struct Mirror {
    running: watch::Sender<usize>,
}

impl tonic::server::NamedService for Mirror {
    const NAME: &'static str = "test.v1.Mirror";
}

struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl tower::Service<http::Request<Body>> for Mirror {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let trailers = async {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("x-last", "word".parse().unwrap());
                Some(Ok(trailers))
            };
            let body = match parts.uri.path() {
                "/test.v1.Mirror/Echo" => Body::new(body.with_trailers(trailers)),
                "/test.v1.Mirror/Hold" => Body::new(Held { _body: body }),
                _ => return Ok(tonic::Status::failed_precondition("not now").into_http()),
            };
            // For as long as the answer lasts.
            let body = body.map_frame(move |frame| {
                let _held = &running;
                frame
            });
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok(response.body(Body::new(body)).unwrap())
        })
    }
}

/// A body that never comes, and keeps the request's unread.
struct Held {
    _body: Body,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Poll::Pending
    }
}

struct Ground {
    line: Line,
    running: watch::Sender<usize>,
}

impl Ground {
    async fn of(kind: Kind) -> Ground {
        let fleet = Fleet::new(kind);
        let running = watch::Sender::new(0);
        let mirror = Mirror {
            running: running.clone(),
        };
        let builder = Provider::builder()
            .service("", Echo::plain())
            .tonic_service(mirror);
        let node = fleet.start(builder, |_| {});
        let connection = connect(&fleet, &node).await;
        let line = Line {
            fleet,
            node,
            connection,
        };
        Ground { line, running }
    }

    async fn running(&self, wanted: usize) {
        let mut running = self.running.subscribe();
        soon(running.wait_for(|running| *running == wanted))
            .await
            .unwrap();
    }

    /// A request whose body comes out of a channel.
    fn open(&self, method: &str) -> (mpsc::Sender<Bytes>, Opening) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
        let pieces = futures_util::stream::poll_fn(move |cx| {
            let piece = std::task::ready!(receiver.poll_recv(cx));
            Poll::Ready(piece.map(|piece| Ok::<_, Infallible>(Frame::data(piece))))
        });
        (sender, self.send(method, Body::new(StreamBody::new(pieces))))
    }

    fn send(&self, method: &str, body: Body) -> Opening {
        let request = http::Request::post(format!("/test.v1.Mirror/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        self.line.connection.http(request)
    }
}

type Opening = BoxFuture<'static, Result<http::Response<Body>, WireError>>;

/// The next piece of data.
async fn data(body: &mut Body) -> Bytes {
    soon(body.frame()).await.unwrap().unwrap().into_data().unwrap()
}

async fn pieces_go_to_and_fro(kind: Kind) {
    let ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Echo");
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    let response = soon(opening).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(data(&mut body).await, "first");
    for size in [1, 100, 70_000] {
        sender.send(Bytes::from(vec![7; size])).await.unwrap();
        let mut came = 0;
        while came < size {
            came += data(&mut body).await.len();
        }
        ground.line.lives().await;
    }
    drop(sender);
    let trailers = soon(body.frame())
        .await
        .unwrap()
        .unwrap()
        .into_trailers()
        .unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-last"], "word");
    assert!(soon(body.frame()).await.is_none());
    drop(body);
    ground.running(0).await;
}

async fn a_large_body_comes_back_whole(kind: Kind) {
    let ground = Ground::of(kind).await;
    let sent = Bytes::from((0..5 << 20).map(|i: u32| (i / 7) as u8).collect::<Vec<_>>());
    let opening = ground.send("Echo", Body::new(http_body_util::Full::new(sent.clone())));
    let response = soon(opening).await.unwrap();
    let came = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(came.trailers().unwrap()["x-last"], "word");
    assert!(came.to_bytes() == sent, "it came back changed");
}

async fn a_handler_that_does_not_read_stops_its_sender(kind: Kind) {
    let ground = Ground::of(kind).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let endless = futures_util::stream::repeat_with(move || {
        counted.fetch_add(16_384, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[1; 16_384])))
    });
    let response = soon(ground.send("Hold", Body::new(StreamBody::new(endless))))
        .await
        .unwrap();
    let mut last = usize::MAX;
    while taken.load(Ordering::SeqCst) != last {
        last = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The stream's window of 1 MiB, and what the sender buffers: hyper up to another MiB.
    assert!(last <= 5 << 19, "{last} bytes were taken");
    ground.line.lives().await;
    drop(response);
    if !is_hypers(kind) {
        ground.running(0).await;
    }
}

/// Whether the client is hyper's: it goes on with a request's body when nobody wants the answer any more.
fn is_hypers(kind: Kind) -> bool {
    matches!(kind, Kind::Http2 | Kind::Http2ToEngine)
}

async fn a_client_that_does_not_read_stops_its_handler(kind: Kind) {
    let ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Echo");
    let mut sent = 0;
    let piece = Bytes::from_static(&[1; 16_384]);
    let opened = tokio::spawn(opening);
    while let Ok(room) = tokio::time::timeout(Duration::from_millis(300), sender.send(piece.clone())).await {
        room.unwrap();
        sent += piece.len();
        assert!(sent < 8 << 20, "nothing stops it");
    }
    ground.line.lives().await;
    let mut body = soon(opened).await.unwrap().unwrap().into_body();
    drop(sender);
    let mut came = 0;
    while let Some(frame) = soon(body.frame()).await {
        came += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert!(
        (sent..=sent + piece.len()).contains(&came),
        "{sent} sent, {came} came"
    );
}

async fn a_dropped_response_drops_its_handler(kind: Kind) {
    let ground = Ground::of(kind).await;
    for _ in 0..20 {
        let (sender, opening) = ground.open("Hold");
        let response = soon(opening).await.unwrap();
        ground.running(1).await;
        drop(response);
        if is_hypers(kind) {
            drop(sender);
        } else {
            soon(sender.closed()).await;
        }
        ground.running(0).await;
    }
    ground.line.lives().await;
}

async fn a_request_that_is_given_up_before_its_answer_is_cancelled(kind: Kind) {
    let ground = Ground::of(kind).await;
    for _ in 0..20 {
        let (sender, opening) = ground.open("Hold");
        drop(opening);
        // hyper's sends on where the answer came in the same moment.
        if !is_hypers(kind) {
            soon(sender.closed()).await;
        }
    }
    ground.running(0).await;
    ground.line.lives().await;
}

async fn an_early_answer_ends_the_request(kind: Kind) {
    let ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Early");
    let response = soon(opening).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "9");
    assert!(soon(response.into_body().frame()).await.is_none());
    soon(sender.closed()).await;
    ground.line.lives().await;
}

async fn a_drain_lets_streams_finish(kind: Kind) {
    let ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Echo");
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    let mut body = soon(opening).await.unwrap().into_body();
    assert_eq!(data(&mut body).await, "before");
    ground.line.node.drain();
    // The peer's GOAWAY takes a moment to arrive; from then on nothing new is taken.
    let refused = async {
        while soon(ground.line.send(request("Get", &note("")))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(refused).await;
    sender.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(data(&mut body).await, "after");
    drop(sender);
    assert!(soon(body.frame()).await.unwrap().unwrap().is_trailers());
}

async fn a_close_lets_streams_finish(kind: Kind) {
    let ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Echo");
    sender.send(Bytes::from_static(b"before")).await.unwrap();
    let mut body = soon(opening).await.unwrap().into_body();
    assert_eq!(data(&mut body).await, "before");
    let Ground { line, .. } = ground;
    line.connection.close();
    let late = soon(line.send(request("Get", &note("")))).await.unwrap_err();
    assert_eq!(late.fate, Fate::NotWritten);
    // Whoever holds the body needs no connection to do so.
    let Line {
        connection,
        node: _node,
        fleet: _fleet,
    } = line;
    drop(connection);
    sender.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(data(&mut body).await, "after");
    drop(sender);
    assert!(soon(body.frame()).await.unwrap().unwrap().is_trailers());
}

async fn death_breaks_streams_and_tells_what_was_sent(kind: Kind) {
    if kind == Kind::InProcess {
        // There is no death of one end alone: bodies are handed over as they are.
        return;
    }
    let mut ground = Ground::of(kind).await;
    let (sender, opening) = ground.open("Echo");
    sender.send(Bytes::from_static(b"alive")).await.unwrap();
    let mut body = soon(opening).await.unwrap().into_body();
    assert_eq!(data(&mut body).await, "alive");
    ground.line.node.kill();
    let broken = soon(body.frame()).await.unwrap().unwrap_err();
    assert_ne!(broken.code(), tonic::Code::Ok);
    let mut state = ground.line.connection.state();
    soon(state.wait_for(|state| *state == rsf_core::wire::ConnectionState::Closed))
        .await
        .unwrap();
    let (_sender, late) = ground.open("Echo");
    assert_eq!(soon(late).await.unwrap_err().fate, Fate::NotWritten);
}

async fn a_small_call_does_not_wait_for_large_streams(kind: Kind) {
    let ground = Ground::of(kind).await;
    let connection: Arc<dyn Connection> = ground.line.connection.clone();
    let done = Arc::new(AtomicUsize::new(0));
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let body = Body::new(http_body_util::Full::new(Bytes::from(vec![9; 4 << 20])));
        let opening = ground.send("Echo", body);
        let done = done.clone();
        streams.spawn(async move {
            let came = opening.await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(came.to_bytes().len(), 4 << 20);
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    for _ in 0..20 {
        let reply = soon(request("Get", &note("small")).over(&connection))
            .await
            .unwrap();
        assert_eq!(read(&reply).text, "small");
    }
    while let Some(stream) = soon(streams.join_next()).await {
        stream.unwrap();
    }
}

on_all_wires! {
    pieces_go_to_and_fro
    a_large_body_comes_back_whole
    a_handler_that_does_not_read_stops_its_sender
    a_client_that_does_not_read_stops_its_handler
    a_dropped_response_drops_its_handler
    a_request_that_is_given_up_before_its_answer_is_cancelled
    an_early_answer_ends_the_request
    a_drain_lets_streams_finish
    a_close_lets_streams_finish
    death_breaks_streams_and_tells_what_was_sent
    a_small_call_does_not_wait_for_large_streams
}
