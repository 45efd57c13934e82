//! `rsf`: development server, pump, console, adapter, and the operator's commands.
//!
//! A command that fails says why on standard error and exits with 1; wrong arguments exit with 2.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a command prints is its purpose"
)]

mod bench;
mod call;
mod dev;
mod drill;
mod explain;
mod nodes;
mod overrides;
mod policy;
mod process;
mod shop;
mod token;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command may fail with; it is shown with its causes.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// RSF: RPC with a control plane that governs every call while it runs.
#[derive(Parser)]
#[command(name = "rsf", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Registry, pump, console, HTTP adapter and a demo shop on this machine
    Dev(dev::DevArguments),
    /// Fold leases into the directory (for Redis + ZooKeeper; `rsf dev` has a pump of its own); ask a running pump, and
    /// end its holds
    Pump(Box<process::pump::PumpArguments>),
    /// Serve the governance API and the web console (for Redis + ZooKeeper; `rsf dev` has one of its own)
    Console(process::console::ConsoleArguments),
    /// Serve registered methods as HTTP and JSON
    Adapter(process::adapter::AdapterArguments),
    /// Call a method with JSON
    Call(call::CallArguments),
    /// Say what a call would meet: policy, the rule that removed each instance, scores, states; with --call, its attempts
    Explain(explain::ExplainArguments),
    /// Read and change policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// List services and instances
    Nodes(nodes::NodesArguments),
    /// Override a service's instances in one running consumer: pin, add or remove some for a time
    #[command(subcommand)]
    Override(Box<overrides::OverrideCommand>),
    /// Make keys and sign the tokens by which applications prove who they are
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Measure the control path at a fleet's size, on real Redis and ZooKeeper
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Break one part of a running `make demo BACKEND=cluster`, and say what its callers felt
    Drill(drill::DrillArguments),
    /// The demo shop's programs
    #[command(subcommand)]
    Shop(shop::ShopCommand),
}

fn main() -> ExitCode {
    let matches = without_empty(Arguments::command()).get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let filter = EnvFilter::try_from_env("RSF_LOG")
        .unwrap_or_else(|_| EnvFilter::new(default_level(&arguments.command)));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    if std::env::var_os(dev::END_WITH_STDIN).is_some() {
        dev::end_with_stdin();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rsf: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rsf: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// A variable that is set to nothing counts as not set.
fn without_empty(command: clap::Command) -> clap::Command {
    let set = |arg: clap::Arg| match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(set).mut_subcommands(without_empty)
}

/// A command that is run once says itself what failed; a process that goes on tells what it goes on in spite of.
fn default_level(command: &Command) -> &'static str {
    match command {
        Command::Call(_)
        | Command::Explain(_)
        | Command::Policy(_)
        | Command::Nodes(_)
        | Command::Override(_)
        | Command::Token(_)
        | Command::Drill(_) => "error",
        _ => "warn",
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Dev(arguments) => dev::run(arguments).await?,
        Command::Pump(arguments) => process::pump::run(*arguments).await?,
        Command::Console(arguments) => process::console::run(arguments).await?,
        Command::Adapter(arguments) => process::adapter::run(arguments).await?,
        Command::Call(arguments) => return call::run(arguments).await,
        Command::Explain(arguments) => return explain::run(arguments).await,
        Command::Policy(command) => policy::run(command).await?,
        Command::Nodes(arguments) => nodes::run(arguments).await?,
        Command::Override(command) => overrides::run(*command).await?,
        Command::Token(command) => token::run(command)?,
        Command::Drill(arguments) => return drill::run(arguments).await,
        Command::Bench(command) => return bench::run(command).await,
        Command::Shop(command) => shop::run(command).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
