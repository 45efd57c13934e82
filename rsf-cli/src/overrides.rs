//! `rsf override set|clear|show`: an operator's word on one service's instances, pushed to one running consumer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rsf::admin::overrides::{PushOverride, Refused};
use rsf::state::DevFiles;
use rsf_registry::agent::{OverrideSource, OverrideStatus, ServiceOverride, StaticInstance};

use crate::Failure;
use crate::policy::ConsoleAt;

/// How long a consumer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `rsf override …`.
#[derive(Subcommand)]
pub(crate) enum OverrideCommand {
    /// Pin, add or remove instances of a service in one running consumer, for a time that must be given
    Set(SetArguments),
    /// End what was pushed for a service
    Clear(ClearArguments),
    /// Show what is overridden in one running consumer, by its file and by pushes
    Show(ShowArguments),
}

/// Which consumer.
#[derive(Args)]
struct ConsumerAt {
    /// The consumer: its admin port, host:port, or its id, application/name, which the console knows
    #[arg(long, env = "RSF_OVERRIDE_AT")]
    at: String,
    #[command(flatten)]
    console: ConsoleAt,
    /// File with the consumer's admin token (its RSF_ADMIN_TOKEN_FILE) [default: the token of `rsf dev`, for consumers on
    /// this machine's loopback address]
    #[arg(long, env = "RSF_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
}

/// Flags of `rsf override set`.
#[derive(Args)]
pub(crate) struct SetArguments {
    /// The service's key, package.Service or package.Service:implementation
    service: String,
    #[command(flatten)]
    at: ConsumerAt,
    /// After how long it ends by itself, such as 90s, 10m or 2h; 1s to 24h
    #[arg(long, value_parser = duration)]
    ttl: Duration,
    /// The whole list: host:port,host:port
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["add", "remove"], required_unless_present_any = ["add", "remove", "nobody"])]
    pin: Vec<String>,
    /// Pin an empty list: nobody is called
    #[arg(long, conflicts_with_all = ["pin", "add", "remove"])]
    nobody: bool,
    /// Instances besides those of the directory: host:port,host:port
    #[arg(long, value_delimiter = ',')]
    add: Vec<String>,
    /// Whom not to call: application/name or host:port, several with commas between
    #[arg(long, value_delimiter = ',')]
    remove: Vec<String>,
}

/// Flags of `rsf override clear`.
#[derive(Args)]
pub(crate) struct ClearArguments {
    /// The service's key
    service: String,
    #[command(flatten)]
    at: ConsumerAt,
}

/// Flags of `rsf override show`.
#[derive(Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    at: ConsumerAt,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: OverrideCommand) -> Result<(), Failure> {
    match command {
        OverrideCommand::Set(arguments) => set(arguments).await,
        OverrideCommand::Clear(arguments) => clear(arguments).await,
        OverrideCommand::Show(arguments) => show(arguments).await,
    }
}

async fn set(arguments: SetArguments) -> Result<(), Failure> {
    let instances = |addresses: &[String]| {
        addresses
            .iter()
            .map(|address| StaticInstance::at(address))
            .collect()
    };
    let what = match !arguments.pin.is_empty() || arguments.nobody {
        true => ServiceOverride::pin(instances(&arguments.pin)),
        false => ServiceOverride {
            pin: None,
            add: instances(&arguments.add),
            remove: arguments.remove.clone(),
        },
    };
    // Said here, so that nothing is sent that would be refused.
    what.check(&arguments.service)?;
    let asked = PushOverride {
        ttl_ms: u64::try_from(arguments.ttl.as_millis())?,
        what,
    };
    let address = arguments.at.address().await?;
    let token = arguments.at.token(&address)?;
    let url = page_of(&address, &arguments.service);
    let status = ask(client()?.put(url).bearer_auth(token).json(&asked)).await?;
    print(&status);
    Ok(())
}

async fn clear(arguments: ClearArguments) -> Result<(), Failure> {
    let address = arguments.at.address().await?;
    let token = arguments.at.token(&address)?;
    let url = page_of(&address, &arguments.service);
    let status = ask(client()?.delete(url).bearer_auth(token)).await?;
    print(&status);
    Ok(())
}

async fn show(arguments: ShowArguments) -> Result<(), Failure> {
    let address = arguments.at.address().await?;
    let status = ask(client()?.get(format!("http://{address}/overrides"))).await?;
    match arguments.json {
        true => println!("{}", serde_json::to_string_pretty(&status)?),
        false => print(&status),
    }
    Ok(())
}

fn print(status: &OverrideStatus) {
    if let Some(reason) = &status.file_refused {
        println!("the file is refused, what it said before holds: {reason}");
    }
    if status.active.is_empty() {
        println!("no service is overridden");
    }
    for active in &status.active {
        let source = match (active.source, active.expires_in_ms) {
            (OverrideSource::File, _) => "by its file".to_owned(),
            (OverrideSource::Push, left) => format!("pushed, ends in {} s", left.unwrap_or_default() / 1_000),
        };
        println!("{}   {source}", active.service);
        let line = |what: &str, of: &[String]| {
            if !of.is_empty() {
                println!("  {what:<7} {}", of.join(", "));
            }
        };
        let addresses = |of: &[StaticInstance]| -> Vec<String> {
            of.iter().map(|instance| instance.address.clone()).collect()
        };
        match &active.what.pin {
            Some(pinned) if pinned.is_empty() => println!("  nobody is called"),
            Some(pinned) => line("only", &addresses(pinned)),
            None => {
                line("added", &addresses(&active.what.add));
                line("removed", &active.what.remove);
            }
        }
    }
}

impl ConsumerAt {
    /// The admin port, host:port.
    async fn address(&self) -> Result<String, Failure> {
        let at = self.at.trim_end_matches('/');
        let address = match at.strip_prefix("http://") {
            Some(address) => address.to_owned(),
            None if at.contains('/') => self.admin_address(at).await?,
            None => at.to_owned(),
        };
        rsf_registry::limits::check_address(&address)
            .map_err(|problem| format!("--at: {problem}, or application/name"))?;
        Ok(address)
    }

    async fn admin_address(&self, id: &str) -> Result<String, Failure> {
        let instances = self.console.client()?.instances().await?;
        let found = instances.into_iter().find(|instance| instance.instance == id);
        let found =
            found.ok_or_else(|| format!("the console knows no instance `{id}`; `rsf nodes` lists them"))?;
        match found.admin_address.is_empty() {
            true => Err(format!("`{id}` has no admin port").into()),
            false => Ok(found.admin_address),
        }
    }

    /// The token to send to `address`. That of `rsf dev` opens this machine's registry and goes nowhere else unasked.
    fn token(&self, address: &str) -> Result<String, Failure> {
        let token = match &self.admin_token_file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
            }
            None if !is_loopback(address) => {
                return Err(format!(
                    "the token of `rsf dev` is not sent to {address}, which is no loopback address: set \
                     --admin-token-file or RSF_ADMIN_TOKEN_FILE to a file with that consumer's token"
                )
                .into());
            }
            None => DevFiles::within(&rsf::state::folder())
                .token()
                .ok_or("no token: set --admin-token-file or RSF_ADMIN_TOKEN_FILE")?,
        };
        Ok(token.trim().to_owned())
    }
}

/// `90s`, `10m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write it as 90s, 10m or 2h");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().map_err(|_| wrong())?.saturating_mul(unit);
    let ttl = Duration::from_secs(seconds);
    let allowed = rsf_registry::agent::OVERRIDE_TTL;
    match allowed.contains(&ttl) {
        true => Ok(ttl),
        false => Err("it must end within 1s to 24h".to_owned()),
    }
}

/// Whether what is sent to `address`, host:port, stays on this machine.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || bare
            .unwrap_or(host)
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Where the port at `address` takes pushes for `service`.
fn page_of(address: &str, service: &str) -> String {
    let service = percent_encoding::utf8_percent_encode(service, percent_encoding::NON_ALPHANUMERIC);
    format!("http://{address}/overrides/{service}")
}

fn client() -> Result<reqwest::Client, Failure> {
    Ok(reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?)
}

async fn ask(request: reqwest::RequestBuilder) -> Result<OverrideStatus, Failure> {
    let answer = request
        .send()
        .await
        .map_err(|error| format!("the consumer's admin port does not answer: {error}"))?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        let reason = serde_json::from_str(&text).map_or(text, |refused: Refused| refused.error);
        return Err(format!("the consumer refused ({status}): {reason}").into());
    }
    serde_json::from_str(&text)
        .map_err(|error| format!("what answers there is no RSF process of this version: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        at: ConsumerAt,
    }

    #[test]
    fn the_token_of_rsf_dev_stays_on_this_machine() {
        for here in ["127.0.0.1:7001", "127.8.0.1:1", "localhost:7001", "[::1]:7001"] {
            assert!(is_loopback(here), "{here}");
        }
        let elsewhere = [
            "10.0.0.4:7001",
            "127.0.0.1.example.org:7001",
            "localhost.example.org:7001",
            "127.0.0.1:7001@example.org:80",
            "[::2]:7001",
            "0.0.0.0:7001",
        ];
        for elsewhere in elsewhere {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
            let mut asked = Line::parse_from(["rsf", "--at", elsewhere]).at;
            asked.admin_token_file = None;
            let refused = asked.token(elsewhere).unwrap_err().to_string();
            assert!(refused.contains("--admin-token-file"), "{refused}");
        }
    }

    #[test]
    fn a_named_token_goes_where_it_is_sent() {
        let file = std::env::temp_dir().join(format!("rsf-override-token-{}", std::process::id()));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let mut asked = Line::parse_from(["rsf", "--at", "10.0.0.4:7001"]).at;
        asked.admin_token_file = Some(file.clone());
        assert_eq!(asked.token("10.0.0.4:7001").unwrap(), "0123456789abcdef");
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_ttl_has_a_unit_and_an_end() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for wrong in [
            "",
            "90",
            "s",
            "1.5h",
            "10d",
            "0s",
            "25h",
            "99999999999999999h",
            "9ü",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
