//! T27: a connection that is half open — packets vanish and nobody says so — and one that loses 5 % of them.
//!
//! Packets to and from one provider's port are dropped by nftables rules of the case's own, which touch no other port.

use std::time::Duration;

use rsf::Reason;
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, MEMBERS, SOON, Site, members};
use shop::v1::{GetMemberRequest, MemberServiceClient};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::packets::Lost;

/// A call's deadline, and how much later its caller may hear of it on a busy machine.
const DEADLINE: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_millis(250);
/// How long a half-open connection may be held.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t27_embedded() {
    lose_packets("T27", None, Case::end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t27_control_without_keepalive() {
    lose_packets(
        "T27-control",
        Some("call.connections.keepalive_ms=0"),
        Case::end_red,
    )
    .await;
}

async fn lose_packets(id: &'static str, policy: Option<&str>, end: fn(Case)) {
    let mut case = Case::begin(id);
    if let Err(why) = Lost::probe() {
        return case.skip(&why);
    }
    let site = Site::start(Kind::Embedded).await;
    let (_one, two) = tokio::join!(site.provider("1", &[]), site.provider("2", &[]));
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2"], SOON).await;
    if let Some(assignment) = policy {
        let change = PatchPolicy {
            assignments: vec![assignment.to_owned()],
            ..PatchPolicy::default()
        };
        let changed = site
            .console()
            .patch(&Scope::Service(MEMBERS.to_owned()), &change)
            .await;
        changed.expect("the change is accepted");
    }
    let client = customers.client::<MemberServiceClient>();
    let calm = calls(&client, Duration::from_secs(3)).await;
    let connected = || {
        let view = members(&customers).view();
        view.instances
            .iter()
            .any(|i| i.instance == "shop/2" && i.connected)
    };
    case.hold("both are connected", connected());
    let port = two.address().rsplit(':').next().expect("a port").to_owned();

    let dropped = lose(&port, "");
    let begun = Instant::now();
    let found = async {
        while connected() && begun.elapsed() < FOUND_WITHIN + Duration::from_secs(2) {
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    };
    let (found, half_open) = tokio::join!(found, calls(&client, FOUND_WITHIN));
    drop(dropped);
    sleep(Duration::from_secs(3)).await;
    let lossy = lose(&port, "numgen random mod 100 < 5");
    let under_loss = calls(&client, Duration::from_secs(8)).await;
    drop(lossy);

    case.figure("found_ms", found.as_millis());
    for (name, calls) in [("calm", &calm), ("half_open", &half_open), ("lossy", &under_loss)] {
        case.figure(&format!("{name}_calls"), calls.count);
        case.figure(&format!("{name}_failed"), calls.failed);
        case.figure(&format!("{name}_longest_ms"), calls.longest.as_millis());
        case.hold(
            format!("{name}: no call outlives its deadline: {:?}", calls.longest),
            calls.longest <= DEADLINE + SLACK,
        );
        case.hold(
            format!("{name}: what fails fails for its deadline: {:?}", calls.otherwise),
            calls.otherwise.is_empty(),
        );
    }
    case.hold(
        format!("the keepalive closes the half-open connection within 10 s, not after {found:?}"),
        found <= FOUND_WITHIN,
    );
    customers.shutdown().await;
    site.stop().await;
    end(case);
}

#[derive(Default)]
struct Calls {
    count: u32,
    failed: u32,
    longest: Duration,
    /// Errors that are no expired deadline.
    otherwise: Vec<String>,
}

/// Idempotent calls at 200 a second, each with the deadline, each begun in its time.
async fn calls(client: &MemberServiceClient, length: Duration) -> Calls {
    let begun = Instant::now();
    let mut tick = interval(Duration::from_millis(5));
    let mut running = JoinSet::new();
    while begun.elapsed() < length {
        tick.tick().await;
        let call = client.get(GetMemberRequest { id: 1 }).timeout(DEADLINE);
        running.spawn(async move {
            let begun = Instant::now();
            let error = call.await.err();
            (begun.elapsed(), error)
        });
    }
    let mut calls = Calls::default();
    while let Some(ended) = running.join_next().await {
        let (took, error) = ended.expect("a call does not panic");
        calls.count += 1;
        calls.longest = calls.longest.max(took);
        if let Some(error) = error {
            calls.failed += 1;
            if error.reason() != Reason::Deadline {
                calls.otherwise.push(error.to_string());
            }
        }
    }
    calls
}

/// Drops what goes to the port and what comes from it, where `condition` holds.
fn lose(port: &str, condition: &str) -> Lost {
    let both = ["dport", "sport"].map(|end| format!("tcp {end} {port} {condition}"));
    Lost::outgoing(&format!("t27_{port}"), &both).expect("rules are accepted as the probe's were")
}
