//! T04: the lease store stands still for longer than the TTL, and goes on: every lease has run out then.

use rsf_suite::{Case, Fleet, Kind, Site};
use tokio::time::sleep;

use crate::source_fault::{WITHOUT_PROTECTION, lose_leases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_cluster() {
    lose_leases("T04", Kind::Cluster, "", stand_still).await.end();
}

/// The one process of the embedded registry stands still, the pump with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_embedded() {
    lose_leases(
        "T04-embedded",
        Kind::Embedded,
        "",
        async |site: &mut Site, fleet: &Fleet, _: &mut Case| {
            fleet.cut_off(true);
            site.pump().pause().await;
            sleep(site.lease_ttl() * 3 / 2).await;
            site.pump().resume();
        },
    )
    .await
    .end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t04_control_without_protection() {
    lose_leases("T04-control", Kind::Cluster, WITHOUT_PROTECTION, stand_still)
        .await
        .end_red();
}

async fn stand_still(site: &mut Site, fleet: &Fleet, _case: &mut Case) {
    fleet.cut_off(true);
    site.redis().pause().await;
    sleep(site.lease_ttl() * 3 / 2).await;
    site.redis().resume();
}
