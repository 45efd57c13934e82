//! Peers that RSF did not write, over TLS: curl (OpenSSL, nghttp2) and grpcio (BoringSSL), which is both ends.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsf_testkit::{Program, TempDir, python};
use rsf_wire::message::frame;
use rsf_wire::{Limits, serve, tls};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::Authority;
use crate::echo::{Echo, asked, client_of};

const SOON: Duration = Duration::from_secs(60);

/// Serves at a port of its own until the test ends.
async fn served(authority: &Authority) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = authority.server();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let config = config.clone();
            tokio::spawn(async move {
                // How a peer ends its connection is its own affair here.
                if let Ok(stream) = tls::accept(stream, config).await {
                    let never = std::future::pending();
                    let _ = serve(stream, Arc::new(Echo), Limits::default(), never).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn curl_calls_the_engine_over_tls() {
    let authority = Authority::new();
    let address = served(&authority).await;
    let folder = TempDir::new("curl-tls");
    let (root, asked, said) = (
        folder.join("ca.pem"),
        folder.join("request"),
        folder.join("reply"),
    );
    std::fs::write(&root, authority.root_pem()).unwrap();
    let message = frame(&vec![7; 1 << 20]).unwrap();
    std::fs::write(&asked, &message).unwrap();
    let data = format!("@{}", asked.display());
    let curl = |protocol: &str| {
        let program = Program::new("curl").args(["--silent", "--show-error", protocol, "--max-time", "30"]);
        let program = program.args(["--cacert", &root.display().to_string(), "--dump-header", "-"]);
        let program = program.args(["--output", &said.display().to_string(), "--data-binary", &data]);
        let program = program.args(["--header", "content-type: application/grpc"]);
        let program = program.args(["--header", "te: trailers"]);
        program.arg(format!("https://{address}/t/echo")).output(SOON)
    };
    let output = curl("--http2").await;
    for line in ["HTTP/2 200", "grpc-status: 0", "x-scheme: https"] {
        assert!(output.stdout.contains(line), "{output:?}");
    }
    assert_eq!(std::fs::read(&said).unwrap(), message);
    // Without HTTP/2 it learns by TLS's alert that there is nothing for it.
    let output = curl("--http1.1").await;
    assert!(
        !output.status.success() && output.stderr.contains("alert"),
        "{output:?}"
    );
}

fn script(authority: &Authority, folder: &TempDir) -> Program {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for (name, pem) in [
        ("ca.pem", authority.root_pem()),
        ("server.pem", authority.leaf_pem()),
        ("server.key", authority.key_pem()),
    ] {
        std::fs::write(folder.join(name), pem).unwrap();
    }
    let program = Program::new(python()).name("peer.py").arg("peer.py");
    let program = program.current_dir(here).env("PYTHONDONTWRITEBYTECODE", "1");
    program.arg(folder.path().display().to_string())
}

#[tokio::test]
async fn grpcio_calls_the_engine_over_tls() {
    let authority = Authority::new();
    let folder = TempDir::new("grpcio-tls-client");
    let port = served(&authority).await.port().to_string();
    let client = script(&authority, &folder).arg(port).output(SOON).await;
    assert!(client.status.success(), "{client:?}");
    assert_eq!(client.stdout, "unary\nlarge\nstream\n");
}

#[tokio::test]
async fn the_engine_calls_grpcio_over_tls() {
    let authority = Authority::new();
    let folder = TempDir::new("grpcio-tls-server");
    let server = script(&authority, &folder).start();
    let line = server.line("port ", SOON).await;
    let port: u16 = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let client = client_of(stream, authority.client()).await;
    for size in [0, 100, 1 << 20] {
        let message = vec![7; size];
        assert_eq!(asked(&client, &message).await, message);
    }
}
