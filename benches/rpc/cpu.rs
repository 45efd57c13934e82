//! CPU time of processes, as Linux counts it.

use std::time::Duration;

use crate::Result;

/// CPU time that all threads of a process have used, to the nanosecond.
pub(crate) fn of_process(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("schedstat");
        // A thread that has just ended takes its time with it; neither side ends threads while it is measured.
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let first = text.split(' ').next().unwrap_or_default();
        nanos += first
            .parse::<u64>()
            .map_err(|_| format!("{} has no time: {text}", path.display()))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// CPU time that the whole machine has used, in hundredths of a second.
pub(crate) fn of_machine() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = ticks.map_while(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, waiting,) irq, softirq
    let used = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| ticks.get(*place))
        .sum::<u64>();
    Ok(Duration::from_millis(used * 10))
}
