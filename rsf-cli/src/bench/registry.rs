//! `rsf bench registry`: a fleet registers, renews, changes, is released anew and partly dies; a consumer watches.

mod reading;

mod acknowledging;
mod takeover;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rsf_registry::{Backend, ControlBackend, RegistryUrl};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::consumer::Consumer;
use super::fleet::Shape;
use super::leases::Leases;
use super::servers::{Folder, PumpProcess};
use super::{say, seconds, until};
use crate::Failure;
use crate::dev::stores::OwnStores;
use reading::figures;

/// How long lists may take to become whole, or changes to be seen, before the bench goes on without.
const PATIENCE: Duration = Duration::from_secs(300);

/// Flags of `rsf bench registry`.
#[derive(Args)]
pub(crate) struct RegistryArguments {
    /// redis://host:port,zk://host:port[,host:port] that serve nobody else; it fills them with its own leases and lists
    /// [default: a Redis and a ZooKeeper of its own, which it starts and ends]
    #[arg(long)]
    registry: Option<String>,
    /// A namespace that nothing uses or has used; the bench's lists stay in ZooKeeper, so each run wants another
    #[arg(long, default_value = "bench")]
    namespace: String,
    /// How many instances
    #[arg(long, default_value_t = 3_000)]
    leases: usize,
    /// How many services, of sizes by Zipf's law; every instance provides ten
    #[arg(long, default_value_t = 300)]
    services: usize,
    /// How long a lease lives, seconds; it is renewed three times as often [default: 15, above 50 000 leases 30]
    #[arg(long)]
    ttl: Option<u64>,
    /// The pump's window: the least time between two rounds of writes, milliseconds
    #[arg(long, default_value_t = 1_000)]
    coalesce_ms: u64,
    /// Connections to Redis that all instances share
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// How many services the consumer watches
    #[arg(long, default_value_t = 100)]
    watched: usize,
    /// Seconds of each part: nothing but renewals, single changes, a rolling release
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Single changes a second
    #[arg(long, default_value_t = 20)]
    changes: u32,
    /// What a rolling release replaces, per mille of the fleet a second
    #[arg(long, default_value_t = 10)]
    release_per_mille: usize,
    /// How many instances acknowledge a policy of the fleet, at most all; 0 leaves this part out
    #[arg(long, default_value_t = 100_000)]
    acknowledgements: usize,
    /// What dies at once, percent of the fleet; 0 leaves this part out
    #[arg(long, default_value_t = 5)]
    deaths_percent: usize,
}

pub(crate) async fn run(arguments: RegistryArguments) -> Result<ExitCode, Failure> {
    let shape = Shape::new(arguments.leases, arguments.services)?;
    let folder = Folder::new()?;
    let figures = match arguments.registry.clone() {
        Some(registry) => {
            unused(&registry.parse()?, &arguments.namespace).await?;
            measure(arguments, shape, &registry, &folder).await?
        }
        None => {
            let stores = OwnStores::start(folder.path().join("stores"), 1).await?;
            let figures = measure(arguments, shape, &stores.registry(), &folder).await;
            stores.end().await;
            figures?
        }
    };
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(ExitCode::SUCCESS)
}

/// Refuses a namespace in which somebody lives or lived: the bench would mix its fleet with theirs.
async fn unused(url: &RegistryUrl, namespace: &str) -> Result<(), Failure> {
    let instead = "give --namespace a name that nothing uses or has used";
    // What cannot be a pump's is refused later, with what to give instead.
    if !matches!(url, RegistryUrl::Cluster { .. }) {
        return Ok(());
    }
    let lists = Backend::open(url, namespace)?.directory.services().await?;
    if let Some(service) = lists.first() {
        let count = lists.len();
        return Err(format!(
            "namespace `{namespace}` has lists of {count} services already, `{service}` among them; {instead}"
        )
        .into());
    }
    for source in ControlBackend::open(url, namespace)?.lease_sources {
        let (pages, mut read) = mpsc::channel(1);
        let swept = source.sweep_into(pages);
        // The first lease is enough.
        let first = async move {
            while let Some(page) = read.recv().await {
                if let Some(live) = page.into_iter().next() {
                    return Some(live.lease.instance);
                }
            }
            None
        };
        let (swept, first) = tokio::join!(swept, first);
        if let Some(instance) = first {
            return Err(format!(
                "namespace `{namespace}` has leases at {} already, that of `{instance}` among them; {instead}",
                source.name()
            )
            .into());
        }
        swept?;
    }
    Ok(())
}

async fn measure(
    arguments: RegistryArguments,
    shape: Shape,
    registry: &str,
    folder: &Folder,
) -> Result<Value, Failure> {
    let url: RegistryUrl = registry.parse()?;
    if !matches!(url, RegistryUrl::Cluster { .. }) {
        return Err("the bench starts a pump of its own: give it redis://host:port,zk://host:port".into());
    }
    let large = if arguments.leases > 50_000 { 30 } else { 15 };
    let ttl = Duration::from_secs(arguments.ttl.unwrap_or(large));
    let leases = Leases::open(
        shape,
        &url,
        &arguments.namespace,
        ttl,
        arguments.connections.max(1),
    )?;
    let bench = Bench {
        backend: Backend::open(&url, &arguments.namespace)?,
        registry: registry.to_owned(),
        arguments,
        url,
        leases,
        folder,
    };
    bench.run().await
}

struct Bench<'a> {
    arguments: RegistryArguments,
    registry: String,
    url: RegistryUrl,
    backend: Backend,
    leases: Arc<Leases>,
    folder: &'a Folder,
}

impl Bench<'_> {
    async fn run(&self) -> Result<Value, Failure> {
        let shape = &self.leases.shape;
        say(format_args!(
            "writing {} leases of {} services, the largest with {} instances …",
            shape.instances(),
            shape.services(),
            shape.size(0)
        ));
        let begun = Instant::now();
        self.leases.register().await?;
        let registered = begun.elapsed();
        let _renewals = self.leases.keep();
        say(format_args!("starting the pump …"));
        let started = Instant::now();
        let pump = self.start_pump().await?;
        let folded = self.folded(&pump, started).await?;
        let consumer = Consumer::watch(&self.backend.directory, shape, self.arguments.watched);
        let complete = until(PATIENCE, async || consumer.complete(shape)).await;

        let idle = self.part(&pump, "nothing but renewals", async || Ok(0)).await?;
        let steady = self
            .part(&pump, "single changes", async || self.change(&consumer).await)
            .await?;
        let steady = with(steady, "change_to_consumer", self.seen(&consumer).await);
        let rolling = self
            .part(&pump, "a rolling release", async || self.release(&consumer).await)
            .await?;
        let rolling = with(rolling, "change_to_consumer", self.seen(&consumer).await);
        let acknowledging = self.acknowledging(&pump).await?;
        let (_, before) = pump.memory()?;
        let (pump, takeover) = self.takeover(pump, &consumer).await?;
        let deaths = self.deaths(&pump, &consumer).await?;
        let (memory, most) = pump.memory()?;
        let last = pump.status().await?;
        pump.end().await;
        Ok(json!({
            "leases": shape.instances(),
            "services": shape.services(),
            "largest_service": shape.size(0),
            "services_each": super::fleet::SERVICES_EACH,
            "lease_ttl_s": self.leases.ttl.as_secs(),
            "coalesce_ms": self.arguments.coalesce_ms,
            "watched_services": consumer.services.len(),
            "registering_s": seconds(registered),
            "cold_fold": folded,
            "lists_complete_at_consumer": complete,
            "renewals_alone": idle,
            "single_changes": steady,
            "rolling_release": rolling,
            "acknowledgements": acknowledging,
            "takeover": takeover,
            "deaths": deaths,
            "pump_memory_mib": memory,
            "pump_memory_most_mib": most.max(before),
            "pump_discontinuities": last["counters"]["discontinuities"],
            "pump_holds": last["counters"]["holds"],
        }))
    }

    async fn start_pump(&self) -> Result<PumpProcess, Failure> {
        let (namespace, settings) = (&self.arguments.namespace, self.pump_settings());
        PumpProcess::start(&self.registry, namespace, &settings, self.folder).await
    }

    fn pump_settings(&self) -> String {
        let ttl_ms = self.leases.ttl.as_millis();
        let sweep_ms = ttl_ms / 3;
        format!(
            "[pump]\nlease_ttl_ms = {ttl_ms}\nsweep_ms = {sweep_ms}\nsweep_timeout_ms = 60000\nwrite_timeout_ms = 60000\n\
             coalesce_ms = {}\n",
            self.arguments.coalesce_ms
        )
    }

    /// Waits until the pump has read every lease and written every list.
    async fn folded(&self, pump: &PumpProcess, started: Instant) -> Result<Value, Failure> {
        let (leases, services) = (
            self.leases.shape.instances() as u64,
            self.leases.shape.services() as u64,
        );
        let (mut read, mut written) = (None, None);
        let end = started + PATIENCE;
        loop {
            let status = pump.status().await?;
            let number = |name: &str| status[name].as_u64().unwrap_or_default();
            if read.is_none() && number("leases") >= leases {
                read = Some(started.elapsed());
            }
            // Lists of a write whose answer was lost are found there by the next term, and not written again.
            let folded = read.is_some() && number("services") >= services && status["role"] == "leading";
            let written = match folded && number("lists_waiting") == 0 {
                true => Some(*written.get_or_insert(started.elapsed())),
                false => None,
            };
            // It calls itself ready when a second reading has confirmed everybody.
            if status["ready"] == true
                && let Some(written) = written
            {
                let (memory, most) = pump.memory()?;
                return Ok(json!({
                    "leases_read_s": read.map(seconds), "lists_written_s": seconds(written),
                    "ready_s": seconds(started.elapsed()),
                    "pump_cpu_s": pump.cpu()?, "pump_memory_mib": memory, "pump_memory_most_mib": most,
                }));
            }
            if Instant::now() > end {
                return Err(format!("the pump did not write all lists within {PATIENCE:?}: {status}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One part: `work` is called every second until its time is over, and returns how many leases it changed.
    async fn part(
        &self,
        pump: &PumpProcess,
        name: &str,
        mut work: impl AsyncFnMut() -> Result<u64, Failure>,
    ) -> Result<Value, Failure> {
        say(format_args!("{name} for {} s …", self.arguments.seconds));
        let before = self.read(pump).await?;
        let mut events = 0;
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while before.at.elapsed() < Duration::from_secs(self.arguments.seconds) {
            ticks.tick().await;
            events += work().await?;
        }
        let after = self.read(pump).await?;
        Ok(figures(&before, &after, events))
    }

    async fn change(&self, consumer: &Consumer) -> Result<u64, Failure> {
        let shape = &self.leases.shape;
        // Over the whole second: who changes just after a round of writes waits longest.
        let mut ticks = interval(Duration::from_secs(1) / self.arguments.changes.max(1));
        for _ in 0..self.arguments.changes {
            ticks.tick().await;
            let service = consumer.services[fastrand::usize(..consumer.services.len())];
            let instance = shape.member(service, fastrand::usize(..shape.size(service)));
            self.leases.restart(instance, self.expecting(consumer)).await?;
        }
        Ok(self.arguments.changes.into())
    }

    /// Lets the consumer expect an instance that comes.
    fn expecting<'a>(&'a self, consumer: &'a Consumer) -> impl Fn(usize, u64) + 'a {
        |instance, incarnation| {
            let services = self.leases.shape.services_of(instance);
            consumer.expect(instance, Some(incarnation), Instant::now(), services);
        }
    }

    /// One second of a rolling release.
    async fn release(&self, consumer: &Consumer) -> Result<u64, Failure> {
        let shape = &self.leases.shape;
        let count = (shape.instances() * self.arguments.release_per_mille / 1_000).max(1);
        let first = fastrand::usize(..shape.instances());
        let instances: Vec<usize> = (0..count).map(|n| (first + n) % shape.instances()).collect();
        self.leases.replace(&instances, self.expecting(consumer)).await?;
        // Each drains, leaves and comes back.
        Ok(count as u64 * 3)
    }

    /// Some die at once, fewer than rule R holds back: they must leave the lists when their leases have run out.
    async fn deaths(&self, pump: &PumpProcess, consumer: &Consumer) -> Result<Value, Failure> {
        let shape = &self.leases.shape;
        let percent = self.arguments.deaths_percent.min(100);
        if percent == 0 {
            return Ok(Value::Null);
        }
        say(format_args!("{percent} % of the instances die …"));
        let before = self.read(pump).await?;
        let died: Vec<usize> = (0..shape.instances())
            .filter(|instance| instance * percent / 100 != (instance + 1) * percent / 100)
            .collect();
        for &instance in &died {
            self.leases.kill(instance);
            consumer.expect(instance, None, before.at, shape.services_of(instance));
        }
        let patience = self.leases.ttl * 2 + Duration::from_secs(20);
        until(patience, async || consumer.waiting() == 0).await;
        let after = self.read(pump).await?;
        let part = figures(&before, &after, died.len() as u64);
        Ok(with(part, "death_to_consumer", consumer.latency()))
    }

    /// Waits until the consumer has seen everything, and says how long that took it.
    async fn seen(&self, consumer: &Consumer) -> Value {
        until(self.leases.ttl, async || consumer.waiting() == 0).await;
        consumer.latency()
    }
}

fn with(mut part: Value, name: &str, value: Value) -> Value {
    part[name] = value;
    part
}
