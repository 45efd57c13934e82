//! Handshakes that must fail, in time and with words that help.

use std::sync::Arc;
use std::time::Duration;

use rsf_wire::Refusal;
use rsf_wire::tls::{HANDSHAKE_TIME, TlsError, accept, accept_within, connect, connect_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificates::{Authority, named};

/// A server of rustls alone, with these protocols; what it makes of the client is its own affair.
fn foreign_server(authority: &Authority, protocols: &[&str]) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(authority.server_of(protocols));
    tokio::spawn(async move {
        if let Ok(mut stream) = acceptor.accept(far).await {
            let _ = stream.read(&mut [0]).await;
        }
    });
    near
}

#[tokio::test]
async fn a_server_without_http2_is_refused() {
    let authority = Authority::new();
    for (protocols, says) in [
        (&["http/1.1"][..], "it refused the protocol"),
        (&[], "it named no protocol"),
    ] {
        let stream = foreign_server(&authority, protocols);
        let refused = connect(stream, "localhost", Arc::new(authority.client())).await;
        let error = refused.map(drop).unwrap_err();
        assert!(matches!(error, TlsError::NoHttp2(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("`h2` by ALPN"), "{text}");
    }
    // One that has both has it.
    let stream = foreign_server(&authority, &["http/1.1", "h2"]);
    let mut config = authority.client();
    // What a caller's configuration offers beside does not count.
    config.alpn_protocols = named(&["http/1.1", "h2"]);
    connect(stream, "localhost", Arc::new(config)).await.unwrap();
}

#[tokio::test]
async fn a_client_without_http2_is_refused() {
    let authority = Authority::new();
    for (protocols, says) in [
        (&["http/1.1"][..], "it offered other protocols only"),
        (&[], "it named no protocol"),
    ] {
        let (near, far) = duplex(64 * 1024);
        let mut config = authority.client();
        config.alpn_protocols = named(protocols);
        let client = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), near);
        // The server's own list does not count either.
        let server = accept(far, authority.server_of(&["http/1.1"]));
        let (client, server) = tokio::join!(client, server);
        let error = server.map(drop).unwrap_err();
        assert!(matches!(error, TlsError::NoHttp2(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("`h2` by ALPN"), "{text}");
        // Who did not break off itself meets a clean end, and no answer.
        if let Ok(mut client) = client {
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_handshakes_end_in_time_on_both_sides() {
    let authority = Authority::new();
    let began = tokio::time::Instant::now();
    let (near, _silent) = duplex(64 * 1024);
    let error = connect(near, "localhost", Arc::new(authority.client())).await;
    assert!(matches!(error, Err(TlsError::Slow(HANDSHAKE_TIME))));
    assert_eq!(began.elapsed().as_secs(), 3);

    let counted = Refusal::SlowHandshake.count();
    // The beginning of a ClientHello that never goes on.
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = accept(far, authority.server()).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "the TLS handshake took longer than 3s");
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(Refusal::SlowHandshake.count(), counted + 1);
    // It is hung up on.
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();

    let time = Duration::from_millis(200);
    let (near, far) = duplex(64 * 1024);
    let accepted = accept_within(time, far, authority.server()).await;
    assert!(matches!(accepted, Err(TlsError::Slow(limit)) if limit == time));
    drop(near);
    let (near, _silent) = duplex(64 * 1024);
    let connected = connect_within(time, near, "localhost", Arc::new(authority.client())).await;
    assert!(matches!(connected, Err(TlsError::Slow(limit)) if limit == time));
}

#[tokio::test]
async fn certificates_that_are_not_accepted_are_told_by_their_fault() {
    let (trusted, other) = (Authority::new(), Authority::new());
    for (server, name, says) in [
        (
            &other,
            "localhost",
            "none of the authorities that are trusted here has issued it",
        ),
        (&trusted, "shop.example", "not valid for name \"shop.example\""),
    ] {
        let (near, far) = duplex(64 * 1024);
        let config = Arc::new(trusted.client());
        let (client, server) = tokio::join!(connect(near, name, config), accept(far, server.server()));
        let error = client.map(drop).unwrap_err();
        assert!(matches!(error, TlsError::Certificate(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        // The server hears why.
        let error = server.map(drop).unwrap_err();
        assert!(error.to_string().contains("received fatal alert"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_tls_and_what_is_no_name_is_said() {
    let authority = Authority::new();
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let error = accept(far, authority.server()).await.map(drop).unwrap_err();
    assert!(matches!(error, TlsError::Handshake(_)), "{error:?}");
    let (near, _far) = duplex(64);
    let error = connect(near, "localhost:443", Arc::new(authority.client())).await;
    let text = error.map(drop).unwrap_err().to_string();
    assert!(text.contains("`localhost:443` is no server name"), "{text}");
}
