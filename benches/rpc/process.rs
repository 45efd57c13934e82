//! Server and client as processes of their own, so that each one's CPU time can be read.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::Serialize;

use crate::load::Measured;
use crate::plan::{Amount, Cell, Peer};
use crate::report::target_folder;
use crate::role::{ClientSpec, ServerSpec};
use crate::{Error, Result};

/// A command prefix that a process runs under, such as valgrind; none: the process itself.
pub(crate) type Under<'a> = &'a [String];

/// Starts a server and a client for one cell and returns what the client measured.
pub(crate) fn measure(cell: Cell, amount: Amount, server: Under<'_>, client: Under<'_>) -> Result<Measured> {
    let server = Server::start(cell, server)?;
    let measured = measure_at(&server, cell, amount, client);
    server.stop()?;
    measured
}

/// Starts a client for a cell whose server is there.
pub(crate) fn measure_at(server: &Server, cell: Cell, amount: Amount, client: Under<'_>) -> Result<Measured> {
    let spec = ClientSpec {
        cell,
        addresses: server.addresses.clone(),
        server: server.id(),
        amount,
    };
    let output = program(client, cell.peer, "client", &spec)?
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(Error::from(format!(
            "{cell}: the client failed ({})",
            output.status
        )));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where tarpc's program lies, which is built by itself: in one build with tonic it would turn on features of tonic's that
/// make it slower.
pub(crate) fn tarpc() -> Result<Option<PathBuf>> {
    let built = target_folder()?.join("tarpc/release/rsf-bench-tarpc");
    Ok(built.exists().then_some(built))
}

fn program(under: Under<'_>, peer: Peer, role: &str, spec: &impl Serialize) -> Result<Command> {
    let program = match peer {
        Peer::Tarpc => tarpc()?.ok_or("tarpc's program is not built: `make bench-wire` builds it")?,
        _ => std::env::current_exe()?,
    };
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
pub(crate) struct Server {
    process: Child,
    pub(crate) addresses: Vec<String>,
}

impl Server {
    pub(crate) fn start(cell: Cell, under: Under<'_>) -> Result<Server> {
        let spec = ServerSpec { cell };
        let mut process = program(under, cell.peer, "server", &spec)?
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

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn stop(mut self) -> Result<()> {
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
