//! The port: bad input gets a clear answer, and the server lives on.

use std::time::Duration;

use rsf_registry::embedded::EmbeddedRegistry;
use rsf_registry::error::REQUEST_TIMEOUT;
use rsf_registry::record::registry_client::RegistryClient;
use rsf_registry::record::{
    Lease, ListServicesRequest, PutLeaseRequest, RenewLeaseRequest, WatchListRequest,
};
use rsf_registry::{Directory, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::server::Server;

#[tokio::test]
async fn bad_requests_are_answered() {
    let server = Server::started().await;
    let mut raw = raw(&server).await;
    let missing = raw
        .list_services(ListServicesRequest {})
        .await
        .expect_err("no namespace");
    assert_eq!(missing.code(), Code::InvalidArgument);
    for part in ["rsf-namespace", "`default`", "`other`"] {
        assert!(missing.message().contains(part), "{missing}");
    }
    let unknown = raw
        .list_services(in_namespace("nowhere", ListServicesRequest {}))
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code(), Code::FailedPrecondition);
    assert!(unknown.message().contains("`default`"), "{unknown}");

    let no_lease = PutLeaseRequest {
        lease: None,
        ttl_ms: 5000,
    };
    let long = WatchListRequest {
        service: "x".repeat(201),
    };
    let good = Lease {
        application: "a".into(),
        instance: "a/1".into(),
        ..Default::default()
    };
    let no_ttl = PutLeaseRequest {
        lease: Some(good.clone()),
        ttl_ms: 0,
    };
    let endless = RenewLeaseRequest {
        instance: "a/1".into(),
        incarnation: 1,
        ttl_ms: u32::MAX,
    };
    let statuses = [
        raw.put_lease(in_namespace("default", no_lease))
            .await
            .expect_err("no lease"),
        raw.put_lease(in_namespace("default", no_ttl))
            .await
            .expect_err("no TTL"),
        raw.renew_lease(in_namespace("default", endless))
            .await
            .expect_err("endless TTL"),
        raw.watch_list(in_namespace("default", long))
            .await
            .expect_err("long name"),
    ];
    for status in statuses {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(!status.message().is_empty());
    }
    let mut huge = good;
    huge.tags.insert("k".into(), "x".repeat(5 << 20));
    let huge = PutLeaseRequest {
        lease: Some(huge),
        ttl_ms: 5000,
    };
    let refused = raw
        .put_lease(in_namespace("default", huge))
        .await
        .expect_err("5 MiB");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    server.client("default").services().await.expect("it lives on");
}

#[tokio::test]
async fn noise_on_the_port_disturbs_nobody() {
    let server = Server::started().await;
    let mut random = fastrand::Rng::with_seed(5);
    for n in 0..40 {
        let mut stream = TcpStream::connect(server.address()).await.expect("connect");
        if n % 2 == 0 {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .expect("write");
        }
        let noise: Vec<u8> = (0..random.usize(1..500)).map(|_| random.u8(..)).collect();
        // The server may have closed already.
        let _ = stream.write_all(&noise).await;
        if n % 3 == 0 {
            let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 64])).await;
        }
    }
    server.client("default").services().await.expect("it lives on");
}

#[tokio::test]
async fn a_silent_or_foreign_server_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = silent.local_addr().expect("address").to_string();
    let client = EmbeddedRegistry::new(&address, "default").expect("client");
    let begun = Instant::now();
    let error = client.services().await.expect_err("nobody answers");
    assert!(
        begun.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        error.is_transient() && error.to_string().contains(&address),
        "{error}"
    );

    let foreign = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = foreign.local_addr().expect("address").to_string();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = foreign.accept().await {
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    let client = EmbeddedRegistry::new(&address, "default").expect("client");
    let error = client.services().await.expect_err("no registry");
    assert!(
        matches!(&error, StoreError::Unavailable { .. }) && error.to_string().contains(&address),
        "{error}"
    );
    answering.abort();
}

#[tokio::test]
async fn a_shutdown_ends_watches_in_time() {
    let server = Server::started().await;
    let client = server.client("default");
    let mut watches: Vec<_> = (0..50).map(|n| client.watch(&format!("s.S{n}"))).collect();
    for watch in &mut watches {
        watch.changed().await.expect("the first state");
    }
    let begun = Instant::now();
    server.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "open watches must not hold a shutdown: {:?}",
        begun.elapsed()
    );
}

#[test]
fn bad_addresses_are_refused() {
    for bad in ["", "nowhere", "http://127.0.0.1:1", "127.0.0.1:0", "a b:1"] {
        let error = EmbeddedRegistry::new(bad, "default").expect_err(bad).to_string();
        assert!(error.contains("host:port"), "{error}");
    }
    let error = EmbeddedRegistry::new("127.0.0.1:1", "a/b")
        .expect_err("namespace")
        .to_string();
    assert!(error.contains("RSF_NAMESPACE"), "{error}");
}

async fn raw(server: &Server) -> RegistryClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).expect("address");
    RegistryClient::new(endpoint.connect().await.expect("connect"))
}

fn in_namespace<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("rsf-namespace", namespace.parse().expect("ASCII"));
    request
}
