//! `rsf bench sessions`: thousands of consumers, each a ZooKeeper session of its own, while servers are restarted.

mod ensemble;
mod storm;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rsf_registry::cluster::{self, Cluster};
use rsf_registry::record::{ListVersion, ListedInstance, ServiceList};
use rsf_registry::{StoreError, Term};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::servers::{Folder, memory};
use super::{say, seconds, until};
use crate::Failure;
use crate::dev::stores::OwnStores;
use ensemble::Ensemble;
use storm::Storm;

const NAMESPACE: &str = "bench";
/// Nobody listens there: lists are all that these consumers are after.
const NO_REDIS: &str = "redis://127.0.0.1:1";
/// How long everybody may take to be back, before the bench goes on without them.
const PATIENCE: Duration = Duration::from_secs(600);

/// Flags of `rsf bench sessions`. Its ZooKeeper servers are its own: it kills them.
#[derive(Args)]
pub(crate) struct SessionsArguments {
    /// How many consumers, each with a session of its own
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// How many services each watches
    #[arg(long, default_value_t = 100)]
    watched: usize,
    /// How many services there are
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// How many instances each list has
    #[arg(long, default_value_t = 3)]
    instances: usize,
    /// How many consumers start a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    starts: u32,
    /// ZooKeeper servers that vote among themselves
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=9))]
    zookeepers: u16,
}

pub(crate) async fn run(arguments: SessionsArguments) -> Result<ExitCode, Failure> {
    let folder = Folder::new()?;
    let stores = OwnStores::start(folder.path().join("stores"), arguments.zookeepers.into()).await?;
    let figures = measure(&arguments, &stores).await;
    stores.end().await;
    println!("{}", serde_json::to_string_pretty(&figures?)?);
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: &SessionsArguments, stores: &OwnStores) -> Result<Value, Failure> {
    let ensemble = Ensemble::new(stores.zookeepers.clone());
    let pump = Writer::open(arguments, stores).await?;
    pump.publish(1).await?;

    say(format_args!("{} consumers start …", arguments.sessions));
    let watching = ensemble.watch();
    let before = ensemble.transactions().await;
    let begun = Instant::now();
    let storm = Storm::start(stores.zookeepers.join(","), arguments);
    let complete = storm.complete(1, PATIENCE).await?;
    let started = json!({
        "everybody_has_every_list_s": complete.then(|| seconds(begun.elapsed())),
        "peak": watching.end(),
        "sessions": ensemble.sessions().await,
        "transactions": transactions(before, ensemble.transactions().await),
        "memory_of_all_consumers_mib": memory(std::process::id())?.0,
    });

    say(format_args!("every list changes …"));
    let begun = Instant::now();
    pump.publish(2).await?;
    let complete = storm.complete(2, PATIENCE).await?;
    let changed = json!({ "everybody_has_every_list_s": complete.then(|| seconds(begun.elapsed())) });

    say(format_args!("one server is killed, and comes back …"));
    let follower = ensemble.follower().await.ok_or("the ensemble has no follower")?;
    let one = outage(arguments, stores, &ensemble, &pump, &storm, vec![follower], 3).await?;
    say(format_args!("all servers are killed, and come back …"));
    let all = (0..stores.zookeepers.len()).collect();
    let all = outage(arguments, stores, &ensemble, &pump, &storm, all, 4).await?;
    Ok(json!({
        "sessions": arguments.sessions,
        "watched_each": arguments.watched,
        "services": arguments.services,
        "instances_each": arguments.instances,
        "zookeepers": stores.zookeepers.len(),
        "start": started,
        "every_list_changes": changed,
        "one_server_restarts": one,
        "all_servers_restart": all,
    }))
}

/// Kills servers, waits until everybody is connected again and has a list that was written after that.
async fn outage(
    arguments: &SessionsArguments,
    stores: &OwnStores,
    ensemble: &Ensemble,
    pump: &Writer,
    storm: &Storm,
    places: Vec<usize>,
    sequence: u64,
) -> Result<Value, Failure> {
    let before = ensemble.transactions().await;
    let watching = ensemble.watch();
    let killed = Instant::now();
    let everybody = places.len() == stores.zookeepers.len();
    stores.kill_zookeepers(places.into_iter())?;
    if everybody {
        until(PATIENCE, async || ensemble.transactions().await.is_some()).await;
    }
    let serving = killed.elapsed();
    let wanted = arguments.sessions as i64;
    let back = until(PATIENCE, async || ensemble.connections().await >= wanted).await;
    let connected = killed.elapsed();
    let alone = transactions(before, ensemble.transactions().await);
    let begun = Instant::now();
    pump.publish(sequence).await?;
    let complete = storm.complete(sequence, PATIENCE).await?;
    let taken = begun.elapsed();
    // What is broken next is a whole ensemble.
    if !until(PATIENCE, async || ensemble.is_whole().await).await {
        return Err("a killed ZooKeeper server does not serve again".into());
    }
    Ok(json!({
        "serving_again_s": seconds(serving),
        "everybody_connected_s": back.then(|| seconds(connected)),
        "transactions_until_then": alone,
        "everybody_has_the_next_lists_s": complete.then(|| seconds(taken)),
        "peak": watching.end(),
        "sessions": ensemble.sessions().await,
    }))
}

/// How many transactions the ensemble committed between two of its numbers; an election begins to count anew.
fn transactions(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    let (before, after) = (before?, after?);
    let within = |zxid: u64| zxid & u64::from(u32::MAX);
    if before >> 32 == after >> 32 {
        Some(within(after).saturating_sub(within(before)))
    } else {
        Some(within(after))
    }
}

/// Whoever writes the lists.
struct Writer {
    cluster: Cluster,
    term: Term,
    services: usize,
    instances: usize,
}

impl Writer {
    async fn open(arguments: &SessionsArguments, stores: &OwnStores) -> Result<Writer, Failure> {
        let cluster = cluster::open(NO_REDIS, &stores.zookeepers.join(","), NAMESPACE)?;
        let term = cluster.writer.lead("bench", 0).await?;
        Ok(Writer {
            cluster,
            term,
            services: arguments.services,
            instances: arguments.instances,
        })
    }

    /// Writes every list with this sequence, in a new term where the last one ended with its session.
    async fn publish(&self, sequence: u64) -> Result<(), Failure> {
        let mut term = self.term.clone();
        let end = Instant::now() + PATIENCE;
        loop {
            let lists: Vec<ServiceList> = (0..self.services)
                .map(|service| self.list(service, term.epoch, sequence))
                .collect();
            match self.cluster.writer.write(&term, &lists).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Fenced { .. }) => {
                    term = self.cluster.writer.lead("bench", term.epoch).await?
                }
                Err(error) if Instant::now() > end => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    fn list(&self, service: usize, epoch: u64, sequence: u64) -> ServiceList {
        let instance = |number| ListedInstance {
            instance: format!("application-{service}/{number}"),
            address: format!("127.0.0.1:{}", 7_000 + number),
            weight: 100,
            ..ListedInstance::default()
        };
        ServiceList {
            service: service_key(service),
            version: Some(ListVersion { epoch, sequence }),
            instances: (0..self.instances).map(instance).collect(),
            ..ServiceList::default()
        }
    }
}

fn service_key(service: usize) -> String {
    format!("bench.v1.Service{service}")
}
