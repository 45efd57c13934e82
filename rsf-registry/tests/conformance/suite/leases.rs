//! Leases: written by instances, read by the pump.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use rsf_registry::record::LeaseState;
use rsf_registry::{Hint, Renewal, StoreError};

use super::{PATIENCE, eventually, lease};
use crate::fixture::Fixture;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(400);

pub(crate) async fn put_read_sweep(fixture: &impl Fixture) {
    let lease = lease("member", "1", 10, 1);
    fixture.leases().put(&lease, LONG).await.expect("put");
    let ids = [lease.instance.clone(), "member/none".to_owned()];
    let read = fixture.source().read(&ids).await.expect("read");
    assert_eq!(read.len(), 2);
    let live = read[0].as_ref().expect("alive");
    assert_eq!(live.lease, lease);
    assert!(
        live.remaining <= LONG && live.remaining > LONG / 2,
        "{:?}",
        live.remaining
    );
    assert_eq!(read[1], None);
    let sweep = fixture.source().sweep().await.expect("sweep");
    assert_eq!(
        sweep.leases.iter().map(|live| &live.lease).collect::<Vec<_>>(),
        [&lease]
    );
    assert!(!sweep.source.is_empty());
    assert_eq!(
        fixture.source().sweep().await.expect("sweep").source,
        sweep.source,
        "nothing was lost in between"
    );
}

pub(crate) async fn renewal_prolongs(fixture: &impl Fixture) {
    let lease = lease("member", "1", 10, 1);
    fixture
        .leases()
        .put(&lease, Duration::from_secs(5))
        .await
        .expect("put");
    let renewed = fixture
        .leases()
        .renew(&lease.instance, 10, LONG)
        .await
        .expect("renew");
    assert_eq!(renewed, Renewal::Renewed);
    let read = fixture
        .source()
        .read(std::slice::from_ref(&lease.instance))
        .await
        .expect("read");
    let live = read[0].as_ref().expect("alive");
    assert!(live.remaining > LONG / 2, "{:?}", live.remaining);
    assert_eq!(live.lease, lease);
}

pub(crate) async fn runs_out(fixture: &impl Fixture) {
    let (short, long) = (lease("member", "short", 10, 1), lease("member", "long", 10, 1));
    fixture.leases().put(&long, LONG).await.expect("put");
    fixture.leases().put(&short, SHORT).await.expect("put");
    let (source, ids) = (fixture.source(), [short.instance.clone()]);
    eventually("the short lease runs out", async || {
        source.read(&ids).await.expect("read")[0].is_none().then_some(())
    })
    .await;
    let sweep = fixture.source().sweep().await.expect("sweep");
    assert_eq!(sweep.leases.len(), 1);
    assert_eq!(sweep.leases[0].lease, long);
    let renewed = fixture
        .leases()
        .renew(&short.instance, 10, LONG)
        .await
        .expect("renew");
    assert_eq!(renewed, Renewal::Unknown, "what ran out must be put again");
    fixture.leases().put(&short, LONG).await.expect("put again");
}

pub(crate) async fn stale_incarnation_is_refused(fixture: &impl Fixture) {
    fixture
        .leases()
        .put(&lease("member", "1", 20, 1), LONG)
        .await
        .expect("put");
    let refused = fixture.leases().put(&lease("member", "1", 10, 99), LONG).await;
    let held = (20, 1, false);
    assert_eq!(holder(refused), Some(held), "who holds it is told");
    let renewed = fixture.leases().renew("member/1", 10, LONG).await.expect("renew");
    assert_eq!(
        renewed,
        Renewal::Unknown,
        "an earlier start does not renew the later one's lease"
    );
    fixture
        .leases()
        .put(&lease("member", "1", 30, 1), LONG)
        .await
        .expect("a later start replaces");
    let read = fixture
        .source()
        .read(&["member/1".to_owned()])
        .await
        .expect("read");
    assert_eq!(read[0].as_ref().expect("alive").lease.incarnation, 30);
}

pub(crate) async fn stale_sequence_is_refused(fixture: &impl Fixture) {
    let newer = lease("member", "1", 20, 5);
    fixture.leases().put(&newer, LONG).await.expect("put");
    let refused = fixture.leases().put(&lease("member", "1", 20, 4), LONG).await;
    assert_eq!(holder(refused), Some((20, 5, false)));
    fixture
        .leases()
        .put(&newer, LONG)
        .await
        .expect("the same again is no error");
    fixture
        .leases()
        .put(&lease("member", "1", 20, 6), LONG)
        .await
        .expect("a later one replaces");
}

pub(crate) async fn renewal_of_unknown(fixture: &impl Fixture) {
    let renewed = fixture
        .leases()
        .renew("member/none", 1, LONG)
        .await
        .expect("renew");
    assert_eq!(renewed, Renewal::Unknown);
    let read = fixture
        .source()
        .read(&["member/none".to_owned()])
        .await
        .expect("read");
    assert_eq!(read, [None], "a renewal makes no lease");
}

pub(crate) async fn deregistering_leaves_a_tombstone(fixture: &impl Fixture) {
    fixture
        .leases()
        .put(&lease("member", "1", 20, 1), LONG)
        .await
        .expect("put");
    let mut tombstone = lease("member", "1", 20, 2);
    tombstone.state = LeaseState::Deregistered.into();
    fixture.leases().put(&tombstone, LONG).await.expect("deregister");
    let sweep = fixture.source().sweep().await.expect("sweep");
    assert_eq!(
        sweep.leases[0].lease.state(),
        LeaseState::Deregistered,
        "leaving is seen, not guessed"
    );
    let refused = fixture.leases().put(&lease("member", "1", 20, 1), LONG).await;
    assert_eq!(
        holder(refused),
        Some((20, 2, true)),
        "a late write must not undo it"
    );
    fixture
        .leases()
        .put(&lease("member", "1", 21, 1), LONG)
        .await
        .expect("the next start registers at once");
}

pub(crate) async fn a_tombstone_is_not_renewed(fixture: &impl Fixture) {
    let mut tombstone = lease("member", "1", 20, 2);
    tombstone.state = LeaseState::Deregistered.into();
    fixture.leases().put(&tombstone, LONG).await.expect("deregister");
    let renewed = fixture
        .leases()
        .renew("member/1", 20, SHORT)
        .await
        .expect("renew");
    assert_eq!(renewed, Renewal::Unknown, "a renewal that comes late");
    let read = fixture
        .source()
        .read(&["member/1".to_owned()])
        .await
        .expect("read");
    let live = read[0].as_ref().expect("the word that it left");
    assert!(
        live.remaining > LONG / 2,
        "as long as before: {:?}",
        live.remaining
    );
    assert_eq!(live.lease, tombstone);
}

pub(crate) async fn sweep_sees_all(fixture: &impl Fixture) {
    let leases = fixture.leases();
    let mut expected = BTreeSet::new();
    for n in 0..300 {
        let lease = lease("member", &n.to_string(), 10, 1);
        leases.put(&lease, LONG).await.expect("put");
        expected.insert(lease.instance);
    }
    let sweep = fixture.source().sweep().await.expect("sweep");
    assert_eq!(sweep.leases.len(), 300);
    assert_eq!(
        sweep
            .leases
            .into_iter()
            .map(|live| live.lease.instance)
            .collect::<BTreeSet<_>>(),
        expected
    );
}

pub(crate) async fn changes_are_hinted(fixture: &impl Fixture) {
    let mut hints = fixture.source().hints().await.expect("hints");
    let mut tombstone = lease("member", "1", 10, 2);
    tombstone.state = LeaseState::Deregistered.into();
    for lease in [lease("member", "1", 10, 1), tombstone, lease("order", "1", 10, 1)] {
        fixture.leases().put(&lease, LONG).await.expect("put");
        let told = async {
            loop {
                match hints.next().await.expect("hints go on") {
                    Hint::Gap => return,
                    Hint::Changed(instance) if instance == lease.instance => return,
                    Hint::Changed(_) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, told)
            .await
            .expect("a hint or a gap");
    }
}

pub(crate) async fn bad_leases_are_refused(fixture: &impl Fixture) {
    let good = || lease("member", "1", 10, 1);
    let mut cases = vec![
        ("no instance", good()),
        ("long name", good()),
        ("bad address", good()),
        ("weight", good()),
    ];
    cases[0].1.instance.clear();
    cases[1].1.instance = "x".repeat(201);
    cases[2].1.address = "nowhere".into();
    cases[3].1.weight = 10_001;
    for (what, bad) in cases {
        let refused = fixture.leases().put(&bad, LONG).await;
        assert!(
            matches!(refused, Err(StoreError::Invalid { .. })),
            "{what}: {refused:?}"
        );
    }
    assert!(fixture.source().sweep().await.expect("sweep").leases.is_empty());
}

/// Incarnation, sequence, and whether it left, of the lease that stands where another was to be written.
fn holder(refused: Result<(), StoreError>) -> Option<(u64, u64, bool)> {
    match refused {
        Err(StoreError::Superseded {
            incarnation,
            sequence,
            left,
            ..
        }) => Some((incarnation, sequence, left)),
        _ => None,
    }
}
