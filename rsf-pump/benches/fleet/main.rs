//! What a pump of a large fleet costs: 300 000 leases of ten services each, sizes by Zipf, the largest of 20 000.
//!
//! The whole pump runs, between a lease source that makes its leases up when it is asked and a directory that forgets what it
//! is given. What is printed is the process: its resident memory, and its time on the processor less what making the
//! leases up takes. `make bench-pump` runs it.

#![allow(clippy::print_stdout, reason = "the figures are what this program is for")]

mod fleet;

mod process;
mod twin;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fleet::{EACH, Fleet, LEASES};
use process::{Spent, mib, peak, resident};
use rsf_pump::{Pump, PumpHandle, PumpSettings, PumpStatus};
use rsf_registry::Hint;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use twin::{Discard, Source};

/// How long any one part may take.
const LIMIT: Duration = Duration::from_secs(240);
/// PERFORMANCE.md's goal 8: a cold fold, and the memory of the pump.
const GOAL_COLD: Duration = Duration::from_secs(20);
const GOAL_MEMORY: u64 = 1 << 30;
/// Leases that change in a second of a rolling release of 1 % of the fleet.
const ROLLING: usize = LEASES / 100;
const NOTIFIED: usize = 30_000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(measure()))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("RSF-PUMP failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the figures; answers whether the goals are reached.
async fn measure() -> Result<bool, String> {
    let fleet = Arc::new(Fleet::new());
    let empty = resident()?;
    let source = Arc::new(Source::new(fleet.clone()));
    let directory = Arc::new(Discard::default());
    // Twice: the first fills the allocator's pools.
    source.make_up().await;
    let spent = Spent::now()?;
    source.make_up().await;
    let making = spent.since()?;
    println!(
        "RSF-PUMP fleet leases={LEASES} services={} memberships={} largest={} making_up_cpu_ms={}",
        fleet.services(),
        LEASES * EACH,
        fleet.largest(),
        making.as_millis()
    );

    let settings = PumpSettings {
        lease_ttl_ms: 30_000,
        sweep_ms: 10_000,
        // A busy machine must not look like a broken source.
        sweep_timeout_ms: 120_000,
        ..PumpSettings::default()
    };
    let config = settings.validate().map_err(|error| error.to_string())?;
    let pump = Pump::new(
        vec![source.clone()],
        directory.clone(),
        config,
        &prometheus::Registry::new(),
    );
    let pump = pump.map_err(|error| error.to_string())?;
    let (mut handle, end) = (pump.handle(), CancellationToken::new());

    let (start, spent) = (Instant::now(), Spent::now()?);
    let running = tokio::spawn(pump.run(end.clone()));
    let lists = fleet.services() as u64;
    until(&mut handle, "the cold fold", |status| {
        status.leases == LEASES && status.lists_waiting == 0 && status.counters.lists_written >= lists
    })
    .await?;
    let (cold, cpu) = (start.elapsed(), spent.since()?.saturating_sub(making));
    println!(
        "RSF-PUMP cold wall_ms={} cpu_ms={} lists={lists} written_mib={} peak_mib={}",
        cold.as_millis(),
        cpu.as_millis(),
        mib(directory.bytes()),
        mib(peak()?)
    );

    let sweep = sweeps(&mut handle, making).await?;
    println!(
        "RSF-PUMP sweep cpu_ms={} ns_a_lease={}",
        sweep.as_millis(),
        sweep.as_nanos() / LEASES as u128
    );
    notifications(&mut handle, &source).await?;
    changes(&mut handle, &source, &directory, 1, 20).await?;
    changes(&mut handle, &source, &directory, ROLLING, 3).await?;

    let memory = resident()?.saturating_sub(empty);
    println!(
        "RSF-PUMP memory resident_mib={} bytes_a_lease={} peak_mib={}",
        mib(memory),
        memory / LEASES as u64,
        mib(peak()?)
    );
    end.cancel();
    running.await.map_err(|error| error.to_string())?;
    let reached = cold <= GOAL_COLD && peak()? <= GOAL_MEMORY;
    println!(
        "RSF-PUMP goals cold_s<={} peak_mib<={} {}",
        GOAL_COLD.as_secs(),
        mib(GOAL_MEMORY),
        if reached { "reached" } else { "missed" }
    );
    Ok(reached)
}

/// What a sweep costs that brings nothing new.
async fn sweeps(handle: &mut PumpHandle, making: Duration) -> Result<Duration, String> {
    const SWEEPS: u32 = 2;
    let first = handle.status().counters.sweeps + 1;
    let swept = |count: u64| move |status: &PumpStatus| status.counters.sweeps >= count;
    until(handle, "a sweep", swept(first)).await?;
    let spent = Spent::now()?;
    until(handle, "sweeps", swept(first + u64::from(SWEEPS))).await?;
    Ok((spent.since()? / SWEEPS).saturating_sub(making))
}

/// What it costs to be told of leases that turn out to be as they were.
async fn notifications(handle: &mut PumpHandle, source: &Source) -> Result<(), String> {
    let hints = handle.status().counters.hints;
    let swept = handle.status().counters.sweeps;
    until(handle, "a sweep", |status| status.counters.sweeps > swept).await?;
    let (spent, read) = (Spent::now()?, source.read_time());
    for index in 0..NOTIFIED {
        source.hint(Hint::Changed(source.fleet().name(index * (LEASES / NOTIFIED))));
    }
    let last = source.reads() + NOTIFIED as u64;
    source.until_read(last, LIMIT).await?;
    until(handle, "hints", |status| {
        status.counters.hints >= hints + NOTIFIED as u64
    })
    .await?;
    let spent = spent.since()?.saturating_sub(source.read_time() - read);
    println!(
        "RSF-PUMP notifications count={NOTIFIED} us_each={:.1}",
        spent.as_secs_f64() * 1e6 / NOTIFIED as f64
    );
    Ok(())
}

/// What it costs to publish that `count` instances changed at once.
async fn changes(
    handle: &mut PumpHandle,
    source: &Source,
    directory: &Discard,
    count: usize,
    rounds: u32,
) -> Result<(), String> {
    let (mut cpu, mut wall, mut lists, mut bytes) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for _ in 0..rounds {
        // Between two sweeps, so that none is counted here.
        let swept = handle.status().counters.sweeps;
        until(handle, "a sweep", |status| status.counters.sweeps > swept).await?;
        let before = (handle.status().counters.lists_written, directory.bytes());
        let touched = source.change(count);
        let (start, spent, read) = (Instant::now(), Spent::now()?, source.read_time());
        until(handle, "a change to be published", |status| {
            status.lists_waiting == 0 && status.counters.lists_written >= before.0 + touched
        })
        .await?;
        wall += start.elapsed();
        cpu += spent.since()?.saturating_sub(source.read_time() - read);
        lists += handle.status().counters.lists_written - before.0;
        bytes += directory.bytes() - before.1;
    }
    let all = f64::from(rounds) * count as f64;
    println!(
        "RSF-PUMP change instances={count} wall_ms={} lists={} written_kib={} cpu_us_an_instance={:.0} cpu_us_a_list={:.0}",
        (wall / rounds).as_millis(),
        lists / u64::from(rounds),
        (bytes >> 10) / u64::from(rounds),
        cpu.as_secs_f64() * 1e6 / all,
        cpu.as_secs_f64() * 1e6 / lists as f64
    );
    Ok(())
}

async fn until(
    handle: &mut PumpHandle,
    what: &str,
    reached: impl Fn(&PumpStatus) -> bool,
) -> Result<(), String> {
    match timeout(LIMIT, handle.wait_for(|status| reached(status))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "{what}: not within {LIMIT:?}; the pump says {:?}",
            handle.status()
        )),
    }
}
