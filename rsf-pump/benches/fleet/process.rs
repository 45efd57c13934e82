//! What this process uses, as Linux counts it.

use std::time::Duration;

/// Resident memory now, bytes.
pub(crate) fn resident() -> Result<u64, String> {
    status("VmRSS:")
}

/// The most memory that was resident, bytes.
pub(crate) fn peak() -> Result<u64, String> {
    status("VmHWM:")
}

fn status(name: &str) -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| format!("/proc/self/status has no {name}"))
}

pub(crate) fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Time on the processor of the thread on which all runs.
pub(crate) struct Spent(Duration);

impl Spent {
    pub(crate) fn now() -> Result<Spent, String> {
        let path = "/proc/thread-self/schedstat";
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let first = text
            .split_whitespace()
            .next()
            .and_then(|first| first.parse().ok());
        first
            .map(|nanos| Spent(Duration::from_nanos(nanos)))
            .ok_or_else(|| format!("{path} has no number"))
    }

    pub(crate) fn since(&self) -> Result<Duration, String> {
        Ok(Spent::now()?.0.saturating_sub(self.0))
    }
}
