//! A service that says what it hears, and both ends of a connection to it over TLS.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rsf_wire::client::Ended;
use rsf_wire::message::{frame, unframe};
use rsf_wire::server::{Handling, Serving};
use rsf_wire::tls::rustls::{ClientConfig, ServerConfig};
use rsf_wire::{
    Call, Client, Handler, Headers, Limits, Literals, Request, Response, Route, StreamingCall, serve, tls,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::certificates::Authority;

/// `/t/echo` answers at once, `/t/later` after a turn, both with `x-scheme`; `/t/stream` piece by piece.
pub(crate) struct Echo;

impl Handler for Echo {
    fn route(&self, headers: &Headers) -> Route {
        match headers.get(":path") {
            Some(b"/t/stream") => Route::Streaming,
            _ => Route::Unary(0),
        }
    }

    fn call(&self, call: Call) -> Option<Handling> {
        let later = match call.path() {
            "/t/echo" => false,
            "/t/later" => true,
            _ => return None,
        };
        Some(Box::pin(async move {
            if later {
                tokio::task::yield_now().await;
            }
            let mut headers = Literals::new();
            let scheme = call.headers.get(":scheme").unwrap();
            headers.push("x-scheme", scheme).unwrap();
            Response::Message {
                headers,
                body: call.body.unwrap(),
                trailers: None,
            }
        }))
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        Box::pin(async move {
            let StreamingCall { mut body, answer, .. } = call;
            let mut out = answer.grpc(Literals::new());
            while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
                let Ok(piece) = piece else { return };
                if poll_fn(|cx| out.poll_room(cx)).await.is_err() {
                    return;
                }
                out.send(piece, false);
            }
            let mut trailers = Literals::new();
            trailers.push("grpc-status", b"0").unwrap();
            out.finish(trailers);
        })
    }
}

pub(crate) fn request(message: &[u8]) -> Request<'static> {
    Request {
        path: "/t/echo",
        constant: &[],
        varying: Literals::new(),
        body: frame(message).unwrap(),
    }
}

/// What an echo of `message` answers.
pub(crate) async fn asked(client: &Client, message: &[u8]) -> Bytes {
    let reply = client.call(request(message)).await.unwrap();
    assert_eq!(reply.grpc_status(), Some(0));
    unframe(&reply.body.unwrap()).unwrap().unwrap()
}

/// Serves one connection.
pub(crate) fn serving<S>(
    stream: S,
    config: Arc<ServerConfig>,
    drain: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<Result<(), Ended>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let stream = tls::accept(stream, config).await.unwrap();
        serve(stream, Arc::new(Echo), Limits::default(), drain).await
    })
}

pub(crate) async fn client_of<S>(stream: S, config: ClientConfig) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = tls::connect(stream, "localhost", Arc::new(config)).await.unwrap();
    let (client, connection) = Client::over_tls(stream, "localhost", Limits::default(), |_| {});
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// Both ends, over a pipe.
pub(crate) async fn pair(authority: &Authority) -> Client {
    let (near, far) = tokio::io::duplex(64 * 1024);
    serving(far, authority.server(), std::future::pending());
    client_of(near, authority.client()).await
}

/// A pipe's end that shuts down as soon as it is told, without a word.
pub(crate) struct Leaving {
    io: Option<DuplexStream>,
    told: oneshot::Receiver<()>,
}

pub(crate) fn leaving(io: DuplexStream) -> (Leaving, oneshot::Sender<()>) {
    let (tell, told) = oneshot::channel();
    let io = Some(io);
    (Leaving { io, told }, tell)
}

impl Leaving {
    fn io(&mut self, cx: &mut Context<'_>) -> std::io::Result<Pin<&mut DuplexStream>> {
        if self.io.is_some() && Pin::new(&mut self.told).poll(cx).is_ready() {
            self.io = None;
        }
        let io = self.io.as_mut();
        io.map(Pin::new).ok_or(std::io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Leaving {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.io(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Leaving {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.io(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io(cx)?.poll_shutdown(cx)
    }
}
