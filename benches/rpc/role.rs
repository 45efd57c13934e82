//! What the processes of a cell are told, and what they do: one serves, one calls.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::plan::{Amount, Cell, Mode};
use crate::{Result, peers};

/// What a server process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerSpec {
    pub(crate) cell: Cell,
}

/// What a client process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientSpec {
    pub(crate) cell: Cell,
    pub(crate) addresses: Vec<String>,
    pub(crate) server: u32,
    pub(crate) amount: Amount,
}

/// The server's process: says where it listens, and serves until nobody holds its standard input.
pub(crate) fn server(spec: &ServerSpec) -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime(spec.cell.mode)?.block_on(async {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..spec.cell.instances {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?.to_string());
            listeners.push(listener);
        }
        say(&addresses)?;
        peers::serve(spec.cell, listeners).await
    })
}

/// The client's process: says what it measured.
pub(crate) fn client(spec: &ClientSpec) -> Result<()> {
    let measured = runtime(spec.cell.mode)?.block_on(peers::call(
        spec.cell,
        &spec.addresses,
        spec.amount,
        spec.server,
    ))?;
    say(&measured)
}

fn say(message: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, message)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

fn runtime(mode: Mode) -> Result<tokio::runtime::Runtime> {
    let mut builder = match mode {
        Mode::Multi => tokio::runtime::Builder::new_multi_thread(),
        Mode::Current => tokio::runtime::Builder::new_current_thread(),
    };
    Ok(builder.enable_all().build()?)
}
