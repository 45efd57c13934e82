//! The accept loop that wires over TCP share, and what it takes to be served: HTTP/2's preface, in time.

use std::sync::Arc;
use std::time::Duration;

use rsf_wire::frame::PREFACE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http2::ServerOptions;

/// Connections that the system keeps waiting at most (tokio's own choice).
const BACKLOG: usize = 1024;
/// Time for the system to hand over the next of the connections that waited when the drain began.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// Time for a connection that came with the drain to greet, so that it can be told.
const LAST_GREETING: Duration = Duration::from_millis(200);

/// Accepts until `drain` is cancelled, and has each connection that greets in time served; returns when the last of them
/// has ended. Dropping this future closes every connection at once.
pub(super) async fn accept<S, F>(
    listener: TcpListener,
    options: &ServerOptions,
    drain: CancellationToken,
    serve: S,
) where
    S: Fn(TcpStream, CancellationToken) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let places = Arc::new(Semaphore::new(options.max_connections));
    let connections = TaskTracker::new();
    let closed = CancellationToken::new();
    let _close = closed.clone().drop_guard();
    let (serve, in_time) = (Arc::new(serve), options.handshake_timeout);
    let spawn = |stream: TcpStream, place: Option<OwnedSemaphorePermit>| {
        let (drain, closed, serve) = (drain.clone(), closed.clone(), serve.clone());
        connections.spawn(async move {
            let served = async {
                if greets(&stream, in_time, &drain).await {
                    serve(stream, drain).await;
                }
            };
            closed.run_until_cancelled(served).await;
            drop(place);
        });
    };
    while let Some(Ok(place)) = drain.run_until_cancelled(places.clone().acquire_owned()).await {
        let stream = match drain.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                // Out of file descriptors, or a connection that died in the backlog: the loop must live on.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        spawn(stream, Some(place));
    }
    // Who waits in the backlog would be reset, and the calls that are on their way with it: GOAWAY tells them apart.
    for _ in 0..BACKLOG {
        match tokio::time::timeout(LAST_LOOK, listener.accept()).await {
            Ok(Ok((stream, _))) => spawn(stream, None),
            _ => break,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whether a connection greets in time. One that speaks something else is told what this port speaks.
async fn greets(stream: &TcpStream, in_time: Duration, drain: &CancellationToken) -> bool {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection is gone already");
        return false;
    }
    let greeted = tokio::time::timeout(in_time, greeted(stream));
    let too_late = async {
        drain.cancelled().await;
        tokio::time::sleep(LAST_GREETING).await;
    };
    let greeted = tokio::select! {
        greeted = greeted => Some(greeted),
        () = too_late => None,
    };
    match greeted {
        Some(Ok(Ok(true))) => return true,
        Some(Ok(Ok(false))) => {
            // In HTTP/1.1, because that is what people and load balancers try.
            let _ = stream.try_write(NO_HTTP2);
        }
        Some(Ok(Err(error))) => tracing::debug!(%error, "connection ended before its preface"),
        Some(Err(_)) => tracing::debug!("connection closed: no HTTP/2 preface in time"),
        None => {}
    }
    false
}

const NO_HTTP2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\ncontent-length: 70\r\nconnection: close\r\n\r\n\
    this port speaks gRPC over HTTP/2; for HTTP and JSON use RSF's adapter";

/// Waits for HTTP/2's preface without consuming it. `false` where something else comes.
async fn greeted(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        let came = stream.peek(&mut start).await?;
        if came == 0 || start[..came] != PREFACE[..came] {
            return Ok(false);
        }
        if came == PREFACE.len() {
            return Ok(true);
        }
        // Half a preface stays readable, so that the socket cannot tell when the other half is there.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
