//! gRPC's interop cases against grpc-js, which stands on Node's own HTTP/2.

use std::path::Path;

use rsf_testkit::{Process, Program, node_modules};
use rsf_wire::Client;

use crate::interop::{CASES, USUAL, given_up_cases, streaming_cases, unary_cases};
use crate::testing::{SOON, connected, served};

fn script(name: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    Program::new("node")
        .name(name)
        .arg(format!("node/{name}"))
        .current_dir(folder)
        .env("NODE_PATH", node_modules())
}

#[tokio::test]
async fn grpc_js_calls_the_engine() {
    let address = served().await;
    let client = script("client.js").arg(address.to_string()).args(CASES).start();
    let status = client.wait(SOON).await;
    let held = client.stdout();
    assert!(status.success(), "{}", client.log());
    assert_eq!(held.lines().collect::<Vec<_>>(), CASES);
}

async fn grpc_js_server() -> (Process, Client) {
    let server = script("server.js").start();
    let line = server.line("port ", SOON).await;
    let port = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    (server, connected(port).await)
}

#[tokio::test]
async fn the_engine_calls_grpc_js() {
    let (_server, client) = grpc_js_server().await;
    unary_cases(&client).await;
}

#[tokio::test]
async fn the_engine_gives_calls_to_grpc_js_up_and_goes_on() {
    let (server, client) = grpc_js_server().await;
    given_up_cases(&client, USUAL, async |word| {
        server.line(word, SOON).await;
    })
    .await;
}

#[tokio::test]
async fn the_engine_streams_with_grpc_js() {
    let (_server, client) = grpc_js_server().await;
    streaming_cases(&client, USUAL).await;
}
