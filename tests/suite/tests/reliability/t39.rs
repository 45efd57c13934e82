//! T39: a zone is lost, zones are cut off from each other, a shard moves from one zone to another, all under load.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use rsf::{Application, Request, Response, Settings, Status};
use rsf_console::model::{AcknowledgedState, PutPolicy};
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, Load, LoadReport, MEMBERS, Provider, SOON, Site};
use rsf_testkit::eventually;
use serde_json::{Value, json};
use shop::load::{Customers, Mix, Summary};
use shop::v1::{
    GetMemberRequest, Member, MemberService, MemberServiceClient, MemberServiceServer, RegisterMemberRequest,
};
use tokio::time::Instant;

use crate::packets::Lost;

const RATE: u32 = 500;
/// Members below it are the shard that moves.
const MOVES_BELOW: u64 = 501;
const MEMBER_IDS: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_a_zone_is_lost() {
    let mut case = Case::begin("T39-zone");
    let (before, loss, after) = lose_the_zone(&mut case, 70).await;
    case.hold("calls stay in their zone while it is well", before == 0);
    case.hold(
        format!("no call fails after the spill: {:?}", after.last_error),
        after.failed == 0,
    );
    case.hold(
        format!(
            "what fails fails within a second of the loss: {:?}",
            loss.failures
        ),
        loss.failures.len() <= 1,
    );
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_control_without_spilling() {
    let mut case = Case::begin("T39-zone-control");
    let (_, _, after) = lose_the_zone(&mut case, 0).await;
    case.hold("no call fails after the spill", after.failed == 0);
    case.end_red();
}

/// Two instances in each of two zones, customers in the east, and the east dies. Returns the calls that the west has
/// answered before, and what became of the calls while and after.
async fn lose_the_zone(case: &mut Case, spill_below_percent: u32) -> (u64, LoadReport, Summary) {
    let site = Site::start(Kind::Embedded).await;
    let mut providers = Vec::new();
    for (name, zone) in [("e1", "east"), ("e2", "east"), ("w1", "west"), ("w2", "west")] {
        providers.push(site.provider(name, &[("RSF_ZONE", zone)]).await);
    }
    let customers = in_zone(&site, "customers", "east")
        .start()
        .await
        .expect("a consumer starts");
    let all = ["shop/e1", "shop/e2", "shop/w1", "shop/w2"];
    Lists::become_these(&customers, &all, SOON).await;
    let rules = json!([{"same_zone": {"spill_below_percent": spill_below_percent}}]);
    for service in [MEMBERS, "shop.v1.StockService"] {
        publish(&site, service, &rules).await;
        everybody_runs_it(&site, service, 5).await;
    }
    instance_runs_it(&site, MEMBERS, "customers/customers").await;
    let answered = async || providers[2].answered().await + providers[3].answered().await;
    let west = answered().await;
    let load = Load::start(&customers, RATE).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = answered().await - west;
    tokio::join!(providers[0].kill9(), providers[1].kill9());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let loss = load.stop().await;
    case.figure("failed_in_the_loss", loss.total.failed);
    // The leases of the dead still live for a while: it is their health that the calls go by.
    let reads = Customers::new(customers.consumer(), Mix::OnlyReads);
    let after = reads
        .run(RATE, tokio::time::sleep(Duration::from_secs(3)), |_| {})
        .await;
    case.figure("calls_after", after.succeeded + after.failed);
    case.figure("failed_after", after.failed);
    customers.shutdown().await;
    site.stop().await;
    (before, loss, after)
}

/// What a call may take while the zones are cut off from each other: no attempt waits for the other zone.
const UNDISTURBED: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_zones_are_partitioned() {
    let same_zone = json!([{"same_zone": {"spill_below_percent": 70}}]);
    part_the_zones("T39-partition", &same_zone, Case::end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_control_without_zones() {
    part_the_zones("T39-partition-control", &json!([]), Case::end_red).await;
}

/// Two instances and one customer in each of two zones; for some seconds no packet of a customer reaches the other zone.
async fn part_the_zones(id: &'static str, rules: &Value, end: fn(Case)) {
    let mut case = Case::begin(id);
    if let Err(why) = Lost::probe() {
        return case.skip(&why);
    }
    let site = Site::start(Kind::Embedded).await;
    let mut providers = Vec::new();
    for (name, zone) in [("e1", "east"), ("e2", "east"), ("w1", "west"), ("w2", "west")] {
        providers.push(site.provider(name, &[("RSF_ZONE", zone)]).await);
    }
    for service in [MEMBERS, "shop.v1.StockService"] {
        publish(&site, service, rules).await;
        everybody_runs_it(&site, service, 4).await;
    }
    let customers = [("east", 61_001), ("west", 61_002)].map(|(zone, group)| {
        let program = site.customers(zone).env("RSF_ZONE", zone).group(group);
        let reads = ["--calls", "reads", "--rate", "250"];
        program.args(reads).start()
    });
    for customer in &customers {
        customer.line("calls/s=", SOON).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ports = |providers: &[Provider]| {
        let ports = providers
            .iter()
            .filter_map(|one| one.address().rsplit(':').next());
        ports.collect::<Vec<_>>().join(", ")
    };
    let (east, west) = (ports(&providers[..2]), ports(&providers[2..]));
    let cut = [
        format!("meta skgid 61001 tcp dport {{ {west} }}"),
        format!("meta skgid 61002 tcp dport {{ {east} }}"),
    ];
    let lost = Lost::outgoing("t39", &cut).expect("rules are accepted as the probe's were");
    tokio::time::sleep(Duration::from_secs(6)).await;
    drop(lost);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (customer, zone) in customers.iter().zip(["east", "west"]) {
        customer.terminate(SOON).await;
        let printed = customer.stdout();
        let total = printed.lines().find(|line| line.starts_with("total "));
        let total = total.unwrap_or_else(|| panic!("{customer} prints no total:\n{printed}"));
        let (calls, failed, p99) = (
            figure(total, "ok="),
            figure(total, "failed="),
            figure(total, "p99_ms="),
        );
        case.figure(&format!("{zone}_calls"), calls + failed);
        case.figure(&format!("{zone}_failed"), failed);
        case.figure(&format!("{zone}_p99_ms"), p99);
        case.hold(
            format!("the customers of the {zone} are served: {total}"),
            calls > 1_500.0,
        );
        case.hold(format!("no call of the {zone} fails: {total}"), failed == 0.0);
        case.hold(
            format!("no call of the {zone} waits for the other zone: p99 is {p99} ms"),
            p99 <= UNDISTURBED.as_secs_f64() * 1000.0,
        );
    }
    site.stop().await;
    end(case);
}

/// The number that follows `name` in a line of `shop-consumer`.
fn figure(line: &str, name: &str) -> f64 {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
    let number = found.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_a_shard_moves() {
    let mut case = Case::begin("T39-shard");
    let shards = |owner: &str| {
        json!([{"shard": {"key": "id", "ranges": [
            {"to": MOVES_BELOW, "zone": owner}, {"from": MOVES_BELOW, "zone": "west"}]}}])
    };
    move_the_shard(&mut case, &shards("east"), &shards("west")).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t39_control_without_shards() {
    let mut case = Case::begin("T39-shard-control");
    move_the_shard(&mut case, &json!([]), &json!([])).await;
    case.end_red();
}

async fn move_the_shard(case: &mut Case, before: &Value, after: &Value) {
    let site = Site::start(Kind::Embedded).await;
    let journal = Arc::new(Journal::default());
    let mut providers = Vec::new();
    for zone in ["east", "west"] {
        let keeper = Keeper {
            zone,
            journal: journal.clone(),
        };
        let provider = in_zone(&site, zone, zone).service(MemberServiceServer::new(keeper));
        providers.push(provider.start().await.expect("a provider starts"));
    }
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["east/east", "west/west"], SOON).await;
    publish(&site, MEMBERS, before).await;
    everybody_runs_it(&site, MEMBERS, 3).await;
    let calls = tokio::spawn(call_members(customers.client(), Duration::from_secs(6)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let told = Instant::now();
    publish(&site, MEMBERS, after).await;
    everybody_runs_it(&site, MEMBERS, 3).await;
    let applied = Instant::now();
    let (made, failed) = calls.await.expect("the load runs to its end");
    case.figure("calls", made);
    case.figure("failed", failed.len());
    case.figure("moved_in_ms", (applied - told).as_millis());
    let served = journal.served.lock().unwrap().clone();
    case.figure("served", served.len());
    case.hold(format!("no call fails: {:?}", failed.first()), failed.is_empty());
    case.hold("each call is served once", served.len() == made);
    let wrong = served
        .iter()
        .filter(|(at, zone, id)| match (*zone, *id < MOVES_BELOW) {
            ("east", moves) => !moves || *at > applied,
            (_, moves) => moves && *at < told,
        });
    let wrong = wrong.count();
    case.hold(
        format!("no member is served by two zones: {wrong} were"),
        wrong == 0,
    );
    let late = served.iter().filter(|(at, ..)| *at > applied).count();
    case.hold("the load lasts beyond the move", late > 100);
    customers.shutdown().await;
    for provider in providers {
        provider.shutdown().await;
    }
    site.stop().await;
}

/// Who has served which member when.
#[derive(Default)]
struct Journal {
    served: Mutex<Vec<(Instant, &'static str, u64)>>,
}

struct Keeper {
    zone: &'static str,
    journal: Arc<Journal>,
}

impl MemberService for Keeper {
    async fn get(&self, request: Request<GetMemberRequest>) -> Result<Response<Member>, Status> {
        let id = request.get_ref().id;
        let entry = (Instant::now(), self.zone, id);
        self.journal.served.lock().unwrap().push(entry);
        Ok(Response::new(Member {
            id,
            ..Member::default()
        }))
    }

    async fn register(&self, _: Request<RegisterMemberRequest>) -> Result<Response<Member>, Status> {
        Err(Status::unimplemented("nobody registers here"))
    }
}

/// Asks for one member after the other, and returns how often, and what failed.
async fn call_members(members: MemberServiceClient, time: Duration) -> (usize, Vec<String>) {
    let end = Instant::now() + time;
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let (mut made, mut failed) = (0, Vec::new());
    let mut under_way = tokio::task::JoinSet::new();
    while Instant::now() < end {
        pace.tick().await;
        let id = 1 + (made as u64 * 37) % MEMBER_IDS;
        made += 1;
        under_way.spawn(members.get(GetMemberRequest { id }).into_future());
    }
    while let Some(done) = under_way.join_next().await {
        if let Err(error) = done.expect("a call is no panic") {
            failed.push(error.to_string());
        }
    }
    (made, failed)
}

fn in_zone(site: &Site, name: &str, zone: &str) -> rsf::ApplicationBuilder {
    let settings = Settings {
        zone: Some(zone.to_owned()),
        ..site.settings(name)
    };
    Application::builder(name).settings(settings)
}

async fn publish(site: &Site, service: &str, rules: &Value) {
    let put = PutPolicy {
        document: json!({"call": {"routing": {"rules": rules}}}),
        expected_revision: None,
        author: None,
        comment: String::new(),
    };
    let scope = Scope::Service(service.to_owned());
    site.console()
        .put(&scope, &put)
        .await
        .expect("the rules are accepted");
}

/// Waits until so many instances run the latest revision.
async fn everybody_runs_it(site: &Site, service: &str, count: usize) {
    let (console, scope) = (site.console(), Scope::Service(service.to_owned()));
    eventually(SOON, async || {
        let acknowledged = console
            .acknowledgements(&scope)
            .await
            .map_err(|error| error.to_string())?;
        let current = acknowledged
            .instances
            .iter()
            .filter(|one| one.state == AcknowledgedState::Current);
        match current.count() {
            current if current >= count => Ok(()),
            current => Err(format!("{current} of {count}: {:?}", acknowledged.instances)),
        }
    })
    .await;
}

/// Waits until that instance runs the latest revision.
async fn instance_runs_it(site: &Site, service: &str, instance: &str) {
    let (console, scope) = (site.console(), Scope::Service(service.to_owned()));
    eventually(SOON, async || {
        let acknowledged = console.acknowledgements(&scope).await;
        let instances = acknowledged.map_err(|error| error.to_string())?.instances;
        let current = instances
            .iter()
            .any(|one| one.instance == instance && one.state == AcknowledgedState::Current);
        current
            .then_some(())
            .ok_or_else(|| format!("{instance}: {instances:?}"))
    })
    .await;
}
