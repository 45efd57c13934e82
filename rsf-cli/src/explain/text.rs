//! An explanation for people.

use std::fmt::Write as _;

use rsf_core::client::{Explanation, LimitView};
use serde_json::Value;

use super::{Made, milliseconds, outcome};

/// Values that are longer are cut; `--json` has them whole.
const MOST_SHOWN: usize = 60;

/// What a call would meet, in the order of its way.
pub(super) fn explanation(explanation: &Explanation, not_in_force: &[String]) -> String {
    let mut text = String::new();
    let zone = match &*explanation.zone {
        "" => "no zone".to_owned(),
        zone => format!("zone {zone}"),
    };
    let (epoch, sequence) = explanation.version;
    line(
        &mut text,
        format_args!(
            "{}/{} as {} in {zone}, list {epoch}.{sequence}",
            explanation.service, explanation.method, explanation.consumer
        ),
    );
    policy(&mut text, explanation);
    for document in not_in_force {
        let scope = document.split('@').next().unwrap_or_default();
        line(
            &mut text,
            format_args!(
                "  {document} is published and not in force here; `rsf policy acks {scope}` says where"
            ),
        );
    }
    guards(&mut text, explanation);
    route(&mut text, explanation);
    candidates(&mut text, explanation);
    verdict(&mut text, explanation);
    text
}

/// What a call met.
pub(super) fn made(made: &Made) -> String {
    let mut text = "\ncall\n".to_owned();
    let mut rows = vec![row(["begun ms", "took ms", "instance", "", "outcome"])];
    rows.extend(made.attempts.iter().map(|attempt| {
        vec![
            format!("{:.1}", milliseconds(attempt.begun)),
            format!("{:.1}", milliseconds(attempt.elapsed)),
            attempt.instance.to_string(),
            if attempt.hedge { "hedge" } else { "" }.to_owned(),
            outcome(attempt).to_owned(),
        ]
    }));
    match made.attempts.is_empty() {
        true => line(&mut text, format_args!("  no attempt was made")),
        false => table(&mut text, &rows),
    }
    let took = milliseconds(made.elapsed);
    match &made.outcome {
        Ok(reply) => line(&mut text, format_args!("  OK after {took:.1} ms: {reply}")),
        Err(error) => line(&mut text, format_args!("  failed after {took:.1} ms: {error}")),
    }
    text
}

fn policy(text: &mut String, explanation: &Explanation) {
    line(text, format_args!("\npolicy"));
    let rows = explanation
        .policy
        .iter()
        .map(|value| vec![value.field.clone(), shown(&value.value), value.origin.to_string()]);
    table(text, &rows.collect::<Vec<_>>());
}

fn guards(text: &mut String, explanation: &Explanation) {
    line(text, format_args!("\nbefore it is sent"));
    let mut rows = vec![row(["time", &format!("{} ms", explanation.time_ms)])];
    if let Some(problem) = &explanation.degrade_unfit {
        rows.push(row(["degraded answer", &format!("not given: {problem}")]));
    }
    if let Some(limit) = &explanation.limit {
        rows.push(row(["limit", &limit_shown(limit)]));
    }
    let breaker = explanation.method_breaker.unwrap_or("off");
    rows.push(row(["method breaker", breaker]));
    let repeatable = match explanation.repeatable {
        true => "the method may run twice",
        false => "the method may not run twice: only what never ran is attempted again",
    };
    let retries = format!("credit for {}; {repeatable}", explanation.retries_left);
    rows.push(row(["retries", &retries]));
    table(text, &rows);
}

fn limit_shown(limit: &LimitView) -> String {
    let concurrency = limit
        .concurrency
        .map(|most| format!("{} of {most} calls under way", limit.under_way.unwrap_or(0)));
    let rate = limit
        .rate_per_second
        .map(|rate| format!("{rate} a second, {} at once", limit.burst.unwrap_or(rate)));
    let parts: Vec<_> = concurrency.into_iter().chain(rate).collect();
    parts.join("; ")
}

fn route(text: &mut String, explanation: &Explanation) {
    let route = &explanation.route;
    line(text, format_args!("\nroute"));
    for removed in &route.left_out {
        line(
            text,
            format_args!("  takes no calls: {} {}", removed.instance, removed.reason),
        );
    }
    if route.rules.is_empty() {
        line(text, format_args!("  no rules"));
    }
    for rule in &route.rules {
        let kept = match &*rule.kept {
            "" => String::new(),
            kept => format!(" → {kept}"),
        };
        let because = match &*rule.because {
            "" => String::new(),
            because => format!(" ({because})"),
        };
        line(
            text,
            format_args!(
                "  rule {} {}{kept}{because}: removes {} of {}",
                rule.rule,
                rule.kind,
                rule.removed.len(),
                rule.of
            ),
        );
        for removed in &rule.removed {
            line(
                text,
                format_args!("    {} is {}", removed.instance, removed.reason),
            );
        }
    }
    if !explanation.outside_subset.is_empty() {
        let ids = explanation.outside_subset.join(", ");
        line(
            text,
            format_args!("  not in this process's subset (call.connections): {ids}"),
        );
    }
}

fn candidates(text: &mut String, explanation: &Explanation) {
    line(text, format_args!("\ncandidates"));
    if explanation.candidates.is_empty() {
        line(text, format_args!("  none"));
        return;
    }
    let mut rows = vec![row([
        "", "instance", "address", "tier", "breaker", "weight", "pending", "load", "failures", "ms",
        "warm-up", "score",
    ])];
    rows.extend(explanation.candidates.iter().map(|view| {
        let seen = &view.candidate;
        let first = explanation.first.among.iter().any(|id| **id == *view.instance);
        vec![
            if first { "→" } else { "" }.to_owned(),
            view.instance.clone(),
            view.address.clone(),
            seen.tier.to_owned(),
            view.breaker.to_owned(),
            view.weight.to_string(),
            view.pending.to_string(),
            format!("{:.2}", seen.load),
            format!("{:.2}", seen.failures),
            format!("{:.1}", seen.latency_ms),
            format!("{:.2}", seen.warm_up),
            format!("{:.4}", seen.score),
        ]
    }));
    table(text, &rows);
}

fn verdict(text: &mut String, explanation: &Explanation) {
    if let Some(stop) = &explanation.stopped {
        let then = match (stop.stage, stop.degraded) {
            ("degrade", _) | (_, false) => "",
            (_, true) => "; policy's degraded answer stands in its place",
        };
        line(
            text,
            format_args!("\nnot sent: {} ({}){then}", stop.because, stop.reason),
        );
        return;
    }
    let first = &explanation.first;
    let ids = first.among.join(" or ");
    line(text, format_args!("\nwould go to {ids}: {}", first.because));
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "–".to_owned(),
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Rows of equally many cells, in columns.
fn table(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let cells: Vec<_> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(text, format_args!("  {}", cells.join("  ").trim_end()));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a text cannot fail.
    let _ = writeln!(text, "{line}");
}
