//! A peer that speaks frames by hand, over memory, against either role of the engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::message::frame as message;
use rsf_wire::server::Handling;
use rsf_wire::{Call, CallError, Client, Handler, Limits, Literals, Reply, Request, Response, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::raw;

/// How long the engine may take for one step of a case before the case has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const SENTINEL: &[u8; 8] = b"sentinel";

/// A frame as the engine sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    pub(crate) fn is(&self, kind: u8, stream: u32) -> bool {
        (self.kind, self.stream) == (kind, stream)
    }

    pub(crate) fn ends(&self) -> bool {
        matches!(self.kind, raw::DATA | raw::HEADERS) && self.flags & raw::END_STREAM != 0
    }

    /// The code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == raw::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// `/t/now` echoes the body at once, `/t/never` never answers, all else is unknown.
struct Paths;

impl Handler for Paths {
    fn call(&self, call: Call) -> Option<Handling> {
        match call.path() {
            "/t/now" => {
                let body = call.body.unwrap_or_default();
                Some(Box::pin(std::future::ready(Response::ok(body))))
            }
            "/t/never" => Some(Box::pin(std::future::pending())),
            _ => None,
        }
    }
}

/// Both ends the engine's own, over a pipe of `bytes`.
pub(crate) fn pair(bytes: usize, client: Limits, server: Limits) -> Client {
    pair_with(Arc::new(Paths), bytes, client, server)
}

/// The same with a handler of its own.
pub(crate) fn pair_with(handler: Arc<impl Handler>, bytes: usize, client: Limits, server: Limits) -> Client {
    let (near, far) = tokio::io::duplex(bytes);
    let (client, connection) = Client::new(near, "test", client, |_| {});
    tokio::spawn(async move {
        let _ = connection.await;
    });
    tokio::spawn(async move {
        let _ = serve(far, handler, server, std::future::pending()).await;
    });
    client
}

pub(crate) struct Peer {
    io: DuplexStream,
    engine: JoinHandle<()>,
}

impl Peer {
    /// Faces a server that was told nothing yet.
    pub(crate) fn of_server(limits: Limits) -> Peer {
        Peer::of_handler(Arc::new(Paths), limits)
    }

    /// Faces a server with a handler of its own that was told nothing yet.
    pub(crate) fn of_handler(handler: Arc<impl Handler>, limits: Limits) -> Peer {
        Peer::of_drained(handler, limits, std::future::pending())
    }

    /// The same of one that goes when `drain` resolves.
    pub(crate) fn of_drained(
        handler: Arc<impl Handler>,
        limits: Limits,
        drain: impl Future<Output = ()> + Send + 'static,
    ) -> Peer {
        let (io, far) = tokio::io::duplex(1 << 20);
        let engine = tokio::spawn(async move {
            // What it ends with is seen on the wire.
            let _ = serve(far, handler, limits, drain).await;
        });
        Peer { io, engine }
    }

    /// Faces a server, prefaces exchanged.
    pub(crate) async fn greeted(limits: Limits) -> Peer {
        Peer::of_server(limits).greet().await
    }

    /// Exchanges prefaces.
    pub(crate) async fn greet(self) -> Peer {
        let mut peer = self;
        peer.say(raw::PREFACE).await;
        peer.say(&raw::settings(&[])).await;
        peer.until(|frame| frame.is(raw::SETTINGS, 0) && frame.flags == raw::ACK)
            .await
            .expect("the server acknowledges SETTINGS");
        peer.say(&raw::frame(raw::SETTINGS, raw::ACK, 0, &[])).await;
        peer
    }

    /// Faces a client that has a call under way on stream 1; its preface and request were read, ours is said.
    pub(crate) async fn of_client(limits: Limits) -> (Peer, JoinHandle<Result<Reply, CallError>>) {
        let (io, far) = tokio::io::duplex(1 << 20);
        let (client, connection) = Client::new(far, "test", limits, |_| {});
        let engine = tokio::spawn(async move {
            let _ = connection.await;
        });
        let call = tokio::spawn(async move {
            let request = Request {
                path: "/t/now",
                constant: &[],
                varying: Literals::new(),
                body: message(b"question").unwrap(),
            };
            client.call(request).await
        });
        let mut peer = Peer { io, engine };
        let mut preface = [0; 24];
        tokio::time::timeout(PATIENCE, peer.io.read_exact(&mut preface))
            .await
            .expect("the client begins")
            .unwrap();
        assert_eq!(preface, raw::PREFACE);
        let asked = peer.until(Seen::ends).await;
        asked.expect("the request comes");
        (peer, call)
    }

    /// Faces a client behind `io`, whose preface is read.
    pub(crate) async fn of_stream(io: DuplexStream) -> Peer {
        let engine = tokio::spawn(async {});
        let mut peer = Peer { io, engine };
        let mut preface = [0; 24];
        let read = tokio::time::timeout(PATIENCE, peer.io.read_exact(&mut preface));
        read.await.expect("the client begins").unwrap();
        assert_eq!(preface, raw::PREFACE);
        peer
    }

    /// Says `bytes`; an engine that has hung up already is no failure here.
    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(PATIENCE, self.io.write_all(bytes))
            .await
            .expect("the engine reads");
    }

    /// Says no more.
    pub(crate) async fn hang_up(&mut self) {
        let _ = self.io.shutdown().await;
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        let mut first = [0; 1];
        let read = tokio::time::timeout(PATIENCE, self.io.read_exact(&mut first));
        read.await.expect("the engine says something or ends").ok()?;
        self.rest_of(first[0]).await
    }

    async fn rest_of(&mut self, first: u8) -> Option<Seen> {
        let mut head = [first; 9];
        self.io.read_exact(&mut head[1..]).await.ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await.expect("a whole frame");
        Some(Seen {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }

    /// The next frame if there is one already: `Some(None)` at the end.
    pub(crate) async fn try_next(&mut self) -> Option<Option<Seen>> {
        let mut first = [0; 1];
        let at_once = tokio::time::timeout(Duration::ZERO, self.io.read(&mut first));
        match at_once.await {
            Err(_) => None,
            Ok(Ok(0) | Err(_)) => Some(None),
            Ok(Ok(_)) => Some(self.rest_of(first[0]).await),
        }
    }

    /// Waits until the engine has ended, without reading.
    pub(crate) async fn ended(&mut self) {
        (&mut self.engine).await.unwrap();
    }

    /// All frames up to the first that `last` picks; `None` where the connection ends before.
    pub(crate) async fn until(&mut self, last: impl Fn(&Seen) -> bool) -> Option<Vec<Seen>> {
        let mut seen = Vec::new();
        loop {
            let frame = self.next().await?;
            let found = last(&frame);
            seen.push(frame);
            if found {
                return Some(seen);
            }
        }
    }

    /// All that the engine says until it answers a PING sent now, and whether it did or ended instead.
    pub(crate) async fn settle(&mut self) -> (Vec<Seen>, bool) {
        self.say(&raw::frame(raw::PING, 0, 0, SENTINEL)).await;
        let mut seen = Vec::new();
        while let Some(frame) = self.next().await {
            if frame.is(raw::PING, 0) && frame.flags == raw::ACK && frame.payload == SENTINEL {
                return (seen, true);
            }
            seen.push(frame);
        }
        (seen, false)
    }
}

/// The message of an echo.
pub(crate) fn echoed(frames: &[Seen], stream: u32) -> Bytes {
    let parts = frames.iter().filter(|frame| frame.is(raw::DATA, stream));
    parts.flat_map(|frame| frame.payload.clone()).collect()
}
