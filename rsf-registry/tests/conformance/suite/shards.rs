//! Large lists: published in shards, seen whole.

use std::collections::HashMap;

use rsf_registry::directory::seal::plain_bytes;
use rsf_registry::directory::{ListOpener, ListSealer, SealedList, shard_of, slot};
use rsf_registry::record::{ListHead, ServiceList, ShardReference};
use rsf_registry::{Observed, StoreError, Watch};

use super::{directory, list, observe};
use crate::fixture::Fixture;

const SERVICE: &str = "shop.v1.LargeService";
/// As many as a service may have.
const INSTANCES: usize = 20_000;

/// A list that is too large for one node. Every instance bears the sequence, so that a mixture shows.
fn large(epoch: u64, sequence: u64, count: usize) -> ServiceList {
    let mut large = list(SERVICE, epoch, sequence, count);
    let mut random = fastrand::Rng::with_seed(sequence);
    for (n, listed) in large.instances.iter_mut().enumerate() {
        let host: String = std::iter::repeat_with(|| random.alphanumeric())
            .take(40)
            .collect();
        listed.incarnation = sequence;
        listed.address = format!("{host}:{}", 1 + n % 60_000);
    }
    large
}

/// By id: the instances of a list in shards come in the order of their shards.
fn by_id(list: &ServiceList) -> ServiceList {
    let mut sorted = list.clone();
    sorted.instances.sort_by(|a, b| a.instance.cmp(&b.instance));
    sorted
}

async fn seen(watch: &mut Watch<ServiceList>, sequence: u64) -> ServiceList {
    by_id(&*directory::version(watch, sequence).await)
}

fn sealed(list: &ServiceList) -> (SealedList, Vec<ShardReference>) {
    let (sealed, references) = ListSealer::unsigned()
        .seal_with_references(list)
        .expect("a good list");
    assert!(references.len() > 1, "it is large");
    (sealed, references)
}

pub(crate) async fn a_change_brings_one_shard(fixture: &impl Fixture) {
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    let mut watch = fixture.directory().watch(SERVICE);
    let mut whole = large(term.epoch, 1, INSTANCES);
    let (first, mut references) = sealed(&whole);
    writer
        .store(&term, std::slice::from_ref(&first))
        .await
        .expect("store");
    assert_eq!(seen(&mut watch, 1).await, by_id(&whole));
    assert_eq!(
        writer.stored().await.expect("stored"),
        std::slice::from_ref(&first)
    );

    let changed = &mut whole.instances[777];
    changed.weight = 7;
    let index = shard_of(slot(&changed.instance), references.len());
    (
        whole.written_unix_ms,
        whole.version.as_mut().expect("versioned").sequence,
    ) = (2, 2);
    let here = |listed: &&rsf_registry::record::ListedInstance| {
        shard_of(slot(&listed.instance), references.len()) == index
    };
    let part = whole.instances.iter().filter(here).cloned().collect();
    let sealer = ListSealer::unsigned();
    let shard = sealer
        .shard(SERVICE, index, whole.version.expect("versioned"), part)
        .expect("a good shard");
    references[index] = shard.reference.clone();
    let head = ListHead {
        service: SERVICE.into(),
        version: whole.version,
        written_unix_ms: whole.written_unix_ms,
        removed: whole.removed.clone(),
        shards: references,
        hold: whole.hold,
    };
    let plain = plain_bytes(&whole.instances);
    let update = sealer.head(&head, vec![shard], plain).expect("a good head");
    assert_eq!(update.shards.len(), 1);
    let brought = update.shards.values().map(|shard| shard.len()).sum::<usize>();
    assert!(update.head.len() < 20_000 && brought < 400_000, "{brought} bytes");
    writer
        .store(&term, std::slice::from_ref(&update))
        .await
        .expect("store");
    assert_eq!(seen(&mut watch, 2).await, by_id(&whole));
    assert_eq!(
        writer.stored().await.expect("stored"),
        [update.over(Some(&first))]
    );
    let mut late = fixture.directory().watch(SERVICE);
    assert_eq!(seen(&mut late, 2).await, by_id(&whole));
}

pub(crate) async fn no_half_written_list_is_ever_seen(fixture: &impl Fixture) {
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    let mut watch = fixture.directory().watch(SERVICE);
    let writing = tokio::spawn(async move {
        for sequence in 1..=12 {
            // Now in more shards, now in fewer, now in none.
            let count = [INSTANCES, INSTANCES / 2, 10][sequence as usize % 3];
            let list = large(term.epoch, sequence, count);
            writer.write(&term, &[list]).await.expect("write");
        }
        writer
    });
    observe(&mut watch, "the last one", |state| {
        let Observed::Present(list) = state else {
            return None;
        };
        let sequence = list.version.expect("versioned").sequence;
        let count = [INSTANCES, INSTANCES / 2, 10][sequence as usize % 3];
        assert_eq!(list.instances.len(), count, "sequence {sequence}");
        assert!(
            list.instances.iter().all(|listed| listed.incarnation == sequence),
            "a mixture"
        );
        (sequence == 12).then_some(())
    })
    .await;
    let writer = writing.await.expect("written");
    let stored = writer.stored().await.expect("stored");
    let opened = ListOpener::unverified().open(&stored[0]).expect("whole");
    assert_eq!(opened.list.instances.len(), INSTANCES);
}

pub(crate) async fn a_list_shrinks_out_of_its_shards(fixture: &impl Fixture) {
    let writer = fixture.writer();
    let term = writer.lead("pump", 0).await.expect("lead");
    let mut watch = fixture.directory().watch(SERVICE);
    writer
        .write(&term, &[large(term.epoch, 1, INSTANCES)])
        .await
        .expect("write");
    assert_eq!(seen(&mut watch, 1).await.instances.len(), INSTANCES);
    let small = large(term.epoch, 2, 3);
    writer
        .write(&term, std::slice::from_ref(&small))
        .await
        .expect("write");
    assert_eq!(seen(&mut watch, 2).await, by_id(&small));
    let stored = writer.stored().await.expect("stored");
    assert_eq!((stored[0].names.len(), stored[0].shards.len()), (0, 0));
    assert_eq!(fixture.directory().services().await.expect("services"), [SERVICE]);
}

pub(crate) async fn a_fenced_shard_is_refused(fixture: &impl Fixture) {
    let (first, second) = (fixture.writer(), fixture.writer());
    let term = first.lead("pump", 0).await.expect("lead");
    let kept = large(term.epoch, 1, INSTANCES);
    first
        .write(&term, std::slice::from_ref(&kept))
        .await
        .expect("write");
    term.lost.cancel();
    let next = second.lead("other", 0).await.expect("lead");
    let refused = first.write(&term, &[large(term.epoch, 2, INSTANCES)]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    let mut watch = fixture.directory().watch(SERVICE);
    assert_eq!(seen(&mut watch, 1).await, by_id(&kept));
    // The next leader builds on what is there.
    let (update, _) = sealed(&large(next.epoch, 1, INSTANCES));
    let before: HashMap<_, _> = second
        .stored()
        .await
        .expect("stored")
        .into_iter()
        .map(|list| (list.service.clone(), list.names.len()))
        .collect();
    assert!(before[SERVICE] > 1);
    second.store(&next, &[update]).await.expect("store");
    observe(&mut watch, "the next term's", |state| match state {
        Observed::Present(list) => (list.version.expect("versioned").epoch == next.epoch).then_some(()),
        Observed::Unknown | Observed::Absent => None,
    })
    .await;
}
