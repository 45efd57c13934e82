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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use rsf_console::Token;
    use rsf_pump::{Pump, PumpSettings};
    use rsf_registry::backend::ControlBackend;
    use rsf_registry::embedded::EmbeddedStore;
    use rsf_registry::lease::LeaseStore;
    use rsf_registry::record::{Lease, LeaseState, ProvidedService};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    const TTL: Duration = Duration::from_secs(1);

    fn lease(index: usize) -> Lease {
        Lease {
            namespace: "default".into(),
            application: "shop".into(),
            instance: format!("shop/{index}"),
            incarnation: 7,
            sequence: 1,
            address: format!("127.0.0.1:{}", 1 + index),
            weight: 100,
            services: vec![ProvidedService {
                name: "shop.v1.Member".into(),
                ..ProvidedService::default()
            }],
            state: LeaseState::Up.into(),
            ..Lease::default()
        }
    }

    fn settings() -> PumpSettings {
        PumpSettings {
            lease_ttl_ms: 1_000,
            sweep_ms: 100,
            coalesce_ms: 100,
            shrink_window_ms: 1_000,
            ..PumpSettings::default()
        }
    }

    #[tokio::test]
    async fn an_operator_sees_a_hold_and_ends_it_with_the_token_alone() {
        let folder = std::env::temp_dir().join(format!("rsf-pump-operate-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = EmbeddedStore::open(&folder.join("registry"), &["default"])
            .await
            .unwrap();
        let namespace = store.namespace("default").unwrap();
        let control = ControlBackend::from(namespace.clone());
        let metrics = prometheus::Registry::new();
        let pump = Pump::new(
            control.lease_sources,
            control.directory,
            settings().validate().unwrap(),
            &metrics,
        );
        let (pump, end) = (pump.unwrap(), CancellationToken::new());
        let mut handle = pump.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let token = Token::random().unwrap();
        let token_file = folder.join("token");
        std::fs::write(&token_file, token.expose()).unwrap();
        tokio::spawn(super::super::port::serve(
            listener,
            handle.clone(),
            metrics,
            Some(token),
            end.clone(),
        ));
        let running = tokio::spawn(pump.run(end.clone()));

        let renewing = async {
            loop {
                for index in 0..20 {
                    namespace.put(&lease(index), TTL).await.unwrap();
                }
                tokio::time::sleep(TTL / 4).await;
            }
        };
        let whole = handle.wait_for(|status| status.ready && status.leases == 20);
        tokio::select! {
            () = renewing => unreachable!("it renews for ever"),
            whole = whole => drop(whole.unwrap()),
        }
        // All of them die; half of them are held.
        let held = handle.wait_for(|status| status.holds.iter().any(|hold| hold.held == 10));
        let held = tokio::time::timeout(Duration::from_secs(30), held).await;
        held.expect("a hold").unwrap();

        let at = || PumpAt {
            pump: Some(url.clone()),
        };
        for json in [false, true] {
            status(StatusArguments { at: at(), json }).await.unwrap();
        }
        let release_with = |token_file: &std::path::Path, service: &str| {
            release(ReleaseArguments {
                service: Some(service.to_owned()),
                all: false,
                at: at(),
                token_file: Some(token_file.to_owned()),
            })
        };
        let wrong = folder.join("wrong");
        std::fs::write(&wrong, "0123456789abcdef0123456789abcdef").unwrap();
        let refused = release_with(&wrong, "shop.v1.Member")
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("401") && refused.contains("token"), "{refused}");
        let both: Result<Released, _> = ask(client()
            .unwrap()
            .post(at().url("release").unwrap())
            .bearer_auth(std::fs::read_to_string(&token_file).unwrap())
            .body("{}"))
        .await;
        assert!(both.unwrap_err().to_string().contains("400"));
        assert!(!handle.status().holds.is_empty(), "nobody ended it yet");
        release_with(&token_file, "shop.v1.Member").await.unwrap();
        let gone = handle.wait_for(|status| status.leases == 0 && status.holds.is_empty());
        tokio::time::timeout(Duration::from_secs(30), gone)
            .await
            .expect("the missing leave")
            .unwrap();

        let text = reqwest::get(format!("{url}/metrics"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(
            text.contains("rsf_pump_holds 0") && text.contains("rsf_pump_source_up{source=\"embedded\"} 1")
        );
        end.cancel();
        running.await.unwrap();
        store.close().await;
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn without_a_token_nobody_ends_a_hold() {
        let folder = std::env::temp_dir().join(format!("rsf-pump-no-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let store = Arc::new(
            EmbeddedStore::open(&folder.join("registry"), &["default"])
                .await
                .unwrap(),
        );
        let control = ControlBackend::from(store.namespace("default").unwrap());
        let metrics = prometheus::Registry::new();
        let config = settings().validate().unwrap();
        let pump = Pump::new(control.lease_sources, control.directory, config, &metrics).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/release", listener.local_addr().unwrap());
        let end = CancellationToken::new();
        tokio::spawn(super::super::port::serve(
            listener,
            pump.handle(),
            metrics,
            None,
            end.clone(),
        ));
        let refused: Result<Released, _> = ask(client()
            .unwrap()
            .post(url)
            .bearer_auth("")
            .json(&Release::default()))
        .await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("403") && refused.contains("--token-file"),
            "{refused}"
        );
        end.cancel();
        store.close().await;
        std::fs::remove_dir_all(folder).unwrap();
    }
}
