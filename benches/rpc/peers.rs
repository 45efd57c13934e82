//! What the processes run: an echo server and a client of each peer.

mod governed;
mod tonic;
mod wire;

use governed::{Engine, Hyper};
use tokio::net::TcpListener;

use crate::load::{self, Measured};
use crate::plan::{Amount, Cell, PAYLOAD, Peer};
use crate::{Error, Result};

/// Serves on all listeners, for ever.
pub(crate) async fn serve(peer: Peer, listeners: Vec<TcpListener>) -> Result<()> {
    match peer {
        Peer::Tonic => tonic::serve(listeners).await,
        Peer::Governed => governed::serve::<Hyper>(listeners).await,
        Peer::Engine => governed::serve::<Engine>(listeners).await,
        Peer::Wire => wire::serve::<Hyper>(listeners).await,
        Peer::EngineWire => wire::serve::<Engine>(listeners).await,
    }
}

/// Calls the server at `addresses`.
pub(crate) async fn call(cell: Cell, addresses: &[String], amount: Amount, server: u32) -> Result<Measured> {
    let Cell { peer, in_flight, .. } = cell;
    match peer {
        Peer::Tonic => load::run(tonic::connect(addresses).await?, in_flight, amount, server).await,
        Peer::Governed => {
            load::run(
                governed::connect::<Hyper>(addresses, amount)?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::Engine => {
            load::run(
                governed::connect::<Engine>(addresses, amount)?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::Wire => {
            load::run(
                wire::connect::<Hyper>(addresses).await?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::EngineWire => {
            load::run(
                wire::connect::<Engine>(addresses).await?,
                in_flight,
                amount,
                server,
            )
            .await
        }
    }
}

fn payload() -> Vec<u8> {
    (0..PAYLOAD).map(|place| (place * 31 % 251) as u8).collect()
}

/// Looks at a reply as an application would: the bytes are there.
fn check(received: &[u8]) -> Result<()> {
    if received.len() == PAYLOAD {
        return Ok(());
    }
    Err(Error::from(format!(
        "the echo has {} bytes, not {PAYLOAD}",
        received.len()
    )))
}
