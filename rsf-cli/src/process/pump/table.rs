//! A pump's status as people read it.

use std::collections::BTreeMap;
use std::fmt::Write;

use rsf_pump::PumpStatus;
use rsf_pump::shrink::Hold;
use rsf_pump::status::SourceStatus;

/// The status at `now`, Unix milliseconds, one fact a line.
pub(super) fn table(status: &PumpStatus, now: u64) -> String {
    let mut text = String::new();
    let epoch = status
        .epoch
        .map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    let mut line = |name: &str, what: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {what}");
    };
    line(
        "pump",
        format!(
            "{}  {}  epoch {epoch}",
            status.pump,
            status.role.as_str().replace('_', " ")
        ),
    );
    match &status.not_ready {
        Some(why) => line("ready", format!("no: {why}")),
        None => line("ready", "yes".to_owned()),
    }
    line(
        "sizes",
        format!(
            "{} services  {} leases  {} unconfirmed",
            status.services, status.leases, status.unconfirmed
        ),
    );
    let written = status.last_write_unix_ms.map_or_else(
        || "never".to_owned(),
        |at| format!("{} ago", seconds(now.saturating_sub(at))),
    );
    line(
        "lag",
        format!(
            "{} lists wait, the oldest for {}; last written {written}",
            status.lists_waiting,
            seconds(status.lag_ms)
        ),
    );
    for source in &status.sources {
        line("source", of_source(source));
    }
    for hold in &status.holds {
        line("hold", of_hold(hold));
    }
    if status.holds.is_empty() {
        line("holds", "none".to_owned());
    }
    for (kind, said) in &status.counters.evidence {
        if said.values().any(|count| *count > 0) {
            line("evidence", of_evidence(kind, said));
        }
    }
    let removed: Vec<_> = status
        .counters
        .removed
        .iter()
        .map(|(cause, n)| format!("{n} {cause}"))
        .collect();
    line("left", removed.join("  "));
    if let Some(error) = &status.last_error {
        line("error", error.clone());
    }
    text
}

fn of_source(source: &SourceStatus) -> String {
    let up = if source.up { "up" } else { "down" };
    let swept = source.swept_ms_ago.map_or_else(
        || "never read".to_owned(),
        |ms| format!("read {} ago", seconds(ms)),
    );
    let mut text = format!("{:<24} {up:<5} {:>7} leases  {swept}", source.name, source.leases);
    if let Some(reason) = source.distrusted {
        let _ = write!(text, "  nothing expires: {}", reason.as_str().replace('_', " "));
    }
    if let Some(error) = &source.error {
        let _ = write!(text, "  {error}");
    }
    text
}

fn of_hold(hold: &Hold) -> String {
    let then = if hold.releasing {
        "its time is over: the rest leaves step by step".to_owned()
    } else {
        format!("end it: rsf pump release {}", hold.service)
    };
    format!(
        "{}  {} of {} held ({} answer) for {}; {then}",
        hold.service,
        hold.held,
        hold.before,
        hold.answering,
        seconds(hold.age_ms)
    )
}

/// What one kind of evidence said of held instances, since the pump's start.
fn of_evidence(kind: &str, said: &BTreeMap<String, u64>) -> String {
    let said: Vec<_> = said.iter().map(|(finding, n)| format!("{n} {finding}")).collect();
    format!("{kind:<8} {}", said.join("  "))
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsf_pump::Role;

    #[test]
    fn a_degraded_pump_says_so_line_by_line() {
        let mut status = PumpStatus {
            pump: "pump-1".into(),
            role: Role::Leading,
            epoch: Some(7),
            ready: false,
            not_ready: Some("3 published instances have not renewed yet".into()),
            sources: vec![SourceStatus {
                name: "redis-2:6379".into(),
                error: Some("refused".into()),
                ..SourceStatus::default()
            }],
            holds: vec![Hold {
                service: "shop.v1.Member".into(),
                held: 12,
                answering: 8,
                before: 20,
                age_ms: 35_400,
                releasing: false,
            }],
            last_write_unix_ms: Some(1_000),
            ..PumpStatus::default()
        };
        for (kind, answers) in [("probe", 0), ("reports", 8)] {
            let said = BTreeMap::from([("answers".to_owned(), answers), ("gone".to_owned(), 0)]);
            status.counters.evidence.insert(kind.to_owned(), said);
        }
        let text = table(&status, 4_000);
        for part in [
            "pump-1  leading  epoch 7",
            "no: 3 published instances",
            "redis-2:6379             down",
            "never read  refused",
            "last written 3.0 s ago",
            "12 of 20 held (8 answer) for 35.4 s; end it: rsf pump release shop.v1.Member",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(text.contains("evidence  reports  8 answers  0 gone"), "{text}");
        assert!(!text.contains("probe "), "it was not asked:\n{text}");
    }
}
