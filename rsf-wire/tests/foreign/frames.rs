//! Python's hpack, hyperframe and h2 as peers that are scripted byte by byte: header fields by chance, by an encoder that
//! indexes and packs as Huffman does, in frames that are cut, padded and mixed; and h2's books of states and windows.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rsf_testkit::{Process, Program, python};
use rsf_wire::message::{frame, unframe};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Headers, Limits, Literals, Request, Response, serve};
use tokio::net::TcpListener;

use crate::testing::{SOON, connected};

const SEEDS: std::ops::Range<u64> = 0..40;

fn script(name: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/frames");
    Program::new(python())
        .name(name)
        .arg(name)
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn listed(headers: &Headers) -> Fields {
    let fields = headers.iter();
    fields
        .map(|field| (field.name.to_vec(), field.value.to_vec()))
        .collect()
}

/// A list of fields as `mirror.py` writes it.
fn pack(fields: &Fields) -> Vec<u8> {
    let string = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
    let mut out = (fields.len() as u32).to_be_bytes().to_vec();
    for (name, value) in fields {
        out.extend(string(name));
        out.extend(string(value));
    }
    out
}

/// Reads what `pack` has written, and leaves what stands behind it.
fn unpack(bytes: &mut Bytes) -> Fields {
    use bytes::Buf as _;
    let string = |bytes: &mut Bytes| {
        let length = bytes.get_u32() as usize;
        bytes.split_to(length).to_vec()
    };
    let count = bytes.get_u32();
    (0..count).map(|_| (string(bytes), string(bytes))).collect()
}

/// Answers with the request's fields and body.
struct Mirror;

impl Handler for Mirror {
    fn call(&self, call: Call) -> Option<Handling> {
        let mut message = pack(&listed(&call.headers));
        message.extend(call.body.unwrap_or_default());
        let reply = Response::ok(frame(&message)?);
        Some(Box::pin(std::future::ready(reply)))
    }
}

async fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let never = std::future::pending();
            tokio::spawn(async move {
                // How it ended is seen by the peer.
                let _ = serve(stream, Arc::new(Mirror), Limits::default(), never).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn requests_by_hpack_in_odd_frames_arrive_as_they_were_sent() {
    let address = mirror().await;
    let seeds = SEEDS.map(|seed| seed.to_string());
    let client = script("client.py").arg(address.to_string()).args(seeds).start();
    let status = client.wait(SOON).await;
    assert!(status.success(), "{}", client.log());
    let held = client.stdout();
    assert_eq!(held.lines().count() as u64, SEEDS.end, "{held}");
}

async fn listening(program: Program) -> (Process, u16) {
    let server = program.start();
    let line = server.line("port ", SOON).await;
    (server, line.rsplit(' ').next().unwrap().trim().parse().unwrap())
}

#[tokio::test]
async fn replies_by_hpack_in_odd_frames_arrive_as_they_were_sent() {
    let (server, port) = listening(script("server.py").arg("0")).await;
    for seed in SEEDS {
        let client = Arc::new(connected(port).await);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..8 {
            let calls: Vec<_> = (0..rng.usize(1..6))
                .map(|_| tokio::spawn(call_mirror(client.clone(), rng.fork(), seed)))
                .collect();
            for call in calls {
                call.await.unwrap();
            }
        }
        drop(client);
        server.line(&format!("seed {seed} held"), SOON).await;
    }
}

/// One call whose fields and body are made by chance, and whose reply says which of them came.
async fn call_mirror(client: Arc<Client>, mut rng: fastrand::Rng, seed: u64) {
    let mut text = |most: usize| -> String { (0..rng.usize(..most)).map(|_| rng.char('!'..='~')).collect() };
    let (kept, moved) = (text(30), [text(10), text(300)]);
    let path = format!("/mirror/{}", text(3).len());
    let body = frame(text(5_000).as_bytes()).unwrap();
    let mut varying = Literals::new();
    for (place, value) in moved.iter().enumerate() {
        varying
            .push(&format!("x-moved-{place}"), value.as_bytes())
            .unwrap();
    }
    let request = Request {
        path: &path,
        constant: &[("x-kept", kept.as_bytes())],
        varying,
        body: body.clone(),
    };
    let reply = client.call(request).await.unwrap();
    assert_eq!(reply.grpc_status(), Some(0), "seed {seed}: {reply:?}");
    let mut said = unframe(&reply.body.unwrap()).unwrap().unwrap();
    let came = unpack(&mut said);
    let value = |name: &str| {
        let field = came.iter().find(|(n, _)| n == name.as_bytes());
        String::from_utf8(field.expect(name).1.clone()).unwrap()
    };
    assert_eq!(value(":path"), path, "seed {seed}");
    assert_eq!(value("x-kept"), kept, "seed {seed}");
    assert_eq!([value("x-moved-0"), value("x-moved-1")], moved, "seed {seed}");
    assert_eq!(unpack(&mut said), listed(&reply.headers), "seed {seed}");
    assert_eq!(unpack(&mut said), listed(&reply.trailers.unwrap()), "seed {seed}");
    assert_eq!(said, body, "seed {seed}");
}

#[tokio::test]
async fn pythons_h2_finds_no_fault_with_the_engines_server() {
    let address = mirror().await;
    let client = script("strict.py").args(["client", &address.to_string()]).start();
    let status = client.wait(SOON).await;
    assert!(status.success(), "{}", client.log());
    assert_eq!(client.stdout().trim(), "held 60");
}

#[tokio::test]
async fn pythons_h2_finds_no_fault_with_the_engines_client() {
    let (server, port) = listening(script("strict.py").arg("server")).await;
    for window in [1_000, 65_535, 1 << 20] {
        let client = Arc::new(connected(port).await);
        let calls: Vec<_> = (0..20)
            .map(|i| {
                let client = client.clone();
                tokio::spawn(async move {
                    let body = frame(&vec![i; 150_000]).unwrap();
                    let request = Request {
                        path: "/echo",
                        constant: &[("user-agent", b"rsf-wire")],
                        varying: Literals::new(),
                        body: body.clone(),
                    };
                    let reply = client.call(request).await.unwrap();
                    assert_eq!((reply.grpc_status(), reply.body), (Some(0), Ok(body)));
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        drop(client);
        server.line(&format!("held {window}"), SOON).await;
    }
}
