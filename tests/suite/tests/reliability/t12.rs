//! T12: one instance dies in a Redis that holds 0, 10 000 and 100 000 other keys with a TTL.

use std::time::Duration;

use rsf_suite::{Case, Fleet, FleetLists, Kind, Site};
use rsf_testkit::RedisServer;
use tokio::time::{Instant, sleep};

use crate::ground::seconds;
use crate::plain_subscriber::PlainSubscriber;

const OTHER_KEYS: [usize; 3] = [0, 10_000, 100_000];
const SLACK: Duration = Duration::from_secs(2);
/// Rule R's window and a little more: what a service lost in one row does not count in the next.
const WINDOW: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t12_cluster() {
    let mut case = Case::begin("T12");
    let mut site = Site::start(Kind::Cluster).await;
    let fleet = Fleet::start(&site, 50, 20).await;
    let lists = FleetLists::watch(&fleet).await;
    let within = site.lease_ttl() + SLACK;
    for (row, keys) in OTHER_KEYS.into_iter().enumerate() {
        if row > 0 {
            sleep(WINDOW).await;
        }
        fill(site.redis(), keys).await;
        fleet.kill(&format!("fleet/{row}"));
        let died = Instant::now();
        let right = lists.right_within(within * 4).await;
        case.figure(&format!("removed_s_{keys}"), seconds(died.elapsed()));
        case.hold(
            format!(
                "removed within {within:?} beside {keys} keys: {:?}",
                lists.differences()
            ),
            right.is_some_and(|took| took <= within),
        );
    }
    lists.judge(&mut case);
    site.stop().await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t12_embedded() {
    let mut case = Case::begin("T12-embedded");
    let site = Site::start(Kind::Embedded).await;
    let fleet = Fleet::start(&site, 50, 20).await;
    let lists = FleetLists::watch(&fleet).await;
    let within = site.lease_ttl() + SLACK;
    fleet.kill("fleet/7");
    let right = lists.right_within(within * 4).await;
    case.figure("removed_s", right.map_or_else(|| "never".to_owned(), seconds));
    case.hold(
        format!("removed within {within:?}: {:?}", lists.differences()),
        right.is_some_and(|took| took <= within),
    );
    lists.judge(&mut case);
    site.stop().await;
    case.end();
}

/// Redis tells of a key's end when it deletes it, which is late where many keys have a TTL: who waits for that is late
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t12_control_a_plain_subscriber() {
    let mut case = Case::begin("T12-control");
    let redis = RedisServer::start().await;
    fill(&redis, OTHER_KEYS[2]).await;
    let subscriber = PlainSubscriber::start(&redis).await;
    let ttl = Duration::from_secs(4);
    for node in 0..20 {
        redis
            .tell(&format!("SET node-{node} x PX {}", ttl.as_millis()))
            .await;
    }
    sleep(ttl + SLACK).await;
    let expired = |node: &usize| subscriber.heard_of(&format!("node-{node}\r\n$7\r\nexpired"));
    let told = (0..20).filter(expired).count();
    case.figure("told", told);
    case.hold(format!("{told} of 20 ends are told"), told == 20);
    case.end_red();
}

/// Keys of others, none of which runs out soon.
async fn fill(redis: &RedisServer, keys: usize) {
    let script = format!("for i = 1, {keys} do redis.call('SET', 'other:' .. i, 'x', 'PX', 600000 + i) end");
    redis.tell(&format!("EVAL \"{script}\" 0")).await;
}
