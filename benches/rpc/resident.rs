//! The memory of both processes: what pending calls and idle connections make resident.

use serde::{Deserialize, Serialize};

use crate::load::Caller;
use crate::{Error, Result};

/// What the client says.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Resident {
    pub(crate) client: u64,
    pub(crate) server: u64,
}

/// Begins `pending` calls that are not answered, and looks at the memory of both processes once all are at the server.
pub(crate) async fn hold(caller: impl Caller, pending: u64, server: u32) -> Result<Resident> {
    let mut calls = tokio::task::JoinSet::new();
    let before = now(server)?;
    for _ in 0..pending {
        let mut caller = caller.clone();
        calls.spawn(async move { caller.hold().await });
        // One at a time is what applications do; a burst would measure queues.
        if calls.len() % 256 == 0 {
            tokio::task::yield_now().await;
        }
    }
    settled(server).await?;
    if let Some(ended) = calls.try_join_next() {
        return Err(Error::from(format!(
            "a call that should wait has ended: {:?}",
            ended?
        )));
    }
    grown(server, before)
}

/// Opens whatever `open` opens, and looks at the memory of both processes once all is quiet.
pub(crate) async fn rest<T>(open: impl AsyncFn() -> Result<T>, count: u64, server: u32) -> Result<Resident> {
    // The first ones bring what the process needs once.
    let mut held = vec![open().await?];
    let before = now(server)?;
    for _ in 0..count {
        held.push(open().await?);
    }
    settled(server).await?;
    let grown = grown(server, before);
    drop(held);
    grown
}

fn now(server: u32) -> Result<Resident> {
    Ok(Resident {
        client: resident(std::process::id())?,
        server: resident(server)?,
    })
}

fn grown(server: u32, before: Resident) -> Result<Resident> {
    let now = now(server)?;
    Ok(Resident {
        client: now.client.saturating_sub(before.client),
        server: now.server.saturating_sub(before.server),
    })
}

/// Waits until neither process has used the processor for a while: all calls are where they wait.
async fn settled(server: u32) -> Result<()> {
    let used =
        || Ok::<_, Error>(crate::cpu::of_process(std::process::id())? + crate::cpu::of_process(server)?);
    let mut before = used()?;
    let mut quiet = 0;
    while quiet < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = used()?;
        quiet = if now - before < std::time::Duration::from_millis(20) {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
    Ok(())
}

/// Bytes of a process that are in memory.
fn resident(process: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or("the kernel does not say VmRSS")?;
    Ok(kib * 1024)
}
