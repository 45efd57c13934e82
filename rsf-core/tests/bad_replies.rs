//! Compressed replies that cannot be read: what the caller is told, and that no handler runs twice for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use rsf_core::control::Instance;
use rsf_core::outcome::Reason;
use rsf_core::wire::Encoding;
use rsf_wire::compression::compress;
use rsf_wire::message::frame;
use rsf_wire::server::Handling;
use rsf_wire::{Call, Handler, Limits, Literals, Response};
use support::{Fleet, Kind, SOON, note};
use tokio::net::TcpListener;

/// Says to all requests that they succeeded, with one body.
struct Scripted {
    encoding: Option<&'static str>,
    body: Bytes,
    asked: AtomicU32,
}

impl Handler for Scripted {
    fn call(&self, _: Call) -> Option<Handling> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut headers = Literals::new();
        if let Some(encoding) = self.encoding {
            headers.push("grpc-encoding", encoding.as_bytes()).unwrap();
        }
        let response = Response::Message {
            headers,
            body: self.body.clone(),
            trailers: None,
        };
        Some(Box::pin(std::future::ready(response)))
    }
}

/// Lists a provider that speaks by the script.
async fn listed(fleet: &Fleet, id: &str, scripted: &Arc<Scripted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let instance = Instance {
        id: id.into(),
        ..Instance::at("echo", &listener.local_addr().unwrap().to_string())
    };
    fleet.list(|instances| instances.push(instance));
    let scripted = scripted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = rsf_wire::serve(
                stream,
                scripted.clone(),
                Limits::default(),
                std::future::pending(),
            );
            tokio::spawn(serving);
        }
    });
}

fn marked(message: &[u8]) -> Bytes {
    let mut body = BytesMut::from(&[1][..]);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    body.freeze()
}

async fn ends_with(kind: Kind, encoding: Option<&'static str>, body: Bytes, wanted: Reason, word: &str) {
    let fleet = Fleet::new(kind);
    let scripted = Arc::new(Scripted {
        encoding,
        body,
        asked: AtomicU32::new(0),
    });
    // Two, so that a further attempt had where to go.
    for id in ["echo/1", "echo/2"] {
        listed(&fleet, id, &scripted).await;
    }
    let peer = fleet.consumer();
    peer.connected(2).await;
    let put = tokio::time::timeout(SOON, peer.put(note("once")));
    let error = put.await.expect("in time").unwrap_err();
    assert_eq!(error.reason(), wanted, "{kind:?} {error}");
    assert!(error.to_string().contains(word), "{error}");
    assert!(error.may_have_run(), "{kind:?} {error}");
    assert_eq!(scripted.asked.load(Ordering::SeqCst), 1, "{kind:?} {error}");
}

#[tokio::test]
async fn replies_that_cannot_be_read_are_named_and_nothing_runs_twice() {
    let bomb = vec![0; 64 << 20];
    let bombs = [Encoding::Gzip, Encoding::Zstd].map(|encoding| {
        let bomb = compress(&frame(&bomb).unwrap(), encoding).unwrap();
        (Some(encoding.name()), bomb, Reason::TooLarge, "bytes")
    });
    let fine = compress(&frame(&[7; 1000]).unwrap(), Encoding::Gzip).unwrap();
    let others = [
        (Some("snappy"), fine.clone(), Reason::Malformed, "snappy"),
        (None, fine.clone(), Reason::Malformed, "grpc-encoding"),
        (Some("identity"), fine.clone(), Reason::Malformed, "grpc-encoding"),
        (Some("gzip"), marked(b"no gzip at all"), Reason::Malformed, "gzip"),
        (Some("zstd"), marked(&fine[5..]), Reason::Malformed, "zstd"),
        (
            Some("gzip"),
            marked(&fine[5..].repeat(2)),
            Reason::Malformed,
            "gzip",
        ),
    ];
    for kind in [Kind::Engine, Kind::Http2] {
        for (encoding, body, reason, word) in bombs.clone().into_iter().chain(others.clone()) {
            ends_with(kind, encoding, body, reason, word).await;
        }
    }
}
