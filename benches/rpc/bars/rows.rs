//! What is compared with what, and the bars.

use crate::load::Measured;
use crate::plan::{Cell, Mode, Peer};

/// What a ratio is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bar {
    AtLeast { goal: f64, must: f64 },
    AtMost { goal: f64, must: f64 },
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Figure {
    Calls,
    Cpu,
    P50,
    P99,
    P999,
}

impl Figure {
    pub(super) fn of(self, measured: &Measured) -> f64 {
        match self {
            Figure::Calls => measured.calls as f64 / measured.seconds,
            Figure::Cpu => measured.client_cpu_us + measured.server_cpu_us,
            Figure::P50 => measured.p50_us,
            Figure::P99 => measured.p99_us,
            Figure::P999 => measured.p999_us,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Figure::Calls => "calls/s",
            Figure::Cpu => "CPU a call",
            Figure::P50 => "p50",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
        }
    }
}

/// A cell, and how its calls begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Load {
    pub(super) cell: Cell,
    /// At 70 % of what tonic does with 64 in flight in the same round, instead of as fast as answers come.
    pub(super) open: bool,
}

/// A row of the table. Of several loads on a side the best counts.
pub(super) struct Row {
    pub(super) figure: Figure,
    pub(super) ours: Vec<Load>,
    pub(super) theirs: Vec<Load>,
    pub(super) bar: Bar,
}

/// What an open loop's rate is of tonic's capacity.
pub(super) const SHARE_OF_CAPACITY: f64 = 0.7;

/// The table's rows, in its order.
pub(super) fn rows() -> Vec<Row> {
    use Figure::{Calls, Cpu, P50, P99, P999};
    use Mode::{Current, Multi};
    let closed = |cell| Load { cell, open: false };
    let open = |cell| Load { cell, open: true };
    let at_least = |goal, must| Bar::AtLeast { goal, must };
    let at_most = |goal, must| Bar::AtMost { goal, must };
    let engine = |mode, in_flight| Cell::of(Peer::Bare, mode, in_flight);
    let tonic = |mode, in_flight| Cell::of(Peer::Varying, mode, in_flight);
    let mut rows = Vec::new();
    let mut row = |figure, ours: &[Load], theirs: &[Load], bar| {
        rows.push(Row {
            figure,
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            bar,
        });
    };
    for mode in [Multi, Current] {
        let (ours, theirs) = (closed(engine(mode, 64)), closed(tonic(mode, 64)));
        row(Calls, &[ours], &[theirs], at_least(12.0, 7.0));
        row(Cpu, &[ours], &[theirs], at_most(1.0 / 12.0, 1.0 / 7.0));
    }
    for instances in [1, 10] {
        let governed = Cell {
            instances,
            ..Cell::of(Peer::Engine, Multi, 64)
        };
        let bare = Cell {
            instances,
            ..tonic(Multi, 64)
        };
        row(Calls, &[closed(governed)], &[closed(bare)], at_least(10.0, 5.0));
    }
    let (alone, tcp) = (closed(engine(Multi, 1)), closed(Cell::of(Peer::Tcp, Multi, 1)));
    row(P50, &[alone], &[tcp], at_most(1.2, 1.35));
    row(Calls, &[alone], &[closed(tonic(Multi, 1))], at_least(2.5, 2.1));
    let (ours, theirs) = (open(engine(Multi, 64)), open(tonic(Multi, 64)));
    row(P99, &[ours], &[theirs], at_most(0.25, 0.5));
    row(P999, &[ours], &[theirs], at_most(0.25, 0.5));
    let works = |cell: Cell| closed(Cell { work_us: 50, ..cell });
    let (ours, theirs) = (works(engine(Multi, 64)), works(tonic(Multi, 64)));
    row(Calls, &[ours], &[theirs], at_least(1.01, 1.0));
    row(P99, &[ours], &[theirs], at_most(0.99, 1.0));
    let large = |cell: Cell| {
        closed(Cell {
            payload: 4096,
            ..cell
        })
    };
    let (ours, theirs) = (large(engine(Multi, 64)), large(tonic(Multi, 64)));
    row(Calls, &[ours], &[theirs], at_least(10.0, 5.0));
    for peer in [Peer::BareToTonic, Peer::TonicToBare] {
        let mixed = closed(Cell::of(peer, Multi, 64));
        row(Calls, &[mixed], &[closed(tonic(Multi, 64))], at_least(1.8, 1.4));
    }
    let best = |peer| [Multi, Current].map(|mode| closed(Cell::of(peer, mode, 64)));
    row(Calls, &best(Peer::Bare), &best(Peer::Tarpc), at_least(2.5, 1.5));
    rows
}
