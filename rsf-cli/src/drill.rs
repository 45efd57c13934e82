//! `rsf drill`: breaks one part of a running `make demo BACKEND=cluster`, and says what its callers felt.

mod demo;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rsf::{Application, Channel, Client, Settings};
use shop::load::{Customers, Mix, Summary};
use shop::v1::MemberServiceClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::call::FIND;
use demo::Demo;

/// What the demo must be able to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL of Redis; the demo starts it again, empty
    KillRedis,
    /// FLUSHALL: every lease is gone at once
    EmptyRedis,
    /// SIGKILL of ZooKeeper; the demo starts it again
    KillZookeeper,
    /// SIGKILL of the pump; the demo starts it again
    KillPump,
    /// Redis stands still until every lease has run out, and goes on
    MassExpiry,
}

/// Flags of `rsf drill`.
#[derive(Args)]
pub(crate) struct DrillArguments {
    /// What breaks
    #[arg(value_enum)]
    fault: Fault,
    /// Calls a second that the drill makes meanwhile
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// Seconds in which everything must be well again after the fault's end
    #[arg(long, default_value_t = 60)]
    recover_within: u64,
}

/// How often the drill looks.
const LOOK: Duration = Duration::from_millis(50);
/// What the demo takes to start a killed program again, and that program to come up; and to be well after its start.
const COMES_BACK: Duration = Duration::from_secs(60);
/// How long calls and lists are watched before the fault: nothing may be wrong then.
const BEFORE: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: DrillArguments) -> Result<ExitCode, Failure> {
    let demo = Demo::find()?;
    well_within(&demo, COMES_BACK)
        .await
        .map_err(|why| format!("the demo is not well before the drill: {why}"))?;
    let settings = Settings {
        registry: Some(demo.registry.clone()),
        namespace: Some(demo.namespace.clone()),
        ..Settings::default()
    };
    let app = Application::builder("rsf-drill")
        .settings(settings)
        .start()
        .await?;
    // Whoever interrupts it leaves a demo that goes on: what the drill stopped is let go when it is dropped.
    let verdict = tokio::select! {
        verdict = drill(&arguments, &demo, &app) => verdict,
        ended = interrupted() => ended,
    };
    app.shutdown().await;
    verdict
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> Result<ExitCode, Failure> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminated.recv() => {}
    }
    Err("interrupted before there was a verdict".into())
}

async fn drill(arguments: &DrillArguments, demo: &Demo, app: &Application) -> Result<ExitCode, Failure> {
    let channel = app.channel(MemberServiceClient::descriptor(), "");
    let customers = Customers::new(app.consumer(), Mix::OnlyReads);
    app.ready(FIND).await?;
    let listed = listed(&channel);
    let stop = CancellationToken::new();
    let calling = async {
        customers
            .run(arguments.rate, stop.clone().cancelled_owned(), |_| {})
            .await
    };
    let breaking = async {
        let _stops = stop.clone().drop_guard();
        let mut least = Least::new(&channel);
        least.watch(sleep(BEFORE)).await;
        println!("{}", arguments.fault.describe(demo));
        least.watch(arguments.fault.happen(demo)).await?;
        let over = Instant::now();
        let recovered = least
            .watch(well_within(demo, Duration::from_secs(arguments.recover_within)))
            .await;
        // What was held back would leave the lists within a TTL.
        least.watch(sleep(demo.lease_ttl * 5 / 4)).await;
        let recovered = recovered.map(|()| over.elapsed().saturating_sub(demo.lease_ttl * 5 / 4));
        Ok::<_, Failure>((recovered, least.fewest))
    };
    let (calls, broken) = tokio::join!(calling, breaking);
    let (recovered, fewest) = broken?;
    Ok(verdict(&calls, listed, fewest, &recovered))
}

fn verdict(calls: &Summary, listed: usize, fewest: usize, recovered: &Result<Duration, String>) -> ExitCode {
    println!(
        "calls: {}, failed: {}",
        calls.succeeded + calls.failed,
        calls.failed
    );
    if let Some(error) = &calls.last_error {
        println!("  last error: {error}");
    }
    println!(
        "instances of {} in the list: {listed}, fewest {fewest}",
        MemberServiceClient::descriptor().name
    );
    match recovered {
        Ok(after) => println!(
            "pump, leases and lists well again {:.1} s after the fault's end",
            after.as_secs_f64()
        ),
        Err(why) => println!("not well again in time: {why}"),
    }
    if calls.failed == 0 && fewest >= listed && recovered.is_ok() {
        println!("passed");
        ExitCode::SUCCESS
    } else {
        println!("FAILED");
        ExitCode::FAILURE
    }
}

/// The shortest list while something else goes on.
struct Least<'a> {
    channel: &'a Channel,
    fewest: usize,
}

impl<'a> Least<'a> {
    fn new(channel: &'a Channel) -> Self {
        Least {
            channel,
            fewest: usize::MAX,
        }
    }

    async fn watch<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.fewest = self.fewest.min(listed(self.channel));
            tokio::select! {
                done = &mut work => return done,
                () = sleep(LOOK) => {}
            }
        }
    }
}

/// How many instances the list has, without those that it lost and that are called because they still answer.
fn listed(channel: &Channel) -> usize {
    let view = channel.view();
    let lost = |instance: &str| view.kept.iter().any(|kept| kept == instance);
    view.instances.iter().filter(|seen| !lost(&seen.instance)).count()
}

impl Fault {
    /// What will be done, for whoever looks on.
    fn describe(self, demo: &Demo) -> String {
        let process = |name: &str| {
            demo.process(name)
                .map_or_else(|_| name.to_owned(), |pid| format!("{name}, pid {pid}"))
        };
        match self {
            Fault::KillRedis => format!("killing {}; the demo starts it again", process("redis")),
            Fault::EmptyRedis => "emptying Redis (FLUSHALL)".to_owned(),
            Fault::KillZookeeper => format!("killing {}; the demo starts it again", process("zookeeper")),
            Fault::KillPump => format!("killing {}; the demo starts it again", process("pump")),
            Fault::MassExpiry => {
                let time = stands_still(demo).as_secs();
                format!(
                    "stopping {} for {time} s, until every lease has run out",
                    process("redis")
                )
            }
        }
    }

    /// Does it, and returns when the fault is over and its consequences are left.
    async fn happen(self, demo: &Demo) -> Result<(), Failure> {
        match self {
            Fault::KillRedis => demo.kill("redis", COMES_BACK).await,
            Fault::KillZookeeper => demo.kill("zookeeper", COMES_BACK).await,
            Fault::KillPump => demo.kill("pump", COMES_BACK).await,
            Fault::EmptyRedis => demo.empty_redis().await,
            Fault::MassExpiry => {
                let stopped = demo.stop("redis")?;
                sleep(stands_still(demo)).await;
                stopped.go_on()
            }
        }
    }
}

fn stands_still(demo: &Demo) -> Duration {
    demo.lease_ttl * 3 / 2
}

/// Waits until the demo is well and stays so for a second.
async fn well_within(demo: &Demo, within: Duration) -> Result<(), String> {
    let end = Instant::now() + within;
    let mut since = None;
    loop {
        match demo.well().await {
            Ok(()) => {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() >= Duration::from_secs(1) {
                    return Ok(());
                }
            }
            Err(why) => {
                since = None;
                if Instant::now() > end {
                    return Err(why);
                }
            }
        }
        sleep(LOOK * 4).await;
    }
}
