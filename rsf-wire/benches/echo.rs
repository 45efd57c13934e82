//! Instructions of one echo by the engine alone, client and server together: 128 bytes, one connection, one thread. Deadline,
//! request id and trace header differ from call to call, as they do in life. Counted by callgrind, so load does not matter.
//!
//! `cargo bench --package rsf-wire`; with `-- --calls 100000` it calls as often, uncounted, for whoever profiles.

#![allow(clippy::print_stdout, reason = "a program whose purpose is its output")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Name, Request, Response};
use tokio::net::{TcpListener, TcpStream};

#[path = "parts/callgrind.rs"]
mod callgrind;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Two runs of so many calls: their difference holds calls alone, without start and end.
const CALLS: [u64; 2] = [2_000, 6_000];
const IN_FLIGHT: u64 = 64;
const PAYLOAD: usize = 128;

const TIMEOUT: Name<14> = Name::new("grpc-timeout");
const REQUEST_ID: Name<16> = Name::new("rsf-request-id");
const TRACEPARENT: Name<13> = Name::new("traceparent");

struct Echo;

impl Handler for Echo {
    fn call(&self, call: Call) -> Option<Handling> {
        (call.path() == "/bench.v1.Echo/Echo").then(|| -> Handling {
            Box::pin(async move {
                match call.body {
                    Ok(body) => Response::ok(body),
                    Err(error) => Response::status(3, &error.to_string()),
                }
            })
        })
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--calls", calls] => run(calls.parse()?),
        [] => count(),
        _ => Err("usage: cargo bench --package rsf-wire [-- --calls NUMBER]".into()),
    }
}

fn count() -> Result<()> {
    let mut totals = [0; 2];
    for (total, calls) in totals.iter_mut().zip(CALLS) {
        match callgrind::count(&["--calls", &calls.to_string()])? {
            Some(count) => *total = count,
            None => return Ok(()),
        }
    }
    let each = (totals[1] - totals[0]) as f64 / (CALLS[1] - CALLS[0]) as f64;
    println!(
        "{each:.0} instructions an echo, client and server ({PAYLOAD} bytes, {IN_FLIGHT} in flight, one connection, one thread)"
    );
    Ok(())
}

fn run(calls: u64) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // Callgrind is 50 times as slow as the machine: handlers would seem to be too slow to be polled in place.
                let limits = Limits {
                    in_place_time: Duration::from_secs(3600),
                    ..Limits::default()
                };
                rsf_wire::serve(stream, Arc::new(Echo), limits, std::future::pending()).await?;
                Result::Ok(())
            });
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (client, connection) = Client::new(stream, &address.to_string(), Limits::default(), |_| {});
            tokio::spawn(connection);
            let client = Arc::new(client);
            let callers: Vec<_> = (0..IN_FLIGHT)
                .map(|caller| tokio::spawn(call(client.clone(), caller, calls / IN_FLIGHT)))
                .collect();
            for caller in callers {
                caller.await??;
            }
            Ok(())
        })
}

async fn call(client: Arc<Client>, caller: u64, calls: u64) -> Result<()> {
    let body = rsf_wire::message::frame(&[7; PAYLOAD]).ok_or("too large")?;
    let constant: [(&str, &[u8]); 1] = [("rsf-caller", b"bench")];
    let mut trace = *b"00-0000000000000000000000000000cafe-0000000000000000-00";
    for number in 0..calls {
        let unique = (caller << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let id = hex(unique);
        trace[3..19].copy_from_slice(&id);
        trace[36..52].copy_from_slice(&id);
        let mut varying = Literals::with_capacity(192);
        varying.push_named(&TIMEOUT, &timeout(number))?;
        varying.push_named(&REQUEST_ID, &id)?;
        varying.push_named(&TRACEPARENT, &trace)?;
        let request = Request {
            path: "/bench.v1.Echo/Echo",
            constant: &constant,
            varying,
            body: body.clone(),
        };
        let reply = client.call(request).await?;
        let received: Bytes = reply.body.clone()?;
        if reply.grpc_status() != Some(0) || received.len() != body.len() {
            return Err("this is no echo".into());
        }
    }
    Ok(())
}

/// A deadline in microseconds, of the eight digits that gRPC allows.
fn timeout(number: u64) -> [u8; 9] {
    let mut text = *b"99999999u";
    let mut rest = 99_999_999 - number % 10_000_000;
    for digit in text[..8].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

fn hex(number: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15])
}
