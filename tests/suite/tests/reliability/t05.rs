//! T05: Redis is killed and comes back empty.

use rsf_suite::{Case, Fleet, Kind, Site};
use tokio::time::sleep;

use crate::source_fault::{WITHOUT_PROTECTION, lose_leases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t05_cluster() {
    lose_leases("T05", Kind::Cluster, "", restart_empty).await.end();
}

/// The embedded registry keeps its leases; killed, it has lost what came in since, and nobody renews meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t05_embedded() {
    lose_leases(
        "T05-embedded",
        Kind::Embedded,
        "",
        async |site: &mut Site, fleet: &Fleet, _: &mut Case| {
            fleet.cut_off(true);
            site.kill_control_plane().await;
            sleep(site.lease_ttl() * 3 / 2).await;
            site.restart_control_plane().await;
        },
    )
    .await
    .end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t05_control_without_protection() {
    lose_leases("T05-control", Kind::Cluster, WITHOUT_PROTECTION, restart_empty)
        .await
        .end_red();
}

/// Down for longer than the TTL, so that every lease is overdue when it is back and knows none.
async fn restart_empty(site: &mut Site, fleet: &Fleet, _case: &mut Case) {
    let ttl = site.lease_ttl();
    fleet.cut_off(true);
    site.redis().kill9().await;
    sleep(ttl * 3 / 2).await;
    site.redis().restart_empty().await;
}
