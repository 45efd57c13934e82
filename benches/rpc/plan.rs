//! What is measured: cells of peer, runtime, calls in flight and instances.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of the payload.
pub(crate) const PAYLOAD: usize = 128;

/// Who calls whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Peer {
    /// Generated tonic client and server, nothing around them.
    Tonic,
    /// Generated RSF client and server under the reference policy.
    Governed,
    /// The same over RSF's own engine, which is off by default.
    Engine,
    /// RSF's wire by itself, with all that a governed call carries: what governance stands on.
    Wire,
    /// The same over RSF's own engine.
    EngineWire,
}

/// The tokio runtime of both processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// tokio's default: a worker a core.
    Multi,
    /// One thread.
    Current,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) peer: Peer,
    pub(crate) mode: Mode,
    /// Calls that wait for their reply at any time.
    pub(crate) in_flight: usize,
    /// Ports that the server listens on; the client has one connection to each.
    pub(crate) instances: usize,
}

/// How long a client calls.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amount {
    /// Warms up, then measures.
    Time { warm: Duration, window: Duration },
    /// So many calls in all, for callgrind.
    Calls(u64),
    /// So many calls that are not answered, to look at the memory that they take.
    Pending(u64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = match self.peer {
            Peer::Tonic => "tonic",
            Peer::Governed => "rsf governed",
            Peer::Engine => "rsf governed (engine)",
            Peer::Wire => "rsf wire alone",
            Peer::EngineWire => "rsf wire alone (engine)",
        };
        let mode = match self.mode {
            Mode::Multi => "multi",
            Mode::Current => "current",
        };
        write!(f, "{peer}, {mode}, {} in flight", self.in_flight)?;
        match self.instances {
            1 => Ok(()),
            instances => write!(f, ", {instances} instances"),
        }
    }
}

impl Cell {
    /// The tonic cell that this one compares with.
    pub(crate) fn baseline(self) -> Cell {
        Cell {
            peer: Peer::Tonic,
            ..self
        }
    }
}

/// All cells whose name contains `only`; those that one row of the table compares stand together.
pub(crate) fn cells(only: &str) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (mode, in_flight, instances) in [
        (Mode::Multi, 64, 1),
        (Mode::Multi, 1, 1),
        (Mode::Current, 64, 1),
        (Mode::Current, 1, 1),
        (Mode::Multi, 64, 10),
        (Mode::Current, 64, 10),
    ] {
        for peer in [
            Peer::Tonic,
            Peer::Governed,
            Peer::Engine,
            Peer::Wire,
            Peer::EngineWire,
        ] {
            cells.push(Cell {
                peer,
                mode,
                in_flight,
                instances,
            });
        }
    }
    cells.retain(|cell| cell.to_string().contains(only));
    cells
}
