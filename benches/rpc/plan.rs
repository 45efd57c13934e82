//! What is measured: cells of peer, runtime, calls in flight and instances.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of the payload, as a rule.
pub(crate) const PAYLOAD: usize = 128;

/// Who calls whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// RSF's engine by itself: the crate `rsf-wire` and nothing of RSF above it.
    Bare,
    /// tonic as in `Tonic`, each call with a deadline, a request id and a trace header that differ from call to call.
    Varying,
    /// The engine's client, tonic's server; both carry the same headers.
    BareToTonic,
    /// tonic's client, the engine's server.
    TonicToBare,
    /// The payload over TCP and back, without calls: one at a time.
    Tcp,
    /// tarpc over TCP with bincode: a program of its own, `benches/tarpc`.
    Tarpc,
}

/// The tokio runtime of both processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// tokio's default: a worker a core.
    Multi,
    /// One thread.
    Current,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) peer: Peer,
    pub(crate) mode: Mode,
    /// Calls that wait for their reply at any time.
    pub(crate) in_flight: usize,
    /// Ports that the server listens on; the client has one connection to each.
    pub(crate) instances: usize,
    /// Bytes of the payload.
    pub(crate) payload: usize,
    /// Microseconds that the handler works for.
    pub(crate) work_us: u32,
}

/// How long a client calls.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Amount {
    /// Warms up, then measures.
    Time { warm: Duration, window: Duration },
    /// The same, with so many calls begun a second whether others have ended or not. Latencies count from when a call was
    /// due.
    Open {
        rate: f64,
        warm: Duration,
        window: Duration,
    },
    /// So many calls in all, for callgrind.
    Calls(u64),
    /// So many calls that are not answered, to look at the memory that they take.
    Pending(u64),
    /// So many connections that rest.
    Idle(u64),
}

impl Peer {
    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Tonic => "tonic",
            Peer::Governed => "rsf governed",
            Peer::Engine => "rsf governed (engine)",
            Peer::Wire => "rsf wire alone",
            Peer::EngineWire => "rsf wire alone (engine)",
            Peer::Bare => "engine",
            Peer::Varying => "tonic with varying headers",
            Peer::BareToTonic => "engine to tonic",
            Peer::TonicToBare => "tonic to engine",
            Peer::Tcp => "TCP",
            Peer::Tarpc => "tarpc",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.name();
        let mode = match self.mode {
            Mode::Multi => "multi",
            Mode::Current => "current",
        };
        write!(f, "{peer}, {mode}, {} in flight", self.in_flight)?;
        if self.instances != 1 {
            write!(f, ", {} instances", self.instances)?;
        }
        if self.payload != PAYLOAD {
            write!(f, ", {} bytes", self.payload)?;
        }
        if self.work_us > 0 {
            write!(f, ", {} µs of work", self.work_us)?;
        }
        Ok(())
    }
}

impl Cell {
    /// A cell of one instance, the usual payload and no work.
    pub(crate) fn of(peer: Peer, mode: Mode, in_flight: usize) -> Cell {
        Cell {
            peer,
            mode,
            in_flight,
            instances: 1,
            payload: PAYLOAD,
            work_us: 0,
        }
    }

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
                instances,
                ..Cell::of(peer, mode, in_flight)
            });
        }
    }
    cells.retain(|cell| cell.to_string().contains(only));
    cells
}
