//! `shop-provider`: one instance that provides the members', orders' and stock services.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use rsf::Application;
use shop::{Latency, program};

/// One instance of the demo shop. Where it registers, listens and so on is set by RSF_REGISTRY, RSF_LISTEN, RSF_INSTANCE
/// and the other RSF_* variables.
#[derive(Debug, Parser)]
#[command(name = "shop-provider", version)]
struct Arguments {
    /// The application's name.
    #[arg(long, default_value = "shop")]
    application: String,
    /// Milliseconds that every handler takes longer than it needs to.
    #[arg(long, env = "SHOP_LATENCY_MS", default_value = "0")]
    latency_ms: Latency,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::log_to_stderr();
    program::end_with(run(arguments).await)
}

#[allow(clippy::print_stdout, reason = "a demo program tells where it runs")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let application = shop::provide(Application::builder(&arguments.application), arguments.latency_ms);
    let application = application.start().await?;
    println!(
        "{} serves on {}, admin on http://{}",
        application.instance(),
        application.address(),
        application.admin_address()
    );
    application.run_until_signal().await?;
    Ok(())
}
