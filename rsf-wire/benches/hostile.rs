//! Instructions that hostile frames cost a server, attack by attack, beside those of an honest call. Limits that would end the
//! connection are lifted; where an attack breaks the protocol each of its batches takes a connection, and that is counted.
//!
//! `cargo bench --package rsf-wire --bench hostile`

#![allow(clippy::print_stdout, reason = "a program whose purpose is its output")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the tests' frames are written so"
)]

use std::error::Error;
use std::sync::Arc;

use rsf_wire::server::Handling;
use rsf_wire::{Call, Handler, Limits, Response, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[path = "../tests/bytes/attacks.rs"]
mod attacks;
#[path = "parts/callgrind.rs"]
mod callgrind;
#[path = "../tests/bytes/raw.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod raw;

use attacks::Attack;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Two runs of so many batches: their difference holds batches alone, without start and end.
const BATCHES: [usize; 2] = [4, 12];
/// Bytes of the pipe, as much as a socket takes.
const PIPE: usize = 256 * 1024;

struct Echo;

impl Handler for Echo {
    fn call(&self, call: Call) -> Option<Handling> {
        Some(Box::pin(async move {
            match call.body {
                Ok(body) => Response::ok(body),
                Err(error) => Response::status(3, &error.to_string()),
            }
        }))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--attack", name, "--batches", batches] => {
            let attack = Attack::ALL.iter().find(|attack| attack.name() == name);
            run(*attack.ok_or("no such attack")?, batches.parse()?).map(drop)
        }
        [] => count(),
        _ => Err("usage: cargo bench --package rsf-wire --bench hostile".into()),
    }
}

fn count() -> Result<()> {
    println!("| attack | instructions | each |\n|---|---|---|");
    // Those that say nothing fast, and the one whose cost ends when the pipe is full.
    let said = |attack: &&Attack| !attack.is_slow() && attack.reads();
    for attack in Attack::ALL.iter().filter(said) {
        let mut totals = [0; 2];
        for (total, batches) in totals.iter_mut().zip(BATCHES) {
            let arguments = ["--attack", attack.name(), "--batches", &batches.to_string()];
            match callgrind::count(&arguments)? {
                Some(count) => *total = count,
                None => return Ok(()),
            }
        }
        let batches = (BATCHES[1] - BATCHES[0]) as u64;
        let (connections, unit) = match run(*attack, BATCHES[1])? {
            1 => (attack.frames() * batches, "frame"),
            _ => (batches, "connection"),
        };
        let each = (totals[1] - totals[0]) as f64 / connections as f64;
        println!("| {} | {each:.0} | {unit} |", attack.name());
    }
    Ok(())
}

/// Says so many batches; over how many connections.
fn run(attack: Attack, batches: usize) -> Result<usize> {
    // All are made in any case: what the attacker does for them is no part of the difference.
    let said: Vec<Vec<u8>> = (0..BATCHES[1] as u32).map(|i| attack.batch(i)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut connections, mut left) = (0, batches);
        while left > 0 {
            connections += 1;
            left -= connection(attack, &said[..left]).await?;
        }
        Ok(connections)
    })
}

/// Says batches until the server has had enough; how many it took.
async fn connection(attack: Attack, batches: &[Vec<u8>]) -> Result<usize> {
    let (near, far) = tokio::io::duplex(PIPE);
    let limits = Limits {
        control_frames: u32::MAX,
        early_resets: u32::MAX,
        concurrent_streams: if attack == Attack::Refused { 100 } else { 1 << 20 },
        ..Limits::default()
    };
    let served =
        tokio::spawn(async move { serve(far, Arc::new(Echo), limits, std::future::pending()).await });
    let (mut replies, mut requests) = tokio::io::split(near);
    let heard = tokio::spawn(async move {
        let mut heard = vec![0; 64 * 1024];
        while replies.read(&mut heard).await? > 0 {}
        Ok::<_, std::io::Error>(())
    });
    requests.write_all(raw::PREFACE).await?;
    requests.write_all(&raw::settings(&[])).await?;
    let mut taken = 0;
    for batch in batches {
        taken += 1;
        let written = requests.write_all(batch).await;
        // The server reads what it was told before more is said.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        if written.is_err() || served.is_finished() {
            break;
        }
    }
    // The end of both is the end of the requests.
    requests.shutdown().await?;
    let _ = served.await?;
    drop(requests);
    heard.await??;
    Ok(taken)
}
