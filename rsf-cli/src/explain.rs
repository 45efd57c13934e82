//! `rsf explain`: what one call would meet on its way, and with `--call` what it met.
//!
//! [`text`] writes it for people.

mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rsf::{AttemptLog, AttemptRecord, RpcError};
use rsf_core::client::Explanation;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Failure;
use crate::call::{CallArguments, FIND, Prepared, prepared};

/// How long connections get: this process is new, and explains instances that nobody has reached yet as unknown.
const CONNECT: Duration = Duration::from_secs(1);
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
        let explanation = explanation(&prepared).await?;
        if !as_json {
            print!("{}", text::explanation(&explanation));
        }
        let made = match send {
            true => Some(made(&prepared).await?),
            false => None,
        };
        match &made {
            _ if as_json => {
                let whole = json!({ "explanation": explanation, "call": made.as_ref().map(in_json) });
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

/// The explanation once the connections are there that the process makes ahead.
async fn explanation(prepared: &Prepared<'_>) -> Result<Explanation, Failure> {
    let end = Instant::now() + CONNECT;
    loop {
        let explanation = prepared.channel.explain(
            prepared.method.number(),
            &prepared.message,
            &prepared.metadata,
            prepared.routing_key(),
        );
        let explanation =
            explanation.ok_or("the registry has not answered, and there is no snapshot on disk")?;
        let unknown = explanation
            .candidates
            .iter()
            .any(|view| view.candidate.tier == "unknown");
        if !unknown || Instant::now() >= end {
            return Ok(explanation);
        }
        tokio::time::sleep(LOOK).await;
    }
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
