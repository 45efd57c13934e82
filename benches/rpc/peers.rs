//! What the processes run: an echo server and a client of each peer.

mod bare;
mod governed;
mod tcp;
mod tonic;
mod wire;

use governed::{Engine, Hyper};
use tokio::net::TcpListener;

use crate::load::{Measured, run};
use crate::plan::{Amount, Cell, Peer};
use crate::work::Work;
use crate::{Error, Result, resident};

/// Serves on all listeners, for ever.
pub(crate) async fn serve(cell: Cell, listeners: Vec<TcpListener>) -> Result<()> {
    let work = Work::of_micros(cell.work_us);
    match cell.peer {
        Peer::Tonic | Peer::Varying | Peer::BareToTonic => tonic::serve(listeners, work).await,
        Peer::Governed => governed::serve::<Hyper>(listeners).await,
        Peer::Engine => governed::serve::<Engine>(listeners).await,
        Peer::Wire => wire::serve::<Hyper>(listeners).await,
        Peer::EngineWire => wire::serve::<Engine>(listeners).await,
        Peer::Bare | Peer::TonicToBare => bare::serve(listeners, work).await,
        Peer::Tcp => tcp::serve(listeners).await,
        Peer::Tarpc => Err(Error::from("tarpc has a program of its own")),
    }
}

/// Calls the server at `addresses`.
pub(crate) async fn call(cell: Cell, addresses: &[String], amount: Amount, server: u32) -> Result<Measured> {
    let Cell {
        peer,
        in_flight,
        payload,
        ..
    } = cell;
    if let (Amount::Idle(connections), Peer::Bare) = (amount, peer) {
        let resident = resident::rest(
            async || bare::connection(&addresses[0]).await,
            connections,
            server,
        )
        .await?;
        return Ok(Measured {
            resident: Some(resident),
            ..Measured::default()
        });
    }
    match peer {
        Peer::Tonic => {
            let caller = tonic::connect(addresses, payload, false).await?;
            run(caller, in_flight, amount, server).await
        }
        Peer::Varying | Peer::TonicToBare => {
            let caller = tonic::connect(addresses, payload, true).await?;
            run(caller, in_flight, amount, server).await
        }
        Peer::Governed => {
            let caller = governed::connect::<Hyper>(addresses, amount, payload)?;
            run(caller, in_flight, amount, server).await
        }
        Peer::Engine => {
            let caller = governed::connect::<Engine>(addresses, amount, payload)?;
            run(caller, in_flight, amount, server).await
        }
        Peer::Wire => {
            run(
                wire::connect::<Hyper>(addresses, payload).await?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::EngineWire => {
            let caller = wire::connect::<Engine>(addresses, payload).await?;
            run(caller, in_flight, amount, server).await
        }
        Peer::Bare | Peer::BareToTonic => {
            run(
                bare::connect(addresses, payload).await?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::Tcp => {
            run(
                tcp::connect(&addresses[0], payload).await?,
                in_flight,
                amount,
                server,
            )
            .await
        }
        Peer::Tarpc => Err(Error::from("tarpc has a program of its own")),
    }
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place * 31 % 251) as u8).collect()
}

/// Looks at a reply as an application would: the bytes are there.
fn check(received: &[u8], sent: &[u8]) -> Result<()> {
    if received.len() == sent.len() {
        return Ok(());
    }
    Err(Error::from(format!(
        "the echo has {} bytes, not {}",
        received.len(),
        sent.len()
    )))
}
