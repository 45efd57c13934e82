//! `rsf shop`: the demo shop's programs, so that `rsf dev` needs nothing but this binary.

use std::time::Duration;

use clap::Subcommand;
use rsf::Application;
use shop::Latency;
use shop::load::{Customers, MAX_RATE, Mix, Summary};

use crate::Failure;
use crate::process::until_signal;

/// How long customers wait for the shop before they come anyway.
const OPENS_WITHIN: Duration = Duration::from_secs(30);

/// `rsf shop …`
#[derive(Subcommand)]
pub(crate) enum ShopCommand {
    /// One instance that provides members, orders and stock; configured by `RSF_*`
    Provider {
        /// Milliseconds that every handler takes longer than it needs to
        #[arg(long, env = "SHOP_LATENCY_MS", default_value = "0")]
        latency_ms: Latency,
    },
    /// Customers at a steady rate; prints a line every two seconds
    Consumer {
        /// Calls a second
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
        rate: u32,
    },
}

pub(crate) async fn run(command: ShopCommand) -> Result<(), Failure> {
    match command {
        ShopCommand::Provider { latency_ms } => {
            let app = shop::provide(Application::builder("shop"), latency_ms)
                .start()
                .await?;
            println!("{} serves on {}", app.instance(), app.address());
            app.run_until_signal().await?;
        }
        ShopCommand::Consumer { rate } => {
            let app = Application::connect("shopper").await?;
            let stop = until_signal()?;
            let mut seconds = 0;
            let print = |second: &Summary| {
                seconds += 1;
                if seconds % 2 == 0 || second.failed > 0 {
                    println!("{second}");
                }
            };
            let customers = Customers::new(app.consumer(), Mix::Everything);
            // Customers come when the shop is open.
            tokio::select! {
                opened = app.ready(OPENS_WITHIN) => if let Err(error) = opened {
                    println!("the shop is not open yet: {error}");
                },
                () = stop.cancelled() => {}
            }
            let total = customers.run(rate, stop.cancelled_owned(), print).await;
            println!("total {total}");
            app.shutdown().await;
        }
    }
    Ok(())
}
