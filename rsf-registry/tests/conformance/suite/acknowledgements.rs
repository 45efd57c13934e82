//! Acknowledgements: which instance runs which revision.

use std::time::Duration;

use rsf_registry::record::Acknowledgement;

use super::eventually;
use crate::fixture::Fixture;

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn by_scope(fixture: &impl Fixture) {
    let acknowledgements = fixture.acknowledgements();
    let of = async |scope: &str| {
        let mut found = acknowledgements.acknowledged(scope).await.expect("acknowledged");
        found.sort_by(|a, b| a.instance.cmp(&b.instance));
        found
    };
    assert_eq!(of("fleet").await, []);
    let (one, two) = (
        acknowledgement("member/1", "fleet", 1, 3),
        acknowledgement("member/2", "fleet", 1, 2),
    );
    let other = acknowledgement("member/1", "service/a.A:gold", 1, 4);
    acknowledgements
        .acknowledge(&[one.clone(), other.clone()], LONG)
        .await
        .expect("acknowledge");
    acknowledgements
        .acknowledge(std::slice::from_ref(&two), LONG)
        .await
        .expect("acknowledge");
    assert_eq!(of("fleet").await, [one, two]);
    assert_eq!(of("service/a.A:gold").await, [other]);
    assert_eq!(of("service/a.A").await, []);
    acknowledgements
        .acknowledge(&[], LONG)
        .await
        .expect("nothing is no error");
}

pub(crate) async fn last_one_counts(fixture: &impl Fixture) {
    let acknowledgements = fixture.acknowledgements();
    let mut refused = acknowledgement("member/1", "fleet", 1, 4);
    refused.refusal = "unknown field `timout`".into();
    for acknowledgement in [acknowledgement("member/1", "fleet", 1, 3), refused.clone()] {
        acknowledgements
            .acknowledge(&[acknowledgement], LONG)
            .await
            .expect("acknowledge");
    }
    assert_eq!(
        acknowledgements
            .acknowledged("fleet")
            .await
            .expect("acknowledged"),
        [refused]
    );
    let restarted = acknowledgement("member/1", "fleet", 2, 4);
    acknowledgements
        .acknowledge(std::slice::from_ref(&restarted), LONG)
        .await
        .expect("acknowledge");
    assert_eq!(
        acknowledgements
            .acknowledged("fleet")
            .await
            .expect("acknowledged"),
        [restarted]
    );
}

pub(crate) async fn a_late_one_of_an_earlier_start_is_passed_over(fixture: &impl Fixture) {
    let acknowledgements = fixture.acknowledgements();
    let acknowledge = async |acknowledgement: &Acknowledgement, ttl: Duration| {
        let one = std::slice::from_ref(acknowledgement);
        acknowledgements.acknowledge(one, ttl).await.expect("acknowledge");
    };
    // Numbers that a double does not tell apart.
    let (late, now) = (
        acknowledgement("member/1", "fleet", u64::MAX - 1, 9),
        acknowledgement("member/1", "fleet", u64::MAX, 3),
    );
    acknowledge(&now, LONG).await;
    acknowledge(&late, LONG).await;
    let held = acknowledgements
        .acknowledged("fleet")
        .await
        .expect("acknowledged");
    assert_eq!(held, [now]);

    let short = acknowledgement("member/2", "service/a.A", 20, 3);
    let earlier = acknowledgement("member/2", "service/a.A", 10, 3);
    acknowledge(&short, Duration::from_secs(1)).await;
    let of_service = async || {
        acknowledgements
            .acknowledged("service/a.A")
            .await
            .expect("acknowledged")
    };
    eventually("the newer start's runs out", async || {
        of_service().await.is_empty().then_some(())
    })
    .await;
    acknowledge(&earlier, LONG).await;
    assert_eq!(
        of_service().await,
        [earlier],
        "what has run out is in nobody's way"
    );
}

pub(crate) async fn run_out(fixture: &impl Fixture) {
    let acknowledgements = fixture.acknowledgements();
    let (short, long) = (
        acknowledgement("member/1", "fleet", 1, 3),
        acknowledgement("member/2", "fleet", 1, 3),
    );
    acknowledgements
        .acknowledge(std::slice::from_ref(&long), LONG)
        .await
        .expect("acknowledge");
    acknowledgements
        .acknowledge(&[short], Duration::from_secs(1))
        .await
        .expect("acknowledge");
    let left = eventually("the short one runs out", async || {
        let left = acknowledgements
            .acknowledged("fleet")
            .await
            .expect("acknowledged");
        (left.len() < 2).then_some(left)
    })
    .await;
    assert_eq!(left, [long]);
}

fn acknowledgement(instance: &str, scope: &str, incarnation: u64, revision: u64) -> Acknowledgement {
    Acknowledgement {
        instance: instance.into(),
        incarnation,
        application: "member".into(),
        scope: scope.into(),
        revision,
        refusal: String::new(),
        at_unix_ms: 1,
    }
}
