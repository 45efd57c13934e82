//! RSF's engine alone: the crate `rsf-wire` with prost's messages, and the headers that a governed call carries: a deadline, a
//! request id and a trace that differ from call to call, and the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use rsf_wire::message::{PREFIX_BYTES, unframe};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Name, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Caller;
use crate::work::Work;
use crate::{Error, Result};

const PATH: &str = "/bench.v1.Echo/Echo";
/// What rsf-core asks of the system for its connections too.
const UNSENT_BYTES: u32 = 128 * 1024;

const TIMEOUT: Name<14> = Name::new("grpc-timeout");
const REQUEST_ID_NAME: Name<16> = Name::new("rsf-request-id");
const TRACEPARENT_NAME: Name<13> = Name::new("traceparent");
pub(super) const REQUEST_ID: &str = "rsf-request-id";
pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const CALLER: (&str, &[u8]) = ("rsf-caller", b"bench");

/// As rsf-build's and tonic's.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
}

/// What differs from call to call.
pub(super) struct Varying {
    micros: u32,
    pub(super) request_id: [u8; 16],
    pub(super) trace: [u8; 55],
}

impl Varying {
    pub(super) fn of_this_call() -> Varying {
        let unique = fastrand::u64(..);
        let request_id = hex(unique);
        let mut trace = *b"00-0000000000000000000000000000cafe-0000000000000000-00";
        trace[3..19].copy_from_slice(&request_id);
        trace[36..52].copy_from_slice(&request_id);
        Varying {
            // Of the eight digits that gRPC allows.
            micros: 99_999_999 - (unique % 10_000_000) as u32,
            request_id,
            trace,
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_micros(self.micros.into())
    }

    fn literals(&self) -> Result<Literals> {
        let mut timeout = *b"00000000u";
        let mut rest = self.micros;
        for digit in timeout[..8].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut varying = Literals::with_capacity(192);
        varying.push_named(&TIMEOUT, &timeout)?;
        varying.push_named(&REQUEST_ID_NAME, &self.request_id)?;
        varying.push_named(&TRACEPARENT_NAME, &self.trace)?;
        Ok(varying)
    }
}

fn hex(number: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15])
}

fn framed(message: &Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
    message.encode(&mut out)?;
    Ok(out.freeze())
}

struct Echo(Work);

impl Handler for Echo {
    fn call(&self, call: Call) -> Option<Handling> {
        if call.path() != PATH {
            return None;
        }
        let work = self.0;
        Some(Box::pin(async move {
            work.burn();
            match echo(call) {
                Ok(Some(body)) => Response::ok(body),
                // An empty payload asks for no answer.
                Ok(None) => std::future::pending().await,
                Err(error) => Response::status(3, &error.to_string()),
            }
        }))
    }
}

fn echo(call: Call) -> Result<Option<Bytes>> {
    let message = Message::decode(unframe(&call.body?)?.unwrap_or_default())?;
    if message.payload.is_empty() {
        return Ok(None);
    }
    framed(&message).map(Some)
}

fn set_up(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}

pub(super) async fn serve(listeners: Vec<TcpListener>, work: Work) -> Result<()> {
    let handler = Arc::new(Echo(work));
    for listener in listeners {
        let handler = handler.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                set_up(&stream)?;
                let handler = handler.clone();
                tokio::spawn(async move {
                    // How a client ends its connection is its own affair.
                    let _ = rsf_wire::serve(stream, handler, Limits::default(), std::future::pending()).await;
                });
            }
            #[allow(unreachable_code, reason = "names the error's type")]
            Ok::<(), Error>(())
        });
    }
    std::future::pending().await
}

/// One connection.
pub(super) async fn connection(address: &str) -> Result<Client> {
    let stream = TcpStream::connect(address).await?;
    set_up(&stream)?;
    let (client, connection) = Client::new(stream, address, Limits::default(), |_| {});
    tokio::spawn(connection);
    Ok(client)
}

pub(super) async fn connect(addresses: &[String], payload: usize) -> Result<impl Caller> {
    let mut connections = Vec::new();
    for address in addresses {
        connections.push(Arc::new(connection(address).await?));
    }
    Ok(Calls {
        connections,
        turn: Arc::default(),
        payload: super::payload(payload),
    })
}

#[derive(Clone)]
struct Calls {
    connections: Vec<Arc<Client>>,
    turn: Arc<AtomicUsize>,
    payload: Vec<u8>,
}

impl Calls {
    async fn send(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        let connection = match &*self.connections {
            [only] => only,
            several => &several[self.turn.fetch_add(1, Ordering::Relaxed) % several.len()],
        };
        let request = Request {
            path: PATH,
            constant: &[CALLER],
            varying: Varying::of_this_call().literals()?,
            body: framed(&Message { payload })?,
        };
        let reply = connection.call(request).await?;
        if reply.grpc_status() != Some(0) {
            return Err(Error::from(format!("the call failed: {reply:?}")));
        }
        let message = unframe(&reply.body?)?.unwrap_or_default();
        Ok(Message::decode(message)?.payload)
    }
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<()> {
        let received = self.send(self.payload.clone()).await?;
        super::check(&received, &self.payload)
    }

    async fn hold(&mut self) -> Result<()> {
        self.send(Vec::new()).await.map(drop)
    }
}
