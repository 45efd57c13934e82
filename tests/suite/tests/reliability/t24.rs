//! T24: a provider stands still (SIGSTOP): its sockets stay open, its lease lives for a while, and nobody answers.

use std::time::Duration;

use rsf::Application;
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, SOON, Site};
use shop::v1::{StockLevelRequest, StockServiceClient};
use tokio::task::JoinSet;
use tokio::time::Instant;

const STOCK: &str = "shop.v1.StockService";
const RATE: u32 = 300;
/// How long calls go on after the provider stands still.
const AFTER: Duration = Duration::from_secs(10);
/// When latency must be what it was.
const BACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_embedded() {
    let mut case = Case::begin("T24");
    stand_still(&mut case, &[]).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_control_without_breaker_and_scores() {
    let mut case = Case::begin("T24-control");
    let policy = ["call.node_breaker.enabled=false", "call.balance=random"];
    stand_still(&mut case, &policy).await;
    case.end_red();
}

async fn stand_still(case: &mut Case, policy: &[&str]) {
    let site = Site::start(Kind::Embedded).await;
    let _one = site.provider("1", &[]).await;
    let _two = site.provider("2", &[]).await;
    let still = site.provider("3", &[]).await;
    let customers = site.consumer("customers").await;
    let stock = customers.client::<StockServiceClient>();
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    govern(&site, policy).await;
    let before = calls(&stock, Duration::from_secs(3)).await;
    still.process().pause().await;
    let stopped = Instant::now();
    let (calls, ejected) = tokio::join!(calls(&stock, AFTER), ejection(&customers, "shop/3", stopped));
    let ejected = ejected.map_or(AFTER, |at| at.duration_since(stopped));
    // Those that ended later were still waiting on the instance when it went.
    let timeouts = calls
        .iter()
        .filter(|call| !call.succeeded && call.ended_at <= ejected)
        .count();
    let late: Vec<_> = calls.iter().filter(|call| call.begun_at >= BACK).collect();
    let (p99_before, p99_late) = (p99(before.iter()), p99(late.iter().copied()));
    case.figure("calls", calls.len());
    case.figure("failed", calls.iter().filter(|call| !call.succeeded).count());
    case.figure("ejected_ms", ejected.as_millis());
    case.figure("timeouts", timeouts);
    case.figure("p99_before_ms", format!("{:.1}", p99_before.as_secs_f64() * 1e3));
    case.figure("p99_late_ms", format!("{:.1}", p99_late.as_secs_f64() * 1e3));
    // Where the balancer leaves it alone before, the breaker has no third timeout to count.
    case.hold(
        format!("out of use within 2 s or 3 timeouts, not after {ejected:?} and {timeouts}"),
        ejected <= Duration::from_secs(2) || timeouts <= 3,
    );
    case.hold(
        format!("p99 is back within 5 s: {p99_late:?} after {p99_before:?}"),
        p99_late <= p99_before.max(Duration::from_millis(20)) * 2,
    );
    // Its trial, if it is still listed when the first ejection ends, and what a loaded machine makes too late.
    let failed = late.iter().filter(|call| !call.succeeded).count();
    case.hold(
        format!("{failed} of {} calls fail after 5 s", late.len()),
        failed <= 3,
    );
    still.process().resume();
    customers.shutdown().await;
    site.stop().await;
}

/// Publishes fields of the stock service's policy.
async fn govern(site: &Site, assignments: &[&str]) {
    if assignments.is_empty() {
        return;
    }
    let change = PatchPolicy {
        assignments: assignments.iter().map(|one| (*one).to_owned()).collect(),
        ..PatchPolicy::default()
    };
    let scope = Scope::Service(STOCK.to_owned());
    let changed = site.console().patch(&scope, &change).await;
    changed.expect("the change is accepted");
}

/// One call, timed from the first one's beginning.
struct Timed {
    begun_at: Duration,
    ended_at: Duration,
    succeeded: bool,
}

/// Calls at a steady rate, each begun in its time whatever became of those before it.
async fn calls(stock: &StockServiceClient, length: Duration) -> Vec<Timed> {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut under_way = JoinSet::new();
    while begun.elapsed() < length {
        tick.tick().await;
        let request = StockLevelRequest {
            sku: "tea".to_owned(),
        };
        let call = stock.level(request);
        under_way.spawn(async move {
            let begun_at = begun.elapsed();
            let succeeded = call.await.is_ok();
            Timed {
                begun_at,
                ended_at: begun.elapsed(),
                succeeded,
            }
        });
    }
    under_way.join_all().await
}

/// When `instance` was ejected, by what the consumer knows of its breaker.
async fn ejection(consumer: &Application, instance: &str, since: Instant) -> Option<Instant> {
    while since.elapsed() < AFTER {
        let views = consumer.consumer().views();
        let stock = views.iter().find(|view| view.service == STOCK);
        let mut instances = stock.into_iter().flat_map(|view| &view.instances);
        if instances.any(|i| i.instance == instance && i.breaker != "closed") {
            return Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

fn p99<'a>(calls: impl Iterator<Item = &'a Timed>) -> Duration {
    let mut times: Vec<_> = calls.map(|call| call.ended_at - call.begun_at).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}
