//! gRPC's interop cases against tonic's own client and server.

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};

use crate::interop::{CASES, Habits, given_up_cases, streaming_cases, unary_cases};
use crate::testing::{SOON, connected, served};

mod client;
mod server;

use client::Client;
use server::Service;

async fn tonic_server() -> (u16, mpsc::UnboundedReceiver<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (says, said) = mpsc::unbounded_channel();
    let incoming = TcpListenerStream::new(listener);
    let server = Server::builder().add_service(Service(says));
    tokio::spawn(server.serve_with_incoming(incoming));
    (port, said)
}

/// A late call is CANCELLED, as long as its reply has not begun. And h2 ends a connection of which more than 20 streams are
/// reset before it looked at them.
const TONICS: Habits = Habits {
    late: 1,
    late_streams: false,
    patience: 30,
};

#[tokio::test]
async fn the_engine_calls_tonic() {
    let (port, mut said) = tonic_server().await;
    let client = connected(port).await;
    unary_cases(&client).await;
    given_up_cases(&client, TONICS, async |word| {
        let next = tokio::time::timeout(SOON, said.recv()).await.expect(word);
        assert_eq!(next, Some(word));
    })
    .await;
    streaming_cases(&client, TONICS).await;
}

#[tokio::test]
async fn tonic_calls_the_engine() {
    let address = served().await;
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = Client(tonic::client::Grpc::new(endpoint.connect().await.unwrap()));
    for name in CASES {
        let case = tokio::time::timeout(SOON, client.case(name));
        case.await.unwrap_or_else(|_| panic!("{name} hangs"));
    }
}
