//! Policies: published by the console, watched by instances.

use std::sync::Arc;

use rsf_registry::record::PolicyRecord;
use rsf_registry::{Observed, StoreError, Watch};

use super::observe;
use crate::fixture::Fixture;

const SCOPE: &str = "service/shop.v1.MemberService:gold";

pub(crate) async fn publish_and_watch(fixture: &impl Fixture) {
    let mut watch = fixture.policies().watch(SCOPE);
    observe(&mut watch, "absent", |state| {
        matches!(state, Observed::Absent).then_some(())
    })
    .await;
    for (revision, scope) in [(1, "fleet"), (2, SCOPE), (3, "application/order"), (4, SCOPE)] {
        fixture
            .publisher()
            .publish(&record(scope, revision, "{}"))
            .await
            .expect("publish");
    }
    assert_eq!(*revision(&mut watch, 4).await, record(SCOPE, 4, "{}"));
    let mut current = fixture.policies().current().await.expect("current");
    current.sort_by_key(|record| record.revision);
    assert_eq!(
        current.iter().map(|record| record.revision).collect::<Vec<_>>(),
        [1, 3, 4]
    );
    let mut late = fixture.policies().watch("fleet");
    assert_eq!(*revision(&mut late, 1).await, record("fleet", 1, "{}"));
}

pub(crate) async fn stale_revision_is_refused(fixture: &impl Fixture) {
    let publisher = fixture.publisher();
    publisher
        .publish(&record(SCOPE, 5, "{\"a\":5}"))
        .await
        .expect("publish");
    for (revision, document) in [(4, "{\"a\":4}"), (5, "{\"a\":6}")] {
        let refused = publisher.publish(&record(SCOPE, revision, document)).await;
        assert!(matches!(refused, Err(StoreError::Stale { .. })), "{refused:?}");
    }
    assert_eq!(
        publisher.current().await.expect("current"),
        [record(SCOPE, 5, "{\"a\":5}")]
    );
}

pub(crate) async fn publishing_twice_is_no_error(fixture: &impl Fixture) {
    let publisher = fixture.publisher();
    publisher.publish(&record(SCOPE, 5, "{}")).await.expect("publish");
    publisher
        .publish(&record(SCOPE, 5, "{}"))
        .await
        .expect("publish again");
    assert_eq!(
        publisher.current().await.expect("current"),
        [record(SCOPE, 5, "{}")]
    );
}

pub(crate) async fn deletion_is_an_empty_document(fixture: &impl Fixture) {
    let publisher = fixture.publisher();
    publisher.publish(&record(SCOPE, 1, "{}")).await.expect("publish");
    publisher.publish(&record(SCOPE, 2, "")).await.expect("delete");
    let mut watch = fixture.policies().watch(SCOPE);
    assert_eq!(revision(&mut watch, 2).await.document, "");
    assert_eq!(
        publisher.current().await.expect("current"),
        [record(SCOPE, 2, "")]
    );
}

pub(crate) async fn document_and_revision_go_together(fixture: &impl Fixture) {
    let mut watch = fixture.policies().watch(SCOPE);
    let publisher = fixture.publisher();
    let publishing = tokio::spawn(async move {
        for revision in 1..=100 {
            publisher
                .publish(&record(SCOPE, revision, &document(revision)))
                .await
                .expect("publish");
        }
    });
    observe(&mut watch, "revision 100", |state| match state {
        Observed::Present(seen) => {
            assert_eq!(seen.document, document(seen.revision), "a torn record");
            (seen.revision == 100).then_some(())
        }
        Observed::Unknown | Observed::Absent => None,
    })
    .await;
    publishing.await.expect("published");
}

fn document(revision: u64) -> String {
    format!("{{\"timeout\":{revision}}}")
}

/// A record without a past.
pub(crate) fn record(scope: &str, revision: u64, document: &str) -> PolicyRecord {
    PolicyRecord {
        scope: scope.into(),
        revision,
        document: document.into(),
        written_unix_ms: 1,
        author: "ann".into(),
    }
}

/// Waits for one revision.
pub(crate) async fn revision(watch: &mut Watch<PolicyRecord>, revision: u64) -> Arc<PolicyRecord> {
    observe(watch, &format!("revision {revision}"), |state| match state {
        Observed::Present(record) if record.revision == revision => Some(record),
        _ => None,
    })
    .await
}
