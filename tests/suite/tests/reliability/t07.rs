//! T07: Redis is restarted from a copy on disk that is older than the TTL: every lease in it has run out.

use rsf_suite::{Case, Fleet, Kind, Site};
use tokio::time::sleep;

use crate::source_fault::{WITHOUT_PROTECTION, lose_leases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t07_cluster() {
    lose_leases("T07", Kind::Cluster, "", restart_with_an_old_copy)
        .await
        .end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t07_control_without_protection() {
    lose_leases(
        "T07-control",
        Kind::Cluster,
        WITHOUT_PROTECTION,
        restart_with_an_old_copy,
    )
    .await
    .end_red();
}

async fn restart_with_an_old_copy(site: &mut Site, fleet: &Fleet, _case: &mut Case) {
    let ttl = site.lease_ttl();
    site.redis().save().await;
    fleet.cut_off(true);
    site.redis().kill9().await;
    sleep(ttl * 3 / 2).await;
    site.redis().restart().await;
}
