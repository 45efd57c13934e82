//! Server and client as processes of their own, so that each one's CPU time can be read.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::load::Measured;
use crate::plan::{Amount, Cell, Mode, Peer};
use crate::{Error, Result, peers};

/// What a server process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerSpec {
    peer: Peer,
    mode: Mode,
    instances: usize,
}

/// What a client process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientSpec {
    cell: Cell,
    addresses: Vec<String>,
    server: u32,
    amount: Amount,
}

/// A command prefix that a process runs under, such as valgrind; none: the process itself.
pub(crate) type Under<'a> = &'a [String];

/// Starts a server and a client for one cell and returns what the client measured.
pub(crate) fn measure(cell: Cell, amount: Amount, server: Under<'_>, client: Under<'_>) -> Result<Measured> {
    let server = Server::start(cell, server)?;
    let spec = ClientSpec {
        cell,
        addresses: server.addresses.clone(),
        server: server.process.id(),
        amount,
    };
    let output = this_program(client, "client", &spec)?
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    server.stop()?;
    if !output.status.success() {
        return Err(Error::from(format!(
            "{cell}: the client failed ({})",
            output.status
        )));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The server's process: says where it listens, and serves until nobody holds its standard input.
pub(crate) fn server(spec: &ServerSpec) -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime(spec.mode)?.block_on(async {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..spec.instances {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            addresses.push(listener.local_addr()?.to_string());
            listeners.push(listener);
        }
        say(&addresses)?;
        peers::serve(spec.peer, listeners).await
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

fn this_program(under: Under<'_>, role: &str, spec: &impl Serialize) -> Result<Command> {
    let program = std::env::current_exe()?;
    let mut command = match under {
        [] => Command::new(program),
        [wrapper, arguments @ ..] => {
            let mut command = Command::new(wrapper);
            command.args(arguments).arg(program);
            command
        }
    };
    command.arg(role).arg(serde_json::to_string(spec)?);
    Ok(command)
}

/// A server process; ends with this value.
struct Server {
    process: Child,
    addresses: Vec<String>,
}

impl Server {
    fn start(cell: Cell, under: Under<'_>) -> Result<Server> {
        let spec = ServerSpec {
            peer: cell.peer,
            mode: cell.mode,
            instances: cell.instances,
        };
        let mut process = this_program(under, "server", &spec)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let addresses = serde_json::from_str(&line)
            .map_err(|error| format!("{cell}: the server said `{line}` instead of its addresses: {error}"))?;
        Ok(Server { process, addresses })
    }

    fn stop(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(Error::from(format!("the server failed ({status})")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input ends it; reaped here where nobody stopped it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
