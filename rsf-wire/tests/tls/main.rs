//! Calls over TLS: the engine's own two ends, peers that RSF did not write, and handshakes that must fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

mod certificates;
mod echo;

mod handshake;
mod peers;

use std::future::poll_fn;

use bytes::Bytes;
use rsf_wire::message::unframe;
use rsf_wire::{Head, Literals, Opened};

use certificates::Authority;
use echo::{asked, client_of, pair, request};

#[tokio::test]
async fn calls_small_and_large_go_over_tls_and_name_https() {
    let client = pair(&Authority::new()).await;
    for size in [0, 1, 100, 16_384, 1 << 20] {
        let message = vec![7; size];
        assert_eq!(asked(&client, &message).await, message);
    }
    let reply = client.call(request(b"?")).await.unwrap();
    assert_eq!(reply.headers.get("x-scheme"), Some(b"https".as_slice()));
}

#[tokio::test]
async fn many_calls_at_once_share_a_connection_over_tls() {
    let client = pair(&Authority::new()).await;
    let calls = (0..200).map(|number: u32| {
        let client = &client;
        async move {
            let message = number.to_be_bytes().repeat(500);
            assert_eq!(asked(client, &message).await, message);
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn streams_go_over_tls_in_both_directions_at_once() {
    let client = pair(&Authority::new()).await;
    let head = Head {
        method: "POST",
        path: "/t/stream",
        authority: None,
        grpc: true,
        fields: Literals::new(),
    };
    let Opened {
        mut incoming,
        mut outgoing,
    } = client.open(head, false);
    for round in 0..100u8 {
        let piece = Bytes::from(vec![round; 30_000]);
        poll_fn(|cx| outgoing.poll_room(cx)).await.unwrap();
        outgoing.send(piece.clone(), round == 99);
        let mut came = Vec::new();
        while came.len() < piece.len() {
            let next = poll_fn(|cx| incoming.poll_data(cx)).await;
            came.extend(next.expect("the echo goes on").unwrap());
        }
        assert_eq!(came, piece, "{round}");
    }
    assert!(poll_fn(|cx| incoming.poll_data(cx)).await.is_none());
    let trailers = incoming.take_trailers().unwrap();
    assert_eq!(trailers.get("grpc-status"), Some(b"0".as_slice()));
}

#[tokio::test]
async fn a_drained_server_lets_calls_over_tls_finish() {
    let authority = Authority::new();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let served = echo::serving(far, authority.server(), async move {
        let _ = drained.await;
    });
    let client = client_of(near, authority.client()).await;
    assert_eq!(asked(&client, b"before").await, "before");
    let slot = client.send(rsf_wire::Request {
        path: "/t/later",
        ..request(b"under way")
    });
    drain.send(()).unwrap();
    let reply = poll_fn(|cx| client.poll(slot, cx)).await.unwrap();
    assert_eq!(unframe(&reply.body.unwrap()).unwrap().unwrap(), "under way");
    // Whole, and with TLS's goodbye.
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_leaves_without_goodbye_has_left() {
    let authority = Authority::new();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let served = echo::serving(far, authority.server(), std::future::pending());
    let (stream, left) = echo::leaving(near);
    let client = client_of(stream, authority.client()).await;
    assert_eq!(asked(&client, b"before").await, "before");
    left.send(()).unwrap();
    served.await.unwrap().unwrap();
    drop(client);
}
