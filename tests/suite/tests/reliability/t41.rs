//! T41: one call in a thousand blocks its thread for five seconds.

use std::io::Write;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rsf::{Application, Request, Response, Settings, Status};
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Probe, ProbeClient, ProbeReply, ProbeRequest, ProbeServer, Prober, SOON, Site};

use crate::open_loop::{Ended, open_loop, p99_ms};

const RATE: u64 = 300;
const CALM: Duration = Duration::from_secs(6);
const BLOCKED: Duration = Duration::from_secs(20);
const BLOCKS_FOR: Duration = Duration::from_secs(5);
/// Latencies below this are the machine's own noise.
const NOISE_MS: f64 = 5.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t41_embedded() {
    let mut case = Case::begin("T41");
    let seen = blocked_now_and_then(&mut case, None).await;
    case.hold(
        "the others' p99 is at most 2 ×",
        seen.after <= 2.0 * seen.before.max(NOISE_MS),
    );
    case.hold("no other call fails", seen.failed == 0);
    case.hold("the metric names the method", seen.noticed == 1);
    case.hold(
        "the log names the method",
        seen.log.contains("/suite.v1.Probe/Sleep"),
    );
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t41_control_without_the_watchdog() {
    let mut case = Case::begin("T41-control");
    let seen = blocked_now_and_then(&mut case, Some("provider.watchdog_ms=0")).await;
    case.hold(
        "the others' p99 is at most 2 ×",
        seen.after <= 2.0 * seen.before.max(NOISE_MS),
    );
    case.end_red();
}

/// Sleeps on its thread.
struct Blocker(Prober);

impl Probe for Blocker {
    async fn sleep(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        let (_open, gate) = mpsc::channel::<()>();
        assert_eq!(gate.recv_timeout(BLOCKS_FOR), Err(RecvTimeoutError::Timeout));
        Ok(Response::new(ProbeReply::default()))
    }

    async fn echo(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        self.0.echo(request).await
    }

    async fn fail(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        self.0.fail(request).await
    }

    async fn panic(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        self.0.panic(request).await
    }

    async fn big(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        self.0.big(request).await
    }
}

struct Seen {
    /// The 99th percentile in milliseconds of the calls that do not block.
    before: f64,
    after: f64,
    failed: usize,
    noticed: u64,
    log: String,
}

async fn blocked_now_and_then(case: &mut Case, policy: Option<&str>) -> Seen {
    let log = Log::begin();
    let site = Site::start(Kind::Embedded).await;
    if let Some(assignment) = policy {
        let change = PatchPolicy {
            assignments: vec![assignment.to_owned()],
            ..PatchPolicy::default()
        };
        site.console()
            .patch(&Scope::Fleet, &change)
            .await
            .expect("the change is accepted");
    }
    let settings = Settings {
        io_threads: Some(2),
        ..site.settings("prober")
    };
    let provider = Application::builder("prober")
        .settings(settings)
        .service(ProbeServer::new(Blocker(Prober::default())));
    let provider = provider.start().await.expect("the provider starts");
    let customers = site.consumer("customers").await;
    let client: ProbeClient = customers.client();
    customers.ready(SOON).await.expect("the provider is found");
    let asked = client.clone();
    let calm = open_loop(RATE, CALM, move |_| quick(&asked)).await;
    let mixed = open_loop(RATE, BLOCKED, move |place| {
        let slow = client.sleep(ProbeRequest::default()).timeout(BLOCKS_FOR * 2);
        let (quick, slow) = (quick(&client), slow.into_future());
        async move {
            match blocks(place) {
                true => slow.await.map(drop),
                false => quick.await,
            }
        }
    })
    .await;
    let others = || mixed.iter().filter(|call| !blocks(call.place));
    let seen = Seen {
        before: p99_ms(calm.iter().copied()),
        after: p99_ms(others().copied()),
        failed: others().filter(|call| failed(call)).count(),
        noticed: noticed(&provider),
        log: log.text(),
    };
    case.figure("calls", mixed.len());
    case.figure("failed", seen.failed);
    case.figure("calm_p99_ms", format!("{:.1}", seen.before));
    case.figure("p99_ms", format!("{:.1}", seen.after));
    case.figure("noticed", seen.noticed);
    customers.shutdown().await;
    provider.shutdown().await;
    site.stop().await;
    seen
}

fn blocks(place: u64) -> bool {
    place % 1000 == 500
}

fn failed(call: &Ended) -> bool {
    call.failed.is_some()
}

fn quick(client: &ProbeClient) -> impl Future<Output = Result<(), rsf::RpcError>> + Send + use<> {
    let call = client
        .echo(ProbeRequest::default())
        .timeout(BLOCKS_FOR * 2)
        .into_future();
    async move { call.await.map(drop) }
}

fn noticed(provider: &Application) -> u64 {
    let families = provider.metrics().gather();
    let family = families
        .iter()
        .find(|family| family.name() == "rsf_handler_blocked_total");
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let of_method = metrics.iter().filter(|metric| {
        let mut labels = metric.get_label().iter();
        labels.any(|label| label.value() == "suite.v1.Probe/Sleep")
    });
    of_method
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum()
}

/// What this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> Log {
        let log = Log::default();
        let written = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_writer(move || written.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
