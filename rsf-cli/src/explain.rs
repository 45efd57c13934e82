//! `rsf explain`: what one call would meet on its way, and with `--call` what it met.
//!
//! [`text`] writes it for people.

mod text;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rsf::{AttemptLog, AttemptRecord, RpcError};
use rsf_core::client::Explanation;
use rsf_registry::record::PolicyRecord;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Failure;
use crate::call::{CallArguments, FIND, Prepared, prepared};

/// How long policies and connections get: this process is new, and would explain a call without them.
const SETTLE: Duration = Duration::from_secs(1);
/// How often it is looked whether they are there.
const LOOK: Duration = Duration::from_millis(20);

/// Flags of `rsf explain`.
#[derive(Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    call: CallArguments,
    /// Make the call too, and print every attempt
    #[arg(long = "call")]
    send: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a call came to.
struct Made {
    attempts: Vec<AttemptRecord>,
    elapsed: Duration,
    /// The reply as JSON, or how it failed.
    outcome: Result<String, RpcError>,
}

pub(crate) async fn run(arguments: ExplainArguments) -> Result<ExitCode, Failure> {
    let (send, as_json) = (arguments.send, arguments.json);
    prepared(&arguments.call, async move |prepared| {
        // Where there is nobody, the explanation says why.
        let _ = prepared.channel.ready(FIND).await;
        let (explanation, not_in_force) = explanation(&prepared).await?;
        if !as_json {
            print!("{}", text::explanation(&explanation, &not_in_force));
        }
        let made = match send {
            true => Some(made(&prepared).await?),
            false => None,
        };
        match &made {
            _ if as_json => {
                let whole = json!({
                    "explanation": explanation,
                    "not_in_force": not_in_force,
                    "call": made.as_ref().map(in_json),
                });
                println!("{}", serde_json::to_string_pretty(&whole)?);
            }
            Some(made) => print!("{}", text::made(made)),
            None => {}
        }
        match made {
            Some(made) if made.outcome.is_err() => Ok(ExitCode::FAILURE),
            _ => Ok(ExitCode::SUCCESS),
        }
    })
    .await
}

/// The explanation once the policies are in force that are published, and the connections there that are made ahead; and
/// the documents that did not come into force.
async fn explanation(prepared: &Prepared<'_>) -> Result<(Explanation, Vec<String>), Failure> {
    // Where the registry does not answer, what is on disk is what holds.
    let published = prepared.app.registry().policies.current().await;
    let published = published.unwrap_or_default();
    let end = Instant::now() + SETTLE;
    loop {
        let explanation = prepared.channel.explain(
            prepared.method.number(),
            &prepared.message,
            &prepared.metadata,
            prepared.routing_key(),
        );
        let explanation =
            explanation.ok_or("the registry has not answered, and there is no snapshot on disk")?;
        let missing = not_in_force(&published, &explanation);
        let mut tiers = explanation.candidates.iter().map(|view| view.candidate.tier);
        let settled = missing.is_empty() && tiers.all(|tier| tier != "unknown");
        if settled || Instant::now() >= end {
            return Ok((explanation, missing));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The documents that are published for the service and that the explanation does not go by.
fn not_in_force(published: &[PolicyRecord], explanation: &Explanation) -> Vec<String> {
    let route = &explanation.route;
    let removed = route.rules.iter().flat_map(|rule| &rule.removed);
    let removed = removed.chain(&route.left_out).map(|removed| &removed.instance);
    let applications: BTreeSet<_> = removed
        .chain(&route.left)
        .filter_map(|id| Some(id.split_once('/')?.0))
        .collect();
    let speaks_of = |scope: &str| match scope.split_once('/') {
        None => scope == "fleet",
        Some(("service", key)) => key == explanation.service,
        Some((_, application)) => applications.contains(application),
    };
    let documents = published
        .iter()
        .filter(|record| !record.document.is_empty() && speaks_of(&record.scope))
        .map(|record| format!("{}@{}", record.scope, record.revision));
    let in_force = |name: &String| explanation.documents.iter().any(|document| **document == **name);
    documents.filter(|name| !in_force(name)).collect()
}

async fn made(prepared: &Prepared<'_>) -> Result<Made, Failure> {
    let (log, begun) = (AttemptLog::default(), Instant::now());
    let result = prepared.call().log_attempts(&log).await;
    let elapsed = begun.elapsed();
    let outcome = match result {
        Ok(reply) => Ok(prepared.method.decode(reply.into_inner().0)?),
        Err(error) => Err(error),
    };
    Ok(Made {
        attempts: log.take(),
        elapsed,
        outcome,
    })
}

fn in_json(made: &Made) -> Value {
    let attempts = made.attempts.iter().map(|attempt| {
        json!({
            "instance": attempt.instance,
            "hedge": attempt.hedge,
            "begun_ms": milliseconds(attempt.begun),
            "elapsed_ms": milliseconds(attempt.elapsed),
            "outcome": outcome(attempt),
        })
    });
    let attempts: Vec<_> = attempts.collect();
    let (reply, error) = match &made.outcome {
        Ok(reply) => (serde_json::from_str(reply).unwrap_or_default(), Value::Null),
        Err(error) => (
            Value::Null,
            json!({
                "code": error.code(),
                "reason": error.reason().name(),
                "message": error.message(),
                "may_have_run": error.may_have_run(),
            }),
        ),
    };
    json!({
        "attempts": attempts,
        "elapsed_ms": milliseconds(made.elapsed),
        "reply": reply,
        "error": error,
    })
}

fn outcome(attempt: &AttemptRecord) -> &'static str {
    match attempt.reason {
        _ if attempt.succeeded => "answered",
        Some(reason) => reason.name(),
        None => "under way",
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
