//! One run: a site comes up, lives through its faults, and has to come to rest.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::world::{Guard, Simulation};
use tokio::time::sleep;

use crate::chance::Chance;
use crate::faults::Faults;
use crate::judge::{Judge, TTL};
use crate::redis::Redis;
use crate::site::Site;
use crate::trace::Trace;
use crate::zookeeper::ZooKeeper;

/// When a run begins, Unix seconds: late 2026.
const BEGIN: Duration = Duration::from_secs(1_795_000_000);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the truth has to stand before a site is at rest.
const REST: Duration = Duration::from_secs(3);

/// A protection that a negative control takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Missing {
    /// One of the control path's own.
    Guard(Guard),
    /// The directory refuses writes of a term that is over.
    Fence,
    /// A new epoch is greater than all that the clock and the pump's state file know.
    Epochs,
}

impl Missing {
    /// All that can be taken away.
    pub const ALL: [Missing; 11] = [
        Missing::Guard(Guard::EmptyList),
        Missing::Guard(Guard::OlderList),
        Missing::Guard(Guard::Checksum),
        Missing::Guard(Guard::Sweep),
        Missing::Guard(Guard::Distrust),
        Missing::Guard(Guard::ShrinkLimit),
        Missing::Guard(Guard::Order),
        Missing::Guard(Guard::LastView),
        Missing::Guard(Guard::Blind),
        Missing::Fence,
        Missing::Epochs,
    ];
}

/// How a run is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Which protection is missing; none is, usually.
    pub without: Option<Missing>,
    /// Whether every event is printed.
    pub trace: bool,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which schedule it was.
    pub seed: u64,
    /// How many events there were.
    pub steps: u64,
    /// Stands for all of them: the same seed has the same.
    pub hash: u64,
    /// How long it took the site.
    pub simulated: Duration,
    /// Which invariant was broken first, if any.
    pub violation: Option<String>,
}

/// One line, and for what broke how to run it again.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            seed,
            steps,
            hash,
            simulated,
            violation,
        } = self;
        let simulated = simulated.as_secs();
        write!(
            f,
            "RSF-SIM seed={seed} steps={steps} simulated_s={simulated} hash={hash:016x} "
        )?;
        match violation {
            Some(why) => write!(f, "FAIL: {why}; replay with SEED={seed} make sim-control"),
            None => write!(f, "PASS"),
        }
    }
}

/// Runs one seed from start to rest, or to the first invariant that it breaks.
///
/// # Errors
/// Where the machine gives no runtime or no temporary folder.
pub fn run(seed: u64, options: Options) -> std::io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    // Snapshots are flushed to disk; memory does that fastest.
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    };
    // What the code under test draws by itself comes from the same seed.
    fastrand::seed(seed ^ 0x5253_465f_5349_4d00);
    let (outcome, site) = runtime.block_on(async {
        let without = match options.without {
            Some(Missing::Guard(guard)) => Some(guard),
            _ => None,
        };
        let simulation = Simulation::enter(BEGIN, without);
        // In every other run; nothing else hangs on it.
        let simulation = match seed % 2 {
            0 => simulation.with_small_shards(),
            _ => simulation,
        };
        let site = build(seed, options, folder);
        let violation = live(&site).await;
        let (steps, hash) = site.trace.sum();
        drop(simulation);
        let outcome = Outcome {
            seed,
            steps,
            hash,
            simulated: site.trace.elapsed(),
            violation,
        };
        (outcome, site)
    });
    // The tasks end before what they use.
    drop(runtime);
    drop(site);
    Ok(outcome)
}

/// The first of these seeds that breaks without a protection.
///
/// # Errors
/// As [`run`].
pub fn missed_by(missing: Missing, seeds: Range<u64>) -> std::io::Result<Option<Outcome>> {
    let options = Options {
        without: Some(missing),
        ..Options::default()
    };
    for seed in seeds {
        let outcome = run(seed, options)?;
        if outcome.violation.is_some() {
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

fn build(seed: u64, options: Options, folder: tempfile::TempDir) -> Arc<Site> {
    let chance = Arc::new(Chance::new(seed));
    let trace = Arc::new(Trace::new(options.trace));
    let hold_ms = chance.number(30, 60) * 1_000;
    let judge = Judge::new(trace.clone(), Duration::from_millis(hold_ms));
    let zookeeper = ZooKeeper::start(
        chance.clone(),
        judge.clone(),
        options.without != Some(Missing::Fence),
        options.without != Some(Missing::Epochs),
    );
    let services = (0..chance.number(1, 4)).map(|number| format!("s{number}"));
    Arc::new(Site {
        redis: Redis::start("redis", chance.clone()),
        zookeeper,
        services: services.collect(),
        instances: Mutex::default(),
        consumers: Mutex::default(),
        pumps: Mutex::default(),
        born: Mutex::default(),
        hold_ms,
        coalesce_ms: if chance.happens(50) { 1_000 } else { 200 },
        folder,
        judge,
        trace,
        chance,
    })
}

/// Answers which invariant was broken.
async fn live(site: &Arc<Site>) -> Option<String> {
    let faults = Faults::draw(site.clone());
    come_up(site).await;
    let end = site.trace.elapsed() + site.chance.seconds(60, 200);
    let busy = site.chance.number(1, 12) * 1_000;
    let mut next = site.trace.elapsed();
    while site.trace.elapsed() < end {
        if next <= site.trace.elapsed() {
            faults.happen();
            if site.chance.happens(10) {
                site.redis.dump();
            }
            next = site.trace.elapsed() + site.chance.millis(0, 2 * busy);
        }
        look(site).await;
        if let Some(violation) = site.judge.violation() {
            return Some(violation);
        }
    }
    while faults.last() {
        look(site).await;
    }
    for service in faults.emptied() {
        site.start_new(vec![service], None);
    }
    site.judge.violation().or(come_to_rest(site).await)
}

/// Starts one process.
type Start = Box<dyn FnOnce(&Site)>;

/// Everything starts, in any order.
async fn come_up(site: &Arc<Site>) {
    let chance = &site.chance;
    let mut starts: Vec<Start> = Vec::new();
    for pump in 0..chance.number(1, 2) {
        starts.push(Box::new(move |site| site.start_pump(&format!("pump-{pump}"))));
    }
    for _ in 0..chance.number(1, 3) {
        let name = format!("c{}", site.next());
        starts.push(Box::new(move |site| site.start_consumer(&name)));
    }
    for service in &site.services {
        for _ in 0..chance.number(1, 12) {
            let mut services = vec![service.clone()];
            services.extend(
                chance
                    .pick(&site.services)
                    .filter(|other| *other != service)
                    .cloned(),
            );
            starts.push(Box::new(move |site| site.start_new(services, None)));
        }
    }
    let mut order: BTreeMap<(u64, usize), Start> = BTreeMap::new();
    for (number, start) in starts.into_iter().enumerate() {
        order.insert((chance.number(0, 1_000_000), number), start);
    }
    for start in order.into_values() {
        start(site);
        sleep(chance.millis(0, 200)).await;
    }
}

async fn look(site: &Site) {
    sleep(LOOK).await;
    site.judge.look();
    site.look_after_pumps();
}

/// Nothing is wrong any more: in bounded time everybody has to see the truth, and go on seeing it.
async fn come_to_rest(site: &Site) -> Option<String> {
    // Distrust, then a hold, then a list that loses one instance a window; lost watches and tombstones besides.
    let dead = u32::try_from(site.judge.dead()).unwrap_or(u32::MAX);
    let hold = Duration::from_millis(site.hold_ms);
    let bound = 4 * TTL + 2 * hold + Duration::from_secs(60) + dead * Duration::from_secs(11);
    let (begin, mut resting) = (site.trace.elapsed(), None);
    loop {
        look(site).await;
        if let Some(violation) = site.judge.violation() {
            return Some(violation);
        }
        let now = site.trace.elapsed();
        match site.judge.unrest() {
            None => {
                if now.saturating_sub(*resting.get_or_insert(now)) >= REST {
                    return None;
                }
            }
            Some(unrest) if now.saturating_sub(begin) > bound => {
                let unrest = format!("no rest within {bound:?}: {unrest}");
                site.judge.broken(unrest);
            }
            Some(_) => resting = None,
        }
    }
}
