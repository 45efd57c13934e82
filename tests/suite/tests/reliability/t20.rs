//! T20: the pump is killed at moments of chance, again and again, while instances come, leave and die.

use std::time::Duration;

use rsf_suite::{Case, Kind, SOON, SiteOptions};
use tokio::time::sleep;

use crate::ground::Ground;

/// Where exactly a write is cut off is the simulation's to try, at each of its steps; here it is chance, with real stores.
const KILLS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_cluster() {
    kill_the_pump("T20", Kind::Cluster, true).await.end();
}

/// Registry and pump are one process; killed, it has its file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_embedded() {
    kill_the_pump("T20-embedded", Kind::Embedded, true).await.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_control_without_a_pump_at_the_end() {
    kill_the_pump("T20-control", Kind::Cluster, false).await.end_red();
}

async fn kill_the_pump(id: &'static str, kind: Kind, comes_back: bool) -> Case {
    let mut case = Case::begin(id);
    let mut chance = case.chance();
    let options = SiteOptions {
        lease_ttl_ms: 8_000,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(kind, options).await;
    let watched = ground.watch().await;
    let services = ground.fleet.services();
    for kill in 0..KILLS {
        ground
            .fleet
            .join(&format!("new-{kill}"), &[kill % services, (kill + 1) % services]);
        if kill % 4 == 3 {
            ground.fleet.leave(&format!("fleet/new-{}", kill - 2));
        }
        sleep(Duration::from_millis(chance.u64(..1_500))).await;
        ground.site.restart_pump().await;
    }
    if !comes_back {
        ground.site.pump().kill9().await;
        ground.fleet.join("last", &[0]);
    }
    let right = watched.fleet.right_within(SOON).await;
    case.figure("kills", KILLS);
    case.figure("lists", watched.fleet.arrived());
    case.hold(
        format!("the lists equal the model: {:?}", watched.fleet.differences()),
        right.is_some(),
    );
    watched.judge(&mut case, 3).await;
    if comes_back {
        ground.end().await;
    }
    case
}
