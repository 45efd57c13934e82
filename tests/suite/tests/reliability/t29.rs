//! T29: an instance is offered twice what it can do.

use std::time::Duration;

use rsf::{Application, Reason};
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, ProbeClient, ProbeRequest, ProbeServer, Prober, SOON, Site};
use rsf_testkit::eventually;

use crate::open_loop::{Ended, open_loop, p99_ms};

/// Handlers at once, and what each takes: 400 a second.
const POOL: usize = 8;
const HANDLING_MS: u32 = 20;
const CAPACITY: u64 = POOL as u64 * 1000 / HANDLING_MS as u64;
/// What a customer waits.
const PATIENCE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t29_embedded() {
    let mut case = Case::begin("T29");
    let (peak, overload) = overloaded(PATIENCE).await;
    let goodput = goodput(&mut case, peak, &overload);
    let refused: Vec<_> = overload.iter().filter(|call| is_refusal(call.failed)).collect();
    let refused_p99 = p99_ms(refused.iter().map(|call| **call));
    let unclear = overload
        .iter()
        .filter(|call| call.failed.is_some() && !is_refusal(call.failed))
        .count();
    case.figure("refused", refused.len());
    case.figure("refused_p99_ms", format!("{refused_p99:.1}"));
    case.figure("unclear", unclear);
    case.hold("goodput is at least 90 % of the peak", goodput >= 0.9 * peak);
    case.hold("the rest is refused quickly", refused_p99 < 100.0);
    case.hold("with a clear reason", unclear * 50 <= overload.len());
    case.end();
}

/// Callers who say that they would wait for half a minute: the queue cannot know which calls are in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t29_control_without_deadlines() {
    let mut case = Case::begin("T29-control");
    let (peak, overload) = overloaded(Duration::from_secs(30)).await;
    let goodput = goodput(&mut case, peak, &overload);
    case.hold("goodput is at least 90 % of the peak", goodput >= 0.9 * peak);
    case.end_red();
}

fn is_refusal(failed: Option<Reason>) -> bool {
    matches!(failed, Some(Reason::QueueTimeout | Reason::QueueFull))
}

/// Calls a second that were answered while the customer still waited.
fn goodput(case: &mut Case, peak: f64, overload: &[Ended]) -> f64 {
    let good = overload
        .iter()
        .filter(|call| call.failed.is_none() && call.took <= PATIENCE);
    let goodput = good.count() as f64 / OVERLOAD.as_secs_f64();
    case.figure("calls", overload.len());
    case.figure("peak_s", format!("{peak:.0}"));
    case.figure("goodput_s", format!("{goodput:.0}"));
    goodput
}

const CALM: Duration = Duration::from_secs(5);
const OVERLOAD: Duration = Duration::from_secs(60);

/// The calls a second that are answered while no more come than can be, and what becomes of twice as many.
async fn overloaded(timeout: Duration) -> (f64, Vec<Ended>) {
    let site = Site::start(Kind::Embedded).await;
    let provider = site
        .application("prober")
        .service(ProbeServer::new(Prober::default()));
    let provider = provider.start().await.expect("the provider starts");
    let scope = Scope::Application("prober".to_owned());
    let change = PatchPolicy {
        assignments: vec![format!("provider.pool={POOL}"), "provider.queue=20000".to_owned()],
        ..PatchPolicy::default()
    };
    site.console()
        .patch(&scope, &change)
        .await
        .expect("the change is accepted");
    let customers = site.consumer("customers").await;
    let client: ProbeClient = customers.client();
    customers.ready(SOON).await.expect("the provider is found");
    in_force(&provider).await;
    let call = move |_| {
        let request = ProbeRequest {
            sleep_ms: HANDLING_MS,
            ..ProbeRequest::default()
        };
        let call = client.sleep(request).timeout(timeout).into_future();
        async move { call.await.map(drop) }
    };
    let calm = open_loop(CAPACITY * 95 / 100, CALM, call.clone()).await;
    let answered = calm.iter().filter(|call| call.failed.is_none()).count();
    let overload = open_loop(CAPACITY * 2, OVERLOAD, call).await;
    customers.shutdown().await;
    provider.shutdown().await;
    site.stop().await;
    (answered as f64 / CALM.as_secs_f64(), overload)
}

async fn in_force(provider: &Application) {
    eventually(SOON, async || {
        let families = provider.metrics().gather();
        let size = families
            .iter()
            .find(|family| family.name() == "rsf_server_pool_size");
        let size = size
            .and_then(|family| family.get_metric().first())
            .map(|one| one.get_gauge().get_value());
        match size {
            Some(size) if size as usize == POOL => Ok(()),
            other => Err(format!("the pool has {other:?} places")),
        }
    })
    .await;
}
