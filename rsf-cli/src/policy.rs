//! `rsf policy`: reads and changes policies through the console's API.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rsf::state::DevFiles;
use rsf_console::ConsoleClient;
use rsf_console::model::{Accepted, Change, DiffLine, PatchPolicy, Preview, PutPolicy, Rollback};
use rsf_core::control::Scope;
use serde_json::Value;

use crate::Failure;

mod resolved;

/// Where the console is and what opens it.
#[derive(Args)]
pub(crate) struct ConsoleAt {
    /// The console, http://host:port [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_CONSOLE")]
    console: Option<String>,
    /// File with the console's token [default: the one of `rsf dev`]
    #[arg(long, env = "RSF_CONSOLE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl ConsoleAt {
    pub(crate) fn client(&self) -> Result<ConsoleClient, Failure> {
        let dev = DevFiles::within(&rsf::state::folder());
        let base = self.console.clone().or_else(|| dev.console());
        let base =
            base.ok_or("no console: set --console or RSF_CONSOLE to http://host:port, or start `rsf dev`")?;
        let token = match &self.token_file {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?
            }
            None => dev
                .token()
                .ok_or("no token: set --token-file or RSF_CONSOLE_TOKEN_FILE")?,
        };
        Ok(ConsoleClient::new(&base, &token)?)
    }
}

/// Who changes a policy, and why.
#[derive(Args)]
pub(crate) struct Signed {
    #[command(flatten)]
    console: ConsoleAt,
    /// Why; it stands in the history and the audit log
    #[arg(long, short = 'm', default_value = "")]
    comment: String,
    /// Refuse unless this is the scope's latest revision
    #[arg(long)]
    expect: Option<u64>,
}

impl Signed {
    fn author(&self) -> String {
        std::env::var("USER")
            .ok()
            .filter(|user| !user.is_empty())
            .unwrap_or_else(|| "rsf".to_owned())
    }
}

/// `rsf policy …`
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print a policy, or list all scopes that have one
    Get {
        /// fleet, application/<name> or service/<package.Service>
        scope: Option<Scope>,
        #[command(flatten)]
        console: ConsoleAt,
    },
    /// Change single fields (`call.timeout_ms=200`), or replace the document (`--file`)
    Set {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        /// field.path=value; the value is JSON, or text where it is none; an empty one removes the field
        assignments: Vec<String>,
        /// File with the whole document, YAML (`.yaml`, `.yml`) or JSON; `-` reads JSON from standard input
        #[arg(long, short = 'f', conflicts_with = "assignments")]
        file: Option<PathBuf>,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        signed: Signed,
    },
    /// Delete a policy; what it set falls back to the scopes above it
    Delete {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        #[command(flatten)]
        signed: Signed,
    },
    /// Compare two revisions of a scope
    Diff {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        /// The older revision; 0 is the empty document
        from: u64,
        /// The newer revision
        to: u64,
        #[command(flatten)]
        console: ConsoleAt,
    },
    /// List a scope's revisions, newest first
    History {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        #[command(flatten)]
        console: ConsoleAt,
    },
    /// Publish an earlier revision's document again, as a new revision
    Rollback {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        /// The revision to go back to
        revision: u64,
        #[command(flatten)]
        signed: Signed,
    },
    /// Print what holds for the calls of a service, field by field, and which document each value comes from
    Resolve {
        /// Service key, `package.Service` or `package.Service:implementation`
        service: String,
        /// Method name; without one, what holds for the service as a whole
        #[arg(long)]
        method: Option<String>,
        /// The calling application
        #[arg(long, default_value = "")]
        consumer: String,
        /// Only values that some document sets
        #[arg(long)]
        set: bool,
        #[command(flatten)]
        console: ConsoleAt,
    },
    /// Print the JSON Schema of policy documents, for editors
    Schema,
    /// Show which instances run which revision
    Acks {
        /// fleet, application/<name> or service/<package.Service>
        scope: Scope,
        #[command(flatten)]
        console: ConsoleAt,
    },
}

pub(crate) async fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Get {
            scope: Some(scope),
            console,
        } => get(&scope, &console.client()?).await,
        PolicyCommand::Get { scope: None, console } => list(&console.client()?).await,
        PolicyCommand::Set {
            scope,
            assignments,
            file,
            dry_run,
            signed,
        } => set(&scope, assignments, file, dry_run, &signed).await,
        PolicyCommand::Delete { scope, signed } => {
            let client = signed.console.client()?;
            let author = signed.author();
            accepted(
                &client
                    .delete(&scope, signed.expect, &author, &signed.comment)
                    .await?,
            );
            Ok(())
        }
        PolicyCommand::Diff {
            scope,
            from,
            to,
            console,
        } => {
            print_lines(&console.client()?.diff(&scope, from, to).await?.lines);
            Ok(())
        }
        PolicyCommand::History { scope, console } => history(&scope, &console.client()?).await,
        PolicyCommand::Rollback {
            scope,
            revision,
            signed,
        } => {
            let asked = Rollback {
                revision,
                expected_revision: signed.expect,
                author: Some(signed.author()),
                comment: signed.comment.clone(),
            };
            accepted(&signed.console.client()?.rollback(&scope, &asked).await?);
            Ok(())
        }
        PolicyCommand::Resolve {
            service,
            method,
            consumer,
            set,
            console,
        } => resolved::print(&console.client()?, &service, method.as_deref(), &consumer, set).await,
        PolicyCommand::Schema => {
            let schema = rsf_core::policy::schema::json_schema();
            println!("{}", serde_json::to_string_pretty(&schema)?);
            Ok(())
        }
        PolicyCommand::Acks { scope, console } => acknowledgements(&scope, &console.client()?).await,
    }
}

async fn get(scope: &Scope, client: &ConsoleClient) -> Result<(), Failure> {
    let Some(policy) = client.policy(scope).await? else {
        return Err(format!("{scope} has no policy; what holds comes from the scopes above it").into());
    };
    println!("{}", serde_json::to_string_pretty(&policy.document)?);
    eprintln!("revision {} by {}", policy.revision, policy.author);
    Ok(())
}

async fn list(client: &ConsoleClient) -> Result<(), Failure> {
    for policy in client.policies().await? {
        println!(
            "{:<50} revision {:<6} by {}",
            policy.scope, policy.revision, policy.author
        );
    }
    Ok(())
}

async fn set(
    scope: &Scope,
    assignments: Vec<String>,
    file: Option<PathBuf>,
    dry_run: bool,
    signed: &Signed,
) -> Result<(), Failure> {
    let client = signed.console.client()?;
    let document = file.map(|path| read_document(&path)).transpose()?;
    if document.is_none() && assignments.is_empty() {
        return Err("nothing to set: give field.path=value, or --file".into());
    }
    if dry_run {
        let assignments = document.is_none().then_some(assignments);
        let previewed = client
            .preview(
                scope,
                &Preview {
                    document,
                    assignments,
                },
            )
            .await?;
        print_lines(&previewed.lines);
        return Ok(());
    }
    let (expected_revision, author) = (signed.expect, Some(signed.author()));
    let comment = signed.comment.clone();
    let result = match document {
        Some(document) => {
            client
                .put(
                    scope,
                    &PutPolicy {
                        document,
                        expected_revision,
                        author,
                        comment,
                    },
                )
                .await?
        }
        None => {
            client
                .patch(
                    scope,
                    &PatchPolicy {
                        assignments,
                        expected_revision,
                        author,
                        comment,
                    },
                )
                .await?
        }
    };
    accepted(&result);
    Ok(())
}

/// The text goes to the console as it is, so that syntax errors come back with line and column.
fn read_document(path: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    }
    let yaml = path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    if yaml {
        let document: Value =
            serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        text = document.to_string();
    }
    Ok(Value::String(text))
}

fn accepted(accepted: &Accepted) {
    println!(
        "{} is now at revision {}",
        accepted.revision.scope, accepted.revision.revision
    );
    if !accepted.message.is_empty() {
        eprintln!("{}", accepted.message);
    }
}

fn print_lines(lines: &[DiffLine]) {
    for line in lines {
        let mark = match line.change {
            Change::Same => ' ',
            Change::Removed => '-',
            Change::Added => '+',
        };
        println!("{mark} {}", line.text);
    }
}

async fn history(scope: &Scope, client: &ConsoleClient) -> Result<(), Failure> {
    for revision in client.history(scope, None, 50).await? {
        let state = serde_json::to_value(revision.status)?;
        let state = state.as_str().unwrap_or_default();
        println!(
            "{:<6} {:<10} {:<12} {}",
            revision.revision, state, revision.author, revision.comment
        );
    }
    Ok(())
}

async fn acknowledgements(scope: &Scope, client: &ConsoleClient) -> Result<(), Failure> {
    let acknowledged = client.acknowledgements(scope).await?;
    println!("latest revision: {}", acknowledged.revision);
    for instance in acknowledged.instances {
        let state = serde_json::to_value(instance.state)?;
        let state = state.as_str().unwrap_or_default();
        println!(
            "{:<40} {:<6} {:<8} {}",
            instance.instance, instance.revision, state, instance.refusal
        );
    }
    Ok(())
}
