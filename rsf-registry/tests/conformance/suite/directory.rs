//! Lists: written by the leading pump, watched by consumers.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rsf_registry::record::ServiceList;
use rsf_registry::{Observed, StoreError, Watch};

use super::{PATIENCE, list, observe};
use crate::fixture::Fixture;

const SERVICE: &str = "shop.v1.MemberService";

pub(crate) async fn list_round_trip(fixture: &impl Fixture) {
    let writer = fixture.writer();
    assert_eq!(writer.lists().await.expect("lists"), []);
    let term = writer.lead("pump", 0).await.expect("lead");
    let written = [
        list(SERVICE, term.epoch, 1, 500),
        list("shop.v1.MemberService:gold", term.epoch, 2, 0),
    ];
    writer.write(&term, &written).await.expect("write");
    let mut stored = writer.lists().await.expect("lists");
    stored.sort_by_key(|list| list.version.map(|version| version.order()));
    assert_eq!(stored, written);
    for list in &written {
        let mut watch = fixture.directory().watch(&list.service);
        assert_eq!(*present(&mut watch, "the list").await, *list);
    }
}

pub(crate) async fn watch_sees_absent_present_changed(fixture: &impl Fixture) {
    let mut watch = fixture.directory().watch(SERVICE);
    observe(&mut watch, "absent", |state| {
        matches!(state, Observed::Absent).then_some(())
    })
    .await;
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    writer
        .write(&term, &[list(SERVICE, term.epoch, 1, 2)])
        .await
        .expect("write");
    version(&mut watch, 1).await;
    for sequence in 2..50 {
        writer
            .write(&term, &[list(SERVICE, term.epoch, sequence, 3)])
            .await
            .expect("write");
    }
    let newest = version(&mut watch, 49).await;
    assert_eq!(newest.instances.len(), 3);
}

pub(crate) async fn older_list_is_refused(fixture: &impl Fixture) {
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    writer
        .write(&term, &[list(SERVICE, term.epoch, 5, 2)])
        .await
        .expect("write");
    let other = "shop.v1.OrderService";
    let older = [list(other, term.epoch, 6, 1), list(SERVICE, term.epoch, 4, 1)];
    let refused = writer.write(&term, &older).await;
    assert!(matches!(refused, Err(StoreError::Stale { .. })), "{refused:?}");
    let stored = writer.lists().await.expect("lists");
    let kept = stored.iter().find(|list| list.service == SERVICE).expect("kept");
    assert_eq!(*kept, list(SERVICE, term.epoch, 5, 2));
}

pub(crate) async fn second_term_fences_the_first(fixture: &impl Fixture) {
    let (first, second) = (fixture.writer(), fixture.writer());
    let term = first.lead("pump-a", 0).await.expect("lead");
    first
        .write(&term, &[list(SERVICE, term.epoch, 1, 1)])
        .await
        .expect("write");
    let waiting = tokio::spawn(async move {
        let term = second.lead("pump-b", 0).await.expect("lead");
        (second, term)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "two pumps must not lead at once");
    term.lost.cancel();
    let (second, next) = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("in time")
        .expect("leads");
    assert!(next.epoch > term.epoch, "{} after {}", next.epoch, term.epoch);
    assert!(!next.lost.is_cancelled());
    second
        .write(&next, &[list(SERVICE, next.epoch, 1, 2)])
        .await
        .expect("write");
    let refused = first.write(&term, &[list(SERVICE, term.epoch, 2, 3)]).await;
    assert!(
        matches!(refused, Err(StoreError::Fenced { epoch }) if epoch == term.epoch),
        "{refused:?}"
    );
    assert_eq!(
        second.lists().await.expect("lists"),
        [list(SERVICE, next.epoch, 1, 2)]
    );
}

pub(crate) async fn epoch_rises_to_the_least(fixture: &impl Fixture) {
    let writer = fixture.writer();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let term = writer.lead("pump", 0).await.expect("lead");
    assert!(term.epoch >= now, "{} is not the Unix seconds", term.epoch);
    let least = term.epoch + 1_000_000;
    term.lost.cancel();
    let term = writer.lead("pump", least).await.expect("lead");
    assert_eq!(term.epoch, least);
    term.lost.cancel();
    let term = writer.lead("pump", 0).await.expect("lead");
    assert_eq!(term.epoch, least + 1);
}

pub(crate) async fn services_are_listed(fixture: &impl Fixture) {
    let directory = fixture.directory();
    assert_eq!(
        directory.services().await.expect("services"),
        Vec::<String>::new()
    );
    let mut watch = directory.watch("never.Written");
    observe(&mut watch, "absent", |state| {
        matches!(state, Observed::Absent).then_some(())
    })
    .await;
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    let lists = ["b.B", "a.A:x", "a.A"].map(|service| list(service, term.epoch, 1, 1));
    writer.write(&term, &lists).await.expect("write");
    assert_eq!(
        directory.services().await.expect("services"),
        ["a.A", "a.A:x", "b.B"]
    );
}

pub(crate) async fn a_removed_list_is_absent_and_comes_back(fixture: &impl Fixture) {
    let (writer, directory) = (fixture.writer(), fixture.directory());
    let term = writer.lead("pump", 0).await.expect("lead");
    let other = "shop.v1.OrderService";
    let lists = [list(SERVICE, term.epoch, 1, 2), list(other, term.epoch, 2, 2)];
    writer.write(&term, &lists).await.expect("write");
    let mut watch = directory.watch(SERVICE);
    version(&mut watch, 1).await;
    let gone = [SERVICE.to_owned(), "never.Written".to_owned()];
    writer.remove(&term, &gone).await.expect("remove");
    observe(&mut watch, "absent", |state| {
        matches!(state, Observed::Absent).then_some(())
    })
    .await;
    assert_eq!(directory.services().await.expect("services"), [other]);
    assert_eq!(writer.stored().await.expect("stored").len(), 1);
    writer.remove(&term, &gone).await.expect("once more");
    writer
        .write(&term, &[list(SERVICE, term.epoch, 3, 1)])
        .await
        .expect("write");
    version(&mut watch, 3).await;
    term.lost.cancel();
    let second = fixture.writer();
    let next = second.lead("other", 0).await.expect("lead");
    assert!(next.epoch > term.epoch);
    let refused = writer.remove(&term, &gone).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(second.stored().await.expect("stored").len(), 2);
}

pub(crate) async fn watches_are_apart(fixture: &impl Fixture) {
    let directory = fixture.directory();
    let mut watches: Vec<_> = (0..20).map(|n| directory.watch(&format!("s.S{n}"))).collect();
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    let lists: Vec<_> = (0..20)
        .map(|n| list(&format!("s.S{n}"), term.epoch, n + 1, n as usize))
        .collect();
    writer.write(&term, &lists).await.expect("write");
    for (watch, list) in watches.iter_mut().zip(&lists) {
        assert_eq!(*present(watch, "its list").await, *list);
    }
}

/// Waits for a list.
pub(crate) async fn present(watch: &mut Watch<ServiceList>, what: &str) -> Arc<ServiceList> {
    observe(watch, what, |state| match state {
        Observed::Present(list) => Some(list),
        Observed::Unknown | Observed::Absent => None,
    })
    .await
}

/// Waits for the list with `sequence`; no list on the way may be older than the one before.
pub(crate) async fn version(watch: &mut Watch<ServiceList>, sequence: u64) -> Arc<ServiceList> {
    let mut last = (0, 0);
    observe(watch, &format!("sequence {sequence}"), |state| match state {
        Observed::Present(list) => {
            let version = list.version.expect("versioned");
            assert!(version.order() >= last, "{version:?} came after {last:?}");
            assert_eq!(list.written_unix_ms, version.sequence, "a torn list");
            last = version.order();
            (version.sequence == sequence).then_some(list)
        }
        Observed::Unknown | Observed::Absent => None,
    })
    .await
}
