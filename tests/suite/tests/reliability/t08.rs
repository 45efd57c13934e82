//! T08: a replica that lacks the newest writes takes the place of its primary.

use rsf_suite::{Case, Fleet, Kind, Site};
use rsf_testkit::{RedisServer, eventually};
use tokio::time::sleep;

use crate::source_fault::{WITHOUT_PROTECTION, lose_leases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t08_cluster() {
    lose_leases("T08", Kind::Cluster, "", promote_a_late_replica)
        .await
        .end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t08_control_without_protection() {
    lose_leases(
        "T08-control",
        Kind::Cluster,
        WITHOUT_PROTECTION,
        promote_a_late_replica,
    )
    .await
    .end_red();
}

/// The replica misses the primary's last renewals and comes late to its address, as a failover with one virtual address
/// brings it: another server, of a run of its own, with the primary's history up to a moment in the past.
async fn promote_a_late_replica(site: &mut Site, fleet: &Fleet, case: &mut Case) {
    let primary = site.redis().address();
    let replica = RedisServer::start().await;
    replica
        .tell(&format!("REPLICAOF {} {}", primary.ip(), primary.port()))
        .await;
    eventually(rsf_suite::SOON, async || {
        let seen = replica.tell("INFO replication").await;
        let synchronized = seen.contains("master_link_status:up");
        synchronized.then_some(()).ok_or(seen)
    })
    .await;
    replica.tell("REPLICAOF NO ONE").await;
    let copied = replica.tell("DBSIZE").await;
    case.figure(
        "copied",
        copied.lines().next().unwrap_or_default().trim_start_matches(':'),
    );
    let ttl = site.lease_ttl();
    sleep(ttl / 2).await;
    fleet.cut_off(true);
    site.redis().kill9().await;
    sleep(ttl * 5 / 4).await;
    site.redis().replace_with(replica).await;
}
