//! Each connection's requests handed to a [`Dispatch`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::wire::accept::accept;
use crate::wire::answer::{Terms, answer};
use crate::wire::load_report::Reporter;
use crate::wire::{Compression, Dispatch, MAX_HEADER_BYTES};

/// What a listening port allows.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; further ones wait in the system's backlog. Default 10 000.
    pub max_connections: usize,
    /// Streams at once on a connection, as announced in SETTINGS. Default 4 096.
    pub max_concurrent_streams: u32,
    /// Time for a new connection to send HTTP/2's preface; one that stays silent takes a place no longer. Default 3 s.
    pub handshake_timeout: Duration,
    /// Time for the message of a unary call to come whole; a shorter deadline of the call wins. What takes longer is
    /// refused with `deadline`: nothing else bounds a body that trickles in. Default 60 s.
    pub body_timeout: Duration,
    /// For how long the engine's connections poll handlers in their own task, each time that they have their turn; what came
    /// beyond becomes tasks at once ([`rsf_wire::Limits::in_place_time`]). Over hyper each call is a task. Default 100 µs.
    pub in_place_time: Duration,
    /// Idle time after which a PING is sent. Default 20 s.
    pub keepalive_interval: Duration,
    /// Time without an answer to a PING after which the connection is closed. Default 10 s.
    pub keepalive_timeout: Duration,
    /// Which replies of unary calls are compressed, for consumers that accept it. Default: none.
    pub compression: Option<Compression>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            max_connections: 10_000,
            max_concurrent_streams: 4096,
            handshake_timeout: Duration::from_secs(3),
            body_timeout: Duration::from_secs(60),
            in_place_time: Duration::from_micros(100),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            compression: None,
        }
    }
}

impl ServerOptions {
    pub(in crate::wire) fn terms(&self) -> Terms {
        Terms {
            body_timeout: self.body_timeout,
            compression: self.compression,
        }
    }
}

/// Serves until `drain` is cancelled, then sends GOAWAY on every connection and returns when the running calls are
/// done. The caller bounds that time: dropping this future closes every connection at once.
pub async fn serve(
    listener: TcpListener,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    let served = options.clone();
    accept(listener, &options, drain, move |stream, drain| {
        serve_connection(stream, dispatch.clone(), served.clone(), drain)
    })
    .await;
}

async fn serve_connection(
    stream: TcpStream,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    let (reporter, terms) = (Arc::new(Reporter::new()), options.terms());
    let service = hyper::service::service_fn(move |request| {
        let (dispatch, reporter) = (dispatch.clone(), reporter.clone());
        async move { Ok::<_, Infallible>(answer(dispatch, &reporter, terms, request).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_header_list_size(MAX_HEADER_BYTES)
        // gRPC has no use for it, and each reply would pay.
        .auto_date_header(false)
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
