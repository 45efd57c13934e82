//! What honest callers of an engine's server feel while somebody attacks it: their p99 beside a process that burns as much CPU
//! as the attacker and does nothing else.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose purpose is its output"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::load::Measured;
use crate::plan::{Amount, Cell, Mode, Peer};
use crate::process::{Server, measure_at};
use crate::report::{median, output_folder};
use crate::{Error, Result, cpu};

mod attacks;

use crate::attack::Attack;

/// Honest calls a second: far below what the server can do, so that what they feel is the attack.
const HONEST: f64 = 2_000.0;
const GOAL: f64 = 1.2;
const MUST: f64 = 1.5;

/// What an attacker is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AttackerSpec {
    address: String,
    deed: Deed,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Deed {
    /// By its name.
    Attack(String),
    /// Burns this share of one core's time.
    Burn(f64),
}

/// What it says at its end.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Done {
    connections: u64,
}

/// One run: what honest callers saw, and what everyone took.
#[derive(Debug, Clone, Serialize)]
struct Seen {
    p50_us: f64,
    p99_us: f64,
    /// Cores that the attacker used, and the server.
    attacker: f64,
    server: f64,
    connections: u64,
}

#[derive(Serialize)]
struct Row {
    name: String,
    attacked: Vec<Seen>,
    beside_burner: Vec<Seen>,
}

impl Row {
    fn middle(seen: &[Seen], of: fn(&Seen) -> f64) -> f64 {
        median(seen.iter().map(of))
    }

    fn print(&self) {
        let (attacked, burner) = (&self.attacked, &self.beside_burner);
        let ratio = median(attacked.iter().zip(burner).map(|(a, b)| a.p99_us / b.p99_us));
        let verdict = match ratio {
            ratio if ratio <= GOAL => "goal",
            ratio if ratio <= MUST => "met",
            _ => "**missed**",
        };
        println!(
            "| {} | {:.2} | {:.2} | {} | {:.0} | {:.0} | {ratio:.2} × | {verdict} |",
            self.name,
            Self::middle(attacked, |seen| seen.attacker),
            Self::middle(attacked, |seen| seen.server),
            attacked.iter().map(|seen| seen.connections).max().unwrap_or(0),
            Self::middle(burner, |seen| seen.p99_us),
            Self::middle(attacked, |seen| seen.p99_us),
        );
    }
}

/// Runs all attacks whose name contains `only`, and prints the table.
pub(crate) fn run(only: &str, repeats: u32, window: Duration) -> Result<()> {
    let cell = Cell::of(Peer::Bare, Mode::Multi, 64);
    let (begun, machine) = (Instant::now(), cpu::of_machine()?);
    println!(
        "{HONEST} honest calls a second in an open loop; medians of {repeats} rounds of {} ms; the server on tokio's \
         multi-threaded runtime. Bars: p99 {GOAL} × (goal), {MUST} × (must) of that beside a burner of the attacker's share.\n",
        window.as_millis()
    );
    println!(
        "| attack | attacker, cores | server, cores | connections | p99 beside \
         burner, µs | p99 attacked, µs | ratio | |\n|---|---|---|---|---|---|---|---|"
    );
    let mut rows = Vec::new();
    for &attack in Attack::ALL {
        let name = attack.name();
        if !name.contains(only) {
            continue;
        }
        let mut row = Row {
            name: name.to_owned(),
            attacked: Vec::new(),
            beside_burner: Vec::new(),
        };
        for round in 0..repeats {
            eprint!("\r{name}, round {} of {repeats}{:40}\r", round + 1, "");
            let attacked = observe(cell, Deed::Attack(name.to_owned()), window)?;
            let share = attacked.attacker;
            row.attacked.push(attacked);
            row.beside_burner.push(observe(cell, Deed::Burn(share), window)?);
        }
        row.print();
        rows.push(row);
    }
    let used = cpu::of_machine()?.saturating_sub(machine).as_secs_f64();
    println!(
        "\nThe machine used {:.2} of {} cores all told.",
        used / begun.elapsed().as_secs_f64(),
        std::thread::available_parallelism()?.get()
    );
    let path = output_folder()?.join("hostile.json");
    std::fs::write(&path, serde_json::to_string_pretty(&rows)?)?;
    println!("All rounds: {}", path.display());
    Ok(())
}

/// One server, one honest client, and one who does the deed meanwhile.
fn observe(cell: Cell, deed: Deed, window: Duration) -> Result<Seen> {
    let server = Server::start(cell, &[])?;
    let spec = AttackerSpec {
        address: server.addresses[0].clone(),
        deed,
    };
    let attacker = Attacker::start(&spec)?;
    let warm = Duration::from_millis(500);
    let amount = Amount::Open {
        rate: HONEST,
        warm,
        window,
    };
    let begun = Instant::now();
    let before = (cpu::of_process(attacker.0.id())?, cpu::of_process(server.id())?);
    let measured: Measured = measure_at(&server, cell, amount, &[])?;
    let took = begun.elapsed().as_secs_f64();
    let after = (cpu::of_process(attacker.0.id())?, cpu::of_process(server.id())?);
    let cores = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / took;
    let done = attacker.stop()?;
    server.stop()?;
    Ok(Seen {
        p50_us: measured.p50_us,
        p99_us: measured.p99_us,
        attacker: cores(before.0, after.0),
        server: cores(before.1, after.1),
        connections: done.connections,
    })
}

/// An attacker's process: ends when its standard input does, and says what it did.
struct Attacker(Child);

impl Attacker {
    fn start(spec: &AttackerSpec) -> Result<Attacker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("attacker").arg(serde_json::to_string(spec)?);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Attacker(child))
    }

    fn stop(mut self) -> Result<Done> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            out.read_to_string(&mut said)?;
        }
        let done = serde_json::from_str(&said);
        done.map_err(|error| Error::from(format!("the attacker said `{said}`: {error}")))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The attacker's process.
pub(crate) fn attack(spec: &AttackerSpec) -> Result<()> {
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = done.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let over = || done.load(std::sync::atomic::Ordering::Relaxed);
    let did = match &spec.deed {
        Deed::Attack(name) => {
            let attack = Attack::ALL.iter().find(|attack| attack.name() == name);
            attacks::run(*attack.ok_or("no such attack")?, &spec.address, &over)?
        }
        Deed::Burn(share) => burn(*share, &over),
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &did)?;
    Ok(out.flush()?)
}

/// Uses the share of each millisecond that was asked for; beyond one core on two threads.
#[allow(clippy::disallowed_methods, reason = "a process without a runtime")]
fn burn(share: f64, over: &(dyn Fn() -> bool + Sync)) -> Done {
    const TURN: Duration = Duration::from_millis(1);
    let threads = share.ceil().max(1.0);
    let busy = TURN.mul_f64(share / threads);
    std::thread::scope(|scope| {
        for _ in 0..threads as usize {
            scope.spawn(|| {
                let mut turn = Instant::now();
                while !over() {
                    while turn.elapsed() < busy {
                        std::hint::spin_loop();
                    }
                    turn += TURN;
                    std::thread::sleep(turn.saturating_duration_since(Instant::now()));
                }
            });
        }
    });
    Done::default()
}

/// A socket to the server that blocks nobody for longer than a moment.
fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    Ok(stream)
}
