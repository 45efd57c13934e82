//! T40: one of three Redis servers is down while instances come, leave and die, and comes back empty.

use std::time::Duration;

use rsf_suite::{Case, Kind, SiteOptions};
use tokio::time::{Instant, sleep};

use crate::ground::{Ground, seconds};

const NEWCOMERS: usize = 15;
const SLACK: Duration = Duration::from_secs(2);
/// How long instances take to find that a server does not answer, and to turn to the next.
const TURN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t40_cluster() {
    lose_a_server("T40", 3).await.end();
}

/// Of one server there is no next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t40_control_one_server() {
    lose_a_server("T40-control", 1).await.end_red();
}

/// An hour in the table; a server that is gone for three TTLs is gone for as long as one likes.
async fn lose_a_server(id: &'static str, servers: usize) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        redis: servers,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(Kind::Cluster, options).await;
    let watched = ground.watch().await;
    let ttl = ground.site.lease_ttl();
    ground.site.redis().kill9().await;

    let begun = Instant::now();
    for newcomer in 0..NEWCOMERS {
        ground
            .fleet
            .join(&format!("new-{newcomer}"), &[newcomer, newcomer + 1]);
    }
    let right = watched.fleet.right_within(ttl + TURN).await;
    case.figure("listed_s", right.map_or_else(|| "never".to_owned(), seconds));
    case.hold(
        format!("newcomers are listed: {:?}", watched.fleet.differences()),
        right.is_some(),
    );
    ground.fleet.leave("fleet/new-1");
    ground.fleet.kill("fleet/new-2");
    let within = ttl + SLACK;
    let right = watched.fleet.right_within(within * 3).await;
    case.figure("removed_s", right.map_or_else(|| "never".to_owned(), seconds));
    case.hold(
        format!("removed within {within:?}: {:?}", watched.fleet.differences()),
        right.is_some_and(|took| took <= within),
    );
    sleep((ttl * 3).saturating_sub(begun.elapsed())).await;

    ground.site.redis().restart_empty().await;
    let back = Instant::now();
    ground.fleet.kept_since(back).await;
    ground.confirmed().await;
    sleep(ttl * 2).await;
    case.hold(
        format!("lists are right afterwards: {:?}", watched.fleet.differences()),
        watched.fleet.differences().is_empty(),
    );
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}
