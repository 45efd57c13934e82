//! `rsf nodes`: services and instances, as the console knows them.

use clap::Args;

use crate::Failure;
use crate::policy::ConsoleAt;

/// Flags of `rsf nodes`.
#[derive(Args)]
pub(crate) struct NodesArguments {
    /// Only this service's instances, with why others left
    service: Option<String>,
    #[command(flatten)]
    console: ConsoleAt,
}

pub(crate) async fn run(arguments: NodesArguments) -> Result<(), Failure> {
    let client = arguments.console.client()?;
    let Some(key) = arguments.service else {
        for service in client.services().await? {
            println!(
                "{:<40} {:>4} up {:>4} draining   {}",
                service.service,
                service.up,
                service.draining,
                service.applications.join(", ")
            );
        }
        println!();
        for node in client.instances().await? {
            println!(
                "{:<40} {:<9} {:<22} {}",
                node.instance, node.state, node.address, node.zone
            );
        }
        return Ok(());
    };
    let service = client.service(&key).await?;
    for listed in service.instances {
        let node = listed.instance;
        let weight = if listed.disabled {
            "disabled".to_owned()
        } else {
            format!("weight {}", listed.effective_weight)
        };
        println!(
            "{:<40} {:<9} {:<22} {:<12} {}",
            node.instance, node.state, node.address, weight, node.zone
        );
    }
    for removed in service.removed {
        println!("{:<40} left: {}", removed.instance, removed.cause);
    }
    Ok(())
}
