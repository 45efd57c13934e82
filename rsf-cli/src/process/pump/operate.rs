//! `rsf pump status` and `rsf pump release`: what a running pump says, and the end of its holds.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rsf::state::DevFiles;
use rsf_pump::PumpStatus;
use serde::de::DeserializeOwned;

use super::port::{Refused, Release, Released};
use super::table::table;
use crate::Failure;

/// How long a pump may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `rsf pump …`.
#[derive(Subcommand)]
pub(super) enum PumpCommand {
    /// Say what a running pump does: role, sources, sizes, lag, holds
    Status(StatusArguments),
    /// End holds at once: what is missing leaves the lists with the next sweep
    Release(ReleaseArguments),
}

/// Where the pump is.
#[derive(Args)]
struct PumpAt {
    /// The pump's admin port, http://host:port [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_PUMP")]
    pump: Option<String>,
}

/// Flags of `rsf pump status`.
#[derive(Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    at: PumpAt,
    /// The whole status as JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `rsf pump release`.
#[derive(Args)]
pub(super) struct ReleaseArguments {
    /// The key of the service whose hold ends
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    service: Option<String>,
    /// End the holds of all services
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    at: PumpAt,
    /// File with the pump's token [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_PUMP_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

pub(super) async fn run(command: PumpCommand) -> Result<(), Failure> {
    match command {
        PumpCommand::Status(arguments) => status(arguments).await,
        PumpCommand::Release(arguments) => release(arguments).await,
    }
}

async fn status(arguments: StatusArguments) -> Result<(), Failure> {
    let url = arguments.at.url("status")?;
    let status: serde_json::Value = ask(client()?.get(&url)).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let status: PumpStatus = serde_json::from_value(status)
        .map_err(|error| format!("{url} speaks of another version of RSF: {error}; use --json"))?;
    let now = rsf_core::identity::token::unix_seconds().saturating_mul(1_000);
    print!("{}", table(&status, now));
    Ok(())
}

async fn release(arguments: ReleaseArguments) -> Result<(), Failure> {
    let url = arguments.at.url("release")?;
    let token = match &arguments.token_file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
        }
        None => DevFiles::within(&rsf::state::folder())
            .token()
            .ok_or("no token: set --token-file or RSF_PUMP_TOKEN_FILE")?,
    };
    let asked = Release {
        service: arguments.service,
        all: arguments.all,
    };
    let request = client()?.post(&url).bearer_auth(token.trim()).json(&asked);
    let Released { released } = ask(request).await?;
    match released {
        0 => println!("there was no hold to end"),
        1 => println!("1 hold ended: what is missing leaves with the next sweep"),
        n => println!("{n} holds ended: what is missing leaves with the next sweep"),
    }
    Ok(())
}

impl PumpAt {
    fn url(&self, page: &str) -> Result<String, Failure> {
        let dev = DevFiles::within(&rsf::state::folder());
        let base = self.pump.clone().or_else(|| dev.pump());
        let base = base.ok_or("no pump: set --pump or RSF_PUMP to http://host:port, or start `rsf dev`")?;
        Ok(format!("{}/{page}", base.trim_end_matches('/')))
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    Ok(reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?)
}

async fn ask<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, Failure> {
    let answer = request
        .send()
        .await
        .map_err(|error| format!("the pump's admin port does not answer: {error}"))?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        let reason = serde_json::from_str(&text).map_or(text, |refused: Refused| refused.error);
        return Err(format!("the pump refused ({status}): {reason}").into());
    }
    Ok(serde_json::from_str(&text)?)
}
