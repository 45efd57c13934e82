//! T06: somebody empties Redis (FLUSHALL) while it serves, once, and then again and again for longer than the TTL.

use std::time::Duration;

use rsf_suite::{Case, Fleet, Kind, SOON, Site};
use rsf_testkit::eventually;
use tokio::time::{Instant, sleep};

use crate::ground::seconds;
use crate::source_fault::{WITHOUT_PROTECTION, lose_leases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t06_cluster() {
    lose_leases("T06", Kind::Cluster, "", flush).await.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t06_control_without_protection() {
    lose_leases("T06-control", Kind::Cluster, WITHOUT_PROTECTION, flush)
        .await
        .end_red();
}

async fn flush(site: &mut Site, fleet: &Fleet, case: &mut Case) {
    let before = discontinuities(site).await.expect("the pump's status");
    site.redis().tell("FLUSHALL").await;
    let flushed = Instant::now();
    eventually(SOON, async || match discontinuities(site).await {
        Ok(now) if now > before => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let noticed = flushed.elapsed();
    case.figure("noticed_s", seconds(noticed));
    fleet.cut_off(true);
    // Again and again, so that hardly any lease is there when it falls due.
    let end = Instant::now() + site.lease_ttl() * 3 / 2;
    while Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
        site.redis().tell("FLUSHALL").await;
    }
    // Its status may be half a second old.
    let within = Duration::from_millis(2_500);
    case.hold(
        format!("noticed within {within:?}: {noticed:?}"),
        noticed <= within,
    );
}

async fn discontinuities(site: &Site) -> Result<u64, String> {
    let status = site.pump_status().await?;
    status["counters"]["discontinuities"]
        .as_u64()
        .ok_or_else(|| status.to_string())
}
