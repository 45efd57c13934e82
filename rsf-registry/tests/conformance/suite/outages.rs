//! What clients see of a backend that is stopped under them and started again.

use std::time::Duration;

use rsf_registry::error::REQUEST_TIMEOUT;
use rsf_registry::{Observed, StoreError};
use tokio::time::Instant;

use super::policies::{record, revision};
use super::{directory, eventually, lease, list};
use crate::fixture::Outage;

const SERVICE: &str = "shop.v1.MemberService";

pub(crate) async fn unavailable_in_time(fixture: &impl Outage) {
    let (leases, acknowledgements) = (fixture.leases(), fixture.acknowledgements());
    let (directory, policies) = (fixture.directory(), fixture.policies());
    leases
        .put(&lease("member", "1", 1, 1), Duration::from_secs(60))
        .await
        .expect("put");
    fixture.stop().await;
    let in_time = async |what: &str, result: Result<(), StoreError>, begun: Instant| {
        assert!(
            matches!(&result, Err(error) if error.is_transient()),
            "{what}: {result:?}"
        );
        assert!(
            begun.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1),
            "{what}: {:?}",
            begun.elapsed()
        );
    };
    let (begun, ttl) = (Instant::now, Duration::from_secs(60));
    let now = begun();
    in_time("put", leases.put(&lease("member", "1", 1, 2), ttl).await, now).await;
    let now = begun();
    in_time("renew", leases.renew("member/1", 1, ttl).await.map(drop), now).await;
    let now = begun();
    in_time("services", directory.services().await.map(drop), now).await;
    let now = begun();
    in_time("current", policies.current().await.map(drop), now).await;
    let now = begun();
    in_time(
        "acknowledged",
        acknowledgements.acknowledged("fleet").await.map(drop),
        now,
    )
    .await;
    fixture.start().await;
    eventually("it answers again", async || {
        leases
            .put(&lease("member", "1", 1, 3), Duration::from_secs(60))
            .await
            .ok()
    })
    .await;
}

pub(crate) async fn watches_survive_a_restart(fixture: &impl Outage) {
    let mut watch = fixture.directory().watch(SERVICE);
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    writer
        .write(&term, &[list(SERVICE, term.epoch, 1, 2)])
        .await
        .expect("write");
    directory::version(&mut watch, 1).await;
    fixture.stop().await;
    let mut begun_meanwhile = fixture.directory().watch(SERVICE);
    assert!(
        matches!(watch.current(), Observed::Present(_)),
        "the last state stays"
    );
    fixture.start().await;
    let writer = fixture.writer();
    let next = eventually("a pump leads again", async || writer.lead("pump", 0).await.ok()).await;
    assert!(next.epoch > term.epoch, "{} after {}", next.epoch, term.epoch);
    writer
        .write(&next, &[list(SERVICE, next.epoch, 7, 3)])
        .await
        .expect("write");
    directory::version(&mut watch, 7).await;
    directory::version(&mut begun_meanwhile, 7).await;
    writer
        .write(&next, &[list(SERVICE, next.epoch, 8, 3)])
        .await
        .expect("write");
    directory::version(&mut watch, 8).await;
}

pub(crate) async fn policies_survive_a_restart(fixture: &impl Outage) {
    let mut watch = fixture.policies().watch("fleet");
    fixture
        .publisher()
        .publish(&record("fleet", 1, "{}"))
        .await
        .expect("publish");
    revision(&mut watch, 1).await;
    fixture.stop().await;
    fixture.start().await;
    let mut late = fixture.policies().watch("fleet");
    revision(&mut late, 1).await;
    let publisher = fixture.publisher();
    eventually("published", async || {
        publisher.publish(&record("fleet", 2, "{}")).await.ok()
    })
    .await;
    revision(&mut watch, 2).await;
}

pub(crate) async fn epoch_survives_a_restart(fixture: &impl Outage) {
    let writer = fixture.writer();
    let far = 1 << 40;
    let term = writer.lead("pump", far).await.expect("lead");
    writer
        .write(&term, &[list(SERVICE, term.epoch, 1, 2)])
        .await
        .expect("write");
    fixture.stop().await;
    // The pump ends too: one that lives comes back with its session, and leads on.
    let begun = term.epoch;
    drop((term, writer));
    fixture.start().await;
    let writer = fixture.writer();
    let next = eventually("a pump leads again", async || writer.lead("pump", 0).await.ok()).await;
    assert!(next.epoch > far, "{}", next.epoch);
    assert_eq!(writer.lists().await.expect("lists"), [list(SERVICE, begun, 1, 2)]);
}
