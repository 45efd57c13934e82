//! What every store of outcomes does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_core::server::dedup::{Claim, Claimed, DedupKey, DedupStore, Entry, EntryState, Held};
use tokio::time::sleep;

/// A fresh and empty store; dropping it ends it.
pub(crate) trait Fixture: Sized {
    async fn new() -> Self;
    /// Each call may give another process's view.
    fn store(&self) -> Arc<dyn DedupStore>;
}

/// A test for each case of the suite.
macro_rules! conformance {
    ($fixture:ty) => {
        conformance!($fixture:
            one_of_many_is_first,
            a_claim_stands_while_it_is_renewed,
            a_claim_that_ran_out_stays_known,
            an_outcome_stays_for_its_window,
            a_claim_given_up_is_free,
            what_another_owner_put_is_left_alone,
            what_was_lost_is_put_again,
            any_bytes_come_back,
            it_knows_since_when_it_remembers
        );
    };
    ($fixture:ty: $($case:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::suite::Fixture>::new().await;
                $crate::suite::$case(&fixture).await;
            }
        )*
    };
}

pub(crate) fn key(id: &str) -> DedupKey {
    DedupKey::of("order", "shop.v1.Stock", "Reserve", id)
}

/// A claim whose payload is its owner's first letter.
pub(crate) fn claim(owner: &str, lease: u64, window: u64) -> Claim {
    Claim {
        owner: owner.into(),
        payload: Claim::hash(&owner.as_bytes()[..1]),
        lease: Duration::from_millis(lease),
        window: Duration::from_millis(window),
    }
}

pub(crate) async fn ms(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds)).await;
}

async fn state(fixture: &impl Fixture, id: &str) -> Option<EntryState> {
    let found = fixture.store().look(&key(id)).await.expect("an answer");
    found.map(|entry| entry.state)
}

async fn first(fixture: &impl Fixture, id: &str, claim: &Claim) {
    let claimed = fixture.store().claim(&key(id), claim).await.expect("an answer");
    assert!(matches!(claimed, Claimed::New { .. }), "{claimed:?}");
}

pub(crate) async fn one_of_many_is_first(fixture: &impl Fixture) {
    let claims = (0..50).map(|number| {
        let store = fixture.store();
        tokio::spawn(async move {
            let own = claim(&format!("x{number}"), 60_000, 60_000);
            store.claim(&key("a"), &own).await.expect("an answer")
        })
    });
    let claims: Vec<_> = claims.collect();
    let mut firsts = 0;
    for claimed in claims {
        match claimed.await.expect("ended") {
            Claimed::New { .. } => firsts += 1,
            Claimed::Stands(entry) => assert_eq!(
                entry,
                Entry {
                    payload: Claim::hash(b"x"),
                    state: EntryState::InProgress
                }
            ),
        }
    }
    assert_eq!(firsts, 1);
    assert_eq!(state(fixture, "b").await, None, "another call");
}

pub(crate) async fn a_claim_stands_while_it_is_renewed(fixture: &impl Fixture) {
    let own = claim("a", 2000, 60_000);
    first(fixture, "a", &own).await;
    for _ in 0..3 {
        ms(1000).await;
        let held = fixture.store().renew(&key("a"), &own).await;
        assert_eq!(held, Ok(Held::Ours));
        assert_eq!(state(fixture, "a").await, Some(EntryState::InProgress));
    }
}

pub(crate) async fn a_claim_that_ran_out_stays_known(fixture: &impl Fixture) {
    let (own, other) = (claim("a", 100, 60_000), claim("b", 100, 60_000));
    first(fixture, "a", &own).await;
    ms(150).await;
    let claimed = fixture.store().claim(&key("a"), &other).await.expect("an answer");
    let abandoned = Entry {
        payload: own.payload,
        state: EntryState::Abandoned,
    };
    assert_eq!(claimed, Claimed::Stands(abandoned));
    // Its owner was alive after all.
    let long = claim("a", 60_000, 60_000);
    assert_eq!(fixture.store().renew(&key("a"), &long).await, Ok(Held::Ours));
    assert_eq!(state(fixture, "a").await, Some(EntryState::InProgress));
    assert_eq!(fixture.store().renew(&key("a"), &own).await, Ok(Held::Ours));
    ms(150).await;
    let outcome = Bytes::from_static(b"told late");
    let told = fixture.store().settle(&key("a"), &own, Some(&outcome)).await;
    assert_eq!(told, Ok(Held::Ours));
    assert_eq!(state(fixture, "a").await, Some(EntryState::Done(outcome)));
    // Known for lease and window, and no longer.
    first(fixture, "b", &claim("a", 100, 300)).await;
    ms(200).await;
    assert_eq!(state(fixture, "b").await, Some(EntryState::Abandoned));
    ms(300).await;
    assert_eq!(state(fixture, "b").await, None);
}

pub(crate) async fn an_outcome_stays_for_its_window(fixture: &impl Fixture) {
    let own = claim("a", 100, 1500);
    first(fixture, "a", &own).await;
    let outcome = Bytes::from_static(b"the outcome");
    let told = fixture.store().settle(&key("a"), &own, Some(&outcome)).await;
    assert_eq!(told, Ok(Held::Ours));
    ms(500).await;
    let claimed = fixture.store().claim(&key("a"), &claim("b", 100, 1500)).await;
    let done = Entry {
        payload: own.payload,
        state: EntryState::Done(outcome),
    };
    assert_eq!(claimed, Ok(Claimed::Stands(done)));
    ms(1500).await;
    first(fixture, "a", &own).await;
}

pub(crate) async fn a_claim_given_up_is_free(fixture: &impl Fixture) {
    let own = claim("a", 1500, 60_000);
    first(fixture, "a", &own).await;
    let told = fixture.store().settle(&key("a"), &own, None).await;
    assert_eq!(told, Ok(Held::Ours));
    assert_eq!(state(fixture, "a").await, Some(EntryState::Released));
    let told = fixture.store().settle(&key("a"), &own, None).await;
    assert_eq!(told, Ok(Held::Lost), "it is nobody's");
    // Whoever comes next claims it, by another owner and with another payload.
    let other = claim("b", 60_000, 60_000);
    first(fixture, "a", &other).await;
    assert_eq!(state(fixture, "a").await, Some(EntryState::InProgress));
    let told = fixture.store().settle(&key("a"), &own, None).await;
    assert_eq!(told, Ok(Held::Taken));
    // It is known for a lease. What never stood is not released either.
    first(fixture, "b", &own).await;
    let told = fixture.store().settle(&key("b"), &own, None).await;
    assert_eq!(told, Ok(Held::Ours));
    let told = fixture.store().settle(&key("c"), &own, None).await;
    assert_eq!(told, Ok(Held::Lost));
    assert_eq!(state(fixture, "c").await, None);
    ms(2000).await;
    assert_eq!(state(fixture, "b").await, None);
}

pub(crate) async fn what_another_owner_put_is_left_alone(fixture: &impl Fixture) {
    let (own, other) = (claim("a", 60_000, 60_000), claim("b", 60_000, 60_000));
    let (first_outcome, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    first(fixture, "a", &own).await;
    let store = fixture.store();
    for outcome in [None, Some(&second)] {
        assert_eq!(store.settle(&key("a"), &other, outcome).await, Ok(Held::Taken));
        assert_eq!(store.renew(&key("a"), &other).await, Ok(Held::Taken));
        assert_eq!(state(fixture, "a").await, Some(EntryState::InProgress));
    }
    let told = store.settle(&key("a"), &own, Some(&first_outcome)).await;
    assert_eq!(told, Ok(Held::Ours));
    for outcome in [None, Some(&second)] {
        assert_eq!(store.settle(&key("a"), &other, outcome).await, Ok(Held::Taken));
        assert_eq!(store.renew(&key("a"), &other).await, Ok(Held::Taken));
        let done = EntryState::Done(first_outcome.clone());
        assert_eq!(state(fixture, "a").await, Some(done));
    }
    // What is done is claimed by nobody any more, its owner included.
    assert_eq!(store.renew(&key("a"), &own).await, Ok(Held::Taken));
}

pub(crate) async fn what_was_lost_is_put_again(fixture: &impl Fixture) {
    let (own, outcome) = (claim("a", 60_000, 60_000), Bytes::from_static(b"kept"));
    let store = fixture.store();
    assert_eq!(store.renew(&key("a"), &own).await, Ok(Held::Lost));
    assert_eq!(state(fixture, "a").await, Some(EntryState::InProgress));
    let told = store.settle(&key("b"), &own, Some(&outcome)).await;
    assert_eq!(told, Ok(Held::Lost));
    assert_eq!(state(fixture, "b").await, Some(EntryState::Done(outcome)));
}

pub(crate) async fn any_bytes_come_back(fixture: &impl Fixture) {
    let outcomes = [
        Bytes::new(),
        Bytes::from_static(b"\0\xff\r\n1d"),
        vec![0xfe; 1 << 20].into(),
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let id = number.to_string();
        // An owner as long as it may be, with whatever a pattern would take for special.
        let owner = format!("a{}", "*%-".repeat(332));
        let own = claim(&owner, 60_000, 60_000);
        first(fixture, &id, &own).await;
        let told = fixture.store().settle(&key(&id), &own, Some(&outcome)).await;
        assert_eq!(told, Ok(Held::Ours));
        let done = Entry {
            payload: own.payload,
            state: EntryState::Done(outcome),
        };
        assert_eq!(fixture.store().look(&key(&id)).await, Ok(Some(done)));
    }
}

pub(crate) async fn it_knows_since_when_it_remembers(fixture: &impl Fixture) {
    first(fixture, "a", &claim("a", 100, 100)).await;
    ms(300).await;
    let claimed = fixture.store().claim(&key("b"), &claim("a", 100, 100)).await;
    let Ok(Claimed::New { memory }) = claimed else {
        panic!("{claimed:?}")
    };
    let seconds = memory.as_secs_f64();
    assert!((0.29..30.0).contains(&seconds), "{seconds}");
}
