//! The store of outcomes in memory: what it does that others do not. (What all stores do is in
//! `rsf-registry/tests/dedup`.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

use std::time::Duration;

use rsf_core::server::dedup::{Claim, Claimed, DedupKey, DedupStore, EntryState, MemoryDedup};

fn key(id: &str) -> DedupKey {
    DedupKey::of("order", "shop.v1.Stock", "Reserve", id)
}

fn claim(owner: &str, lease: u64, window: u64) -> Claim {
    Claim {
        owner: owner.into(),
        payload: Claim::hash(owner.as_bytes()),
        lease: Duration::from_millis(lease),
        window: Duration::from_millis(window),
    }
}

#[tokio::test(start_paused = true)]
async fn it_refuses_when_it_is_full_and_takes_again_when_windows_have_passed() {
    let store = MemoryDedup::new().bounded(10_000);
    let mut taken = 0;
    let error = loop {
        let one = claim("a", 1000, 60_000);
        match store.claim(&key(&taken.to_string()), &one).await {
            Ok(_) => taken += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!((20..40).contains(&taken), "{taken}");
    assert!(error.contains("window_ms"), "{error}");
    // The first is still there.
    let stands = store.claim(&key("0"), &claim("b", 1000, 60_000)).await;
    assert!(matches!(stands, Ok(Claimed::Stands(_))), "{stands:?}");
    // Outcomes count by their size, and go with their windows.
    tokio::time::sleep(Duration::from_secs(62)).await;
    for number in 0..1000 {
        let (key, owner) = (key(&format!("later {number}")), claim("a", 1000, 1000));
        let claimed = store.claim(&key, &owner).await;
        assert!(
            matches!(claimed, Ok(Claimed::New { .. })),
            "{number}: {claimed:?}"
        );
        let outcome = vec![0; 500].into();
        store.settle(&key, &owner, Some(&outcome)).await.expect("settled");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_instances_memory_vouches_for_nothing() {
    let store = MemoryDedup::of_one_instance();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let claimed = store
        .claim(&key("a"), &claim("a", 1000, 1000))
        .await
        .expect("claimed");
    assert_eq!(
        claimed,
        Claimed::New {
            memory: Duration::ZERO
        }
    );
    let found = store.look(&key("a")).await.expect("found").expect("stands");
    assert_eq!(found.state, EntryState::InProgress);
}
