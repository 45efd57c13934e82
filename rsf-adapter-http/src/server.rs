//! The listening side: accepts connections, bounded and timed, and drains them at the end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rsf_core::client::Consumer;
use rsf_core::identity::TokenVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::accept::Greeted;
use crate::caller::Callers;
use crate::catalog::Catalog;
use crate::config::AdapterConfig;
use crate::gateway::Gateway;
use crate::schema::SchemaSource;

/// An HTTP/2 connection that carries nothing is asked whether it lives after this time.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// And closed where it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 128;
/// After a failed accept (no file descriptors left) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 80\r\n\r\n\
{\"code\":\"unavailable\",\"message\":\"the adapter has no connection left, try again\"}";

/// The HTTP adapter.
pub struct Adapter {
    catalog: Arc<Catalog>,
    config: AdapterConfig,
    verifier: Option<Arc<TokenVerifier>>,
}

impl Adapter {
    /// An adapter that calls through `consumer` (whose application is the caller that providers see) what `schemas`
    /// knows.
    pub fn new(consumer: Consumer, schemas: Arc<dyn SchemaSource>, config: AdapterConfig) -> Self {
        Adapter {
            catalog: Arc::new(Catalog::new(schemas, consumer)),
            config,
            verifier: None,
        }
    }

    /// Checks bearer tokens of HTTP's callers, and makes their calls in the name of the application whose token it is.
    /// Without, `Authorization` is metadata like any other.
    pub fn tokens(mut self, verifier: Arc<TokenVerifier>) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Serves until `shutdown` is cancelled, then lets the running requests finish within the drain timeout.
    ///
    /// Fails only where the listener itself is unusable.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        listener.local_addr()?;
        let catalog = self.catalog.clone();
        let _follow = AbortOnDropHandle::new(tokio::spawn(async move { catalog.follow().await }));
        let builder = Arc::new(protocol(&self.config));
        let callers = Callers {
            verifier: self.verifier,
            required: self.config.require_token,
        };
        let gateway = Arc::new(Gateway::new(self.catalog, self.config.clone(), callers));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let socket = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => socket,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            // Those that have ended but were not looked at yet take no place.
            while connections.try_join_next().is_some() {}
            if connections.len() >= self.config.max_connections {
                tracing::warn!(
                    limit = self.config.max_connections,
                    "connection refused: max_connections are open"
                );
                refuse(&socket);
                continue;
            }
            let (builder, gateway) = (builder.clone(), gateway.clone());
            let (watcher, greeting) = (graceful.watcher(), self.config.header_read_timeout);
            connections.spawn(async move {
                let _ = socket.set_nodelay(true);
                let service = service_fn(move |request| {
                    let gateway = gateway.clone();
                    async move { Ok::<_, Infallible>(gateway.respond(request).await) }
                });
                let io = TokioIo::new(Greeted::new(socket, greeting));
                let connection = builder.serve_connection(io, service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(error = %error, "connection ended");
                }
            });
        }
        drop(listener);
        if tokio::time::timeout(self.config.drain_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = connections.len(),
                "requests were cut off at the end of the drain timeout"
            );
        }
        connections.shutdown().await;
        Ok(())
    }
}

fn protocol(config: &AdapterConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_buf_size(config.max_header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Says why, if the socket takes it at once, and closes.
fn refuse(socket: &TcpStream) {
    let _ = socket.try_write(TOO_MANY);
}
