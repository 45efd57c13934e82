//! T26: one provider of ten takes half a second longer than the others.

use std::time::Duration;

use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, Load, LoadReport, SOON, Site};

const RATE: u32 = 500;
/// What every handler takes, so that the machine's own noise is small beside it.
const USUAL_MS: &str = "50";
const SLOW_MS: &str = "550";
/// After that long the slow one must be known.
const SETTLED: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t26_embedded() {
    let mut case = Case::begin("T26");
    one_of_ten_is_slow(&mut case, None).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t26_control_at_random() {
    let mut case = Case::begin("T26-control");
    one_of_ten_is_slow(&mut case, Some("call.balance=random")).await;
    case.end_red();
}

async fn one_of_ten_is_slow(case: &mut Case, policy: Option<&str>) {
    let site = Site::start(Kind::Embedded).await;
    let names: Vec<_> = (1..=10).map(|number| number.to_string()).collect();
    let mut providers = Vec::new();
    for name in &names {
        providers.push(site.provider(name, &[("SHOP_LATENCY_MS", USUAL_MS)]).await);
    }
    let ids: Vec<_> = providers.iter().map(|provider| provider.instance()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &ids, SOON).await;
    // It is to be an old instance that has become slow; started anew, it would have a new one's small share.
    let assignments = std::iter::once("call.warm_up.duration_ms=0").chain(policy);
    let change = PatchPolicy {
        assignments: assignments.map(str::to_owned).collect(),
        ..PatchPolicy::default()
    };
    let patched = site.console().patch(&Scope::Fleet, &change).await;
    patched.expect("the change is accepted");
    // Its own option says 500 ms, less than the slow one takes.
    let patient = PatchPolicy {
        assignments: vec!["call.timeout_ms=3000".to_owned()],
        ..PatchPolicy::default()
    };
    let stock = Scope::Service("shop.v1.StockService".to_owned());
    let patched = site.console().patch(&stock, &patient).await;
    patched.expect("the change is accepted");
    let well = load(&customers, Duration::from_secs(5)).await;

    let last = providers.pop().expect("there are ten");
    last.stop().await;
    Lists::become_these(&customers, &ids[..9], SOON).await;
    let slow = site.provider("10", &[("SHOP_LATENCY_MS", SLOW_MS)]).await;
    Lists::become_these(&customers, &ids, SOON).await;
    load(&customers, SETTLED).await;
    let before = slow.answered().await;
    let report = load(&customers, MEASURED).await;
    let went_there = slow.answered().await - before;

    case.load(&report);
    let share = went_there as f64 / (report.total.succeeded + report.total.failed) as f64;
    let (p99, p99_well) = (report.total.percentile_us(99), well.total.percentile_us(99));
    case.figure("share_percent", format!("{:.2}", share * 100.0));
    case.figure("p99_well_ms", format!("{:.1}", f64::from(p99_well) / 1000.0));
    case.hold(
        format!("no call fails: {:?}", report.failures),
        report.total.failed == 0,
    );
    case.hold("at most 0.5 % of the calls go to the slow one", share <= 0.005);
    case.hold(
        "the fleet's p99 is at most 1.5 × what it was",
        f64::from(p99) <= 1.5 * f64::from(p99_well),
    );
    customers.shutdown().await;
    site.stop().await;
}

async fn load(customers: &rsf::Application, time: Duration) -> LoadReport {
    let load = Load::start(customers, RATE).await;
    tokio::time::sleep(time).await;
    load.stop().await
}
