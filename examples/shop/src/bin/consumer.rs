//! `shop-consumer`: customers of the demo shop, at a steady rate.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rsf::Application;
use shop::load::{Customers, MAX_RATE, Mix};
use shop::program;

/// How long customers wait for the shop before they come anyway.
const OPENS_WITHIN: Duration = Duration::from_secs(10);

/// Calls the demo shop at a steady rate and prints one line a second, and one for all at the end. Where the registry is
/// is set by RSF_REGISTRY, and so on with the other RSF_* variables.
#[derive(Debug, Parser)]
#[command(name = "shop-consumer", version)]
struct Arguments {
    /// The application's name.
    #[arg(long, default_value = "customers")]
    application: String,
    /// Calls a second.
    #[arg(long, env = "SHOP_RATE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,
    /// What is called.
    #[arg(long, value_enum, default_value_t = Calls::All)]
    calls: Calls,
    /// Ends after so many seconds; without it, on Ctrl-C or SIGTERM.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Prints no line a second, only the one at the end.
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Calls {
    /// Members, stock and orders.
    All,
    /// Members and stock: idempotent calls only.
    Reads,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::log_to_stderr();
    program::end_with(run(arguments).await)
}

#[allow(clippy::print_stdout, reason = "its output is what the program is for")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mix = match arguments.calls {
        Calls::All => Mix::Everything,
        Calls::Reads => Mix::OnlyReads,
    };
    let stop = stop(arguments.seconds)?;
    let application = Application::connect(&arguments.application).await?;
    let customers = Customers::new(application.consumer(), mix);
    tokio::pin!(stop);
    tokio::select! {
        opened = application.ready(OPENS_WITHIN) => if let Err(error) = opened {
            println!("{error}");
        },
        () = &mut stop => {
            application.shutdown().await;
            return Ok(());
        }
    }
    let total = customers.run(arguments.rate, stop, |second| {
        if !arguments.quiet {
            println!("{second}");
        }
    });
    println!("total {}", total.await);
    application.shutdown().await;
    Ok(())
}

fn stop(seconds: Option<u64>) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        let time_is_over = async {
            match seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = time_is_over => {}
        }
    })
}
