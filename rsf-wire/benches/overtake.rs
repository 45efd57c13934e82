//! What a 10 MB message under way costs a 10 KB call on the same connection, over TCP, up and down.
//!
//! `cargo bench --package rsf-wire --bench overtake`

#![allow(clippy::print_stdout, reason = "a program whose purpose is its output")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LARGE: usize = 10_000_000;
const SMALL: usize = 10_000;
const CALLS: usize = 300;
/// What rsf-core sets too.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Answers `/b/up` with a few bytes and `/b/down` with many; all else with what came.
struct Bulk(Bytes);

impl Handler for Bulk {
    fn call(&self, call: Call) -> Option<Handling> {
        let answer = match call.path() {
            "/b/up" => Bytes::from_static(b"\0\0\0\0\0"),
            "/b/down" => self.0.clone(),
            _ => call.body.clone().ok()?,
        };
        Some(Box::pin(std::future::ready(Response::ok(answer))))
    }

    fn max_message_bytes(&self) -> usize {
        2 * LARGE
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for bulk in [None, Some("/b/up"), Some("/b/down")] {
            let (mut times, count) = measure(bulk).await?;
            times.sort_unstable();
            let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
            println!(
                "{:8} small calls: median {:.2} ms, p99 {:.2} ms; {count} large ones meanwhile",
                bulk.unwrap_or("alone"),
                at(50),
                at(99)
            );
        }
        Ok(())
    })
}

async fn measure(bulk: Option<&'static str>) -> Result<(Vec<Duration>, usize)> {
    let client = Arc::new(connect().await?);
    let large = rsf_wire::message::frame(&vec![7; LARGE]).ok_or("too large")?;
    let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (other, counter) = (client.clone(), counted.clone());
    let pushing = tokio::spawn(async move {
        while let Some(path) = bulk {
            let body = if path == "/b/up" {
                large.clone()
            } else {
                Bytes::from_static(b"\0\0\0\0\0")
            };
            if other.call(request(path, body)).await.is_err() {
                break;
            }
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let small = rsf_wire::message::frame(&vec![5; SMALL]).ok_or("too large")?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        sleep(Duration::from_millis(3)).await;
        let begun = Instant::now();
        let reply = client.call(request("/b/echo", small.clone())).await?;
        times.push(begun.elapsed());
        if reply.body?.len() != small.len() {
            return Err("an echo that is none".into());
        }
    }
    pushing.abort();
    Ok((times, counted.load(std::sync::atomic::Ordering::Relaxed)))
}

fn request(path: &str, body: Bytes) -> Request<'_> {
    Request {
        path,
        constant: &[],
        varying: Literals::new(),
        body,
    }
}

async fn connect() -> Result<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answer = rsf_wire::message::frame(&vec![9; LARGE]).ok_or("too large")?;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        set_up(&stream)?;
        let handler = Arc::new(Bulk(answer));
        rsf_wire::serve(stream, handler, Limits::default(), std::future::pending()).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    let stream = TcpStream::connect(address).await?;
    set_up(&stream)?;
    let limits = Limits {
        message_bytes: 2 * LARGE,
        ..Limits::default()
    };
    let (client, connection) = Client::new(stream, &address.to_string(), limits, |_| {});
    tokio::spawn(connection);
    Ok(client)
}

fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    #[cfg(not(target_os = "linux"))]
    let _ = UNSENT_BYTES;
    Ok(())
}
