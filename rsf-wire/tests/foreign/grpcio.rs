//! gRPC's interop cases against grpcio, whose core is gRPC's own in C.

use std::path::Path;

use rsf_testkit::{Process, Program, python};
use rsf_wire::Client;

use crate::interop::{CASES, USUAL, compressed_case, given_up_cases, streaming_cases, unary_cases};
use crate::testing::{SOON, connected, served};

fn script(name: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    Program::new(python())
        .name(name)
        .arg(name)
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

async fn called_by_grpcio(cases: &[&str]) {
    let address = served().await;
    let client = script("client.py").arg(address.to_string()).args(cases).start();
    let status = client.wait(SOON).await;
    let held = client.stdout();
    assert!(status.success(), "{}", client.log());
    assert_eq!(held.lines().collect::<Vec<_>>(), cases);
}

#[tokio::test]
async fn grpcio_calls_the_engine() {
    called_by_grpcio(&CASES).await;
}

async fn grpcio_server() -> (Process, Client) {
    started(script("server.py")).await
}

async fn started(server: Program) -> (Process, Client) {
    let server = server.start();
    let line = server.line("port ", SOON).await;
    let port = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    (server, connected(port).await)
}

#[tokio::test]
async fn the_engine_calls_grpcio() {
    let (_server, client) = grpcio_server().await;
    unary_cases(&client).await;
}

#[tokio::test]
async fn the_engine_and_grpcio_compress_for_each_other() {
    called_by_grpcio(&["compressed_unary", "large_unary"]).await;
    let (_server, client) = started(script("server.py").arg("compressed")).await;
    compressed_case(&client).await;
}

#[tokio::test]
async fn the_engine_gives_calls_to_grpcio_up_and_goes_on() {
    let (server, client) = grpcio_server().await;
    given_up_cases(&client, USUAL, async |word| {
        server.line(word, SOON).await;
    })
    .await;
}

#[tokio::test]
async fn the_engine_streams_with_grpcio() {
    let (_server, client) = grpcio_server().await;
    streaming_cases(&client, USUAL).await;
}
