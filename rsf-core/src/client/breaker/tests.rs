//! What ejects an instance, for how long, and what brings it back.

use super::*;

fn group(members: usize) -> Arc<BreakerGroup> {
    let group = BreakerGroup::new(
        Rules::default(),
        prometheus::IntCounter::new("opened", "opened").unwrap(),
    );
    group.update(Rules::default(), members);
    group
}

fn fail(breaker: &NodeBreaker, times: u32) {
    for _ in 0..times {
        let now = Moment::now();
        breaker.failed(&mut breaker.admit(now), Failure::Error, now);
    }
}

fn ruled(rules: Rules, members: usize) -> Arc<BreakerGroup> {
    let group = group(members);
    group.update(rules, members);
    group
}

/// How long the breaker stays open from now on, in milliseconds.
fn left(breaker: &NodeBreaker) -> u64 {
    let until = breaker.state.lock().open_until;
    until.map_or(0, |until| until.since(Moment::now()).as_millis() as u64)
}

/// Opens, waits for the end of the ejection, and passes the trial. Returns the ejection's length.
async fn eject_and_recover(breaker: &NodeBreaker) -> u64 {
    fail(breaker, 5);
    let length = left(breaker);
    tokio::time::advance(Duration::from_millis(length + 1)).await;
    breaker.succeeded(&mut breaker.admit(Moment::now()));
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
    length
}

fn is_about(length: u64, wanted: u64) -> bool {
    (wanted * 8 / 10 - 1..=wanted * 12 / 10).contains(&length)
}

#[tokio::test(start_paused = true)]
async fn opens_after_failures_in_a_row_and_closes_after_a_good_trial() {
    let breaker = NodeBreaker::new(group(3));
    fail(&breaker, 4);
    breaker.succeeded(&mut breaker.admit(Moment::now()));
    fail(&breaker, 4);
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
    fail(&breaker, 1);
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
    tokio::time::advance(Duration::from_millis(6001)).await;
    assert_eq!(breaker.standing(Moment::now()), Standing::HalfOpen);
    let mut trial = breaker.admit(Moment::now());
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
    breaker.succeeded(&mut trial);
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_failed_trial_opens_for_longer_and_a_neutral_one_lets_the_next_try() {
    let breaker = NodeBreaker::new(group(3));
    fail(&breaker, 5);
    tokio::time::advance(Duration::from_millis(6001)).await;
    breaker.release(&mut breaker.admit(Moment::now()));
    assert_eq!(breaker.standing(Moment::now()), Standing::HalfOpen);
    fail(&breaker, 1);
    tokio::time::advance(Duration::from_millis(6001)).await;
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
    tokio::time::advance(Duration::from_millis(6000)).await;
    assert_eq!(breaker.standing(Moment::now()), Standing::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn at_most_a_share_is_open() {
    let group = group(4);
    let breakers: Vec<_> = (0..4).map(|_| NodeBreaker::new(group.clone())).collect();
    breakers.iter().for_each(|breaker| fail(breaker, 10));
    let open = |breakers: &[NodeBreaker]| {
        breakers
            .iter()
            .filter(|b| b.standing(Moment::now()) == Standing::Open)
            .count()
    };
    assert_eq!(open(&breakers), 2);
    let kept: Vec<_> = breakers.into_iter().skip(2).collect();
    kept.iter().for_each(|breaker| fail(breaker, 1));
    assert_eq!(open(&kept), 2, "an instance that leaves the list frees its place");
}

#[test]
fn the_share_leaves_one_and_takes_one() {
    for (members, percent, most) in [
        (0, 50, 0),
        (1, 50, 0),
        (1, 100, 0),
        (2, 50, 1),
        (2, 10, 1),
        (2, 100, 1),
        (2, 0, 0),
        (3, 50, 1),
        (3, 67, 2),
        (4, 50, 2),
        (10, 10, 1),
        (10, 19, 1),
        (10, 20, 2),
        (1000, 33, 330),
    ] {
        assert_eq!(most_open(members, percent), most, "{percent} % of {members}");
    }
}

#[tokio::test(start_paused = true)]
async fn growth_outlives_a_success_and_decays_by_steps() {
    let breaker = NodeBreaker::new(group(3));
    assert!(is_about(eject_and_recover(&breaker).await, 5_000));
    assert!(is_about(eject_and_recover(&breaker).await, 10_000));
    let third = eject_and_recover(&breaker).await;
    assert!(is_about(third, 15_000), "{third}");
    // Two steps of ten seconds without an ejection.
    tokio::time::advance(Duration::from_secs(25)).await;
    let fourth = eject_and_recover(&breaker).await;
    assert!(is_about(fourth, 10_000), "{fourth}");
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(is_about(eject_and_recover(&breaker).await, 5_000));
}

#[tokio::test(start_paused = true)]
async fn growth_ends_and_keeps_no_more_steps_than_it_uses() {
    let rules = Rules {
        max_ejection_ms: 8_000,
        ..Rules::default()
    };
    let breaker = NodeBreaker::new(ruled(rules, 3));
    for _ in 0..10 {
        assert!(eject_and_recover(&breaker).await <= 9_600);
    }
    assert_eq!(breaker.state.lock().steps, 2);
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_trials() {
    let mut lengths: Vec<u64> = Vec::new();
    for _ in 0..200 {
        let breaker = NodeBreaker::new(group(3));
        fail(&breaker, 5);
        lengths.push(left(&breaker));
    }
    lengths.sort_unstable();
    assert!(lengths[0] < 4_200 && lengths[199] > 5_800, "{lengths:?}");
    assert!(lengths[0] >= 3_999 && lengths[199] <= 6_000, "{lengths:?}");
}

#[tokio::test(start_paused = true)]
async fn three_timeouts_eject_and_two_do_not() {
    let breaker = NodeBreaker::new(group(2));
    let timeout = |breaker: &NodeBreaker| {
        let now = Moment::now();
        breaker.failed(&mut breaker.admit(now), Failure::Timeout, now);
    };
    timeout(&breaker);
    timeout(&breaker);
    breaker.succeeded(&mut breaker.admit(Moment::now()));
    timeout(&breaker);
    timeout(&breaker);
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
    timeout(&breaker);
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
}

#[tokio::test(start_paused = true)]
async fn busy_counts_only_where_policy_says_so() {
    let refuse = |breaker: &NodeBreaker, times| {
        for _ in 0..times {
            let now = Moment::now();
            breaker.failed(&mut breaker.admit(now), Failure::Busy, now);
        }
    };
    let breaker = NodeBreaker::new(group(2));
    refuse(&breaker, 1000);
    assert!(!breaker.is_troubled(), "it costs nothing");
    let rules = Rules {
        consecutive_busy: Some(4),
        ..Rules::default()
    };
    let breaker = NodeBreaker::new(ruled(rules, 2));
    refuse(&breaker, 3);
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
    refuse(&breaker, 1);
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
}

#[tokio::test(start_paused = true)]
async fn a_busy_trial_waits_again_without_growth() {
    let breaker = NodeBreaker::new(group(2));
    fail(&breaker, 5);
    for _ in 0..5 {
        tokio::time::advance(Duration::from_millis(left(&breaker) + 1)).await;
        let now = Moment::now();
        breaker.failed(&mut breaker.admit(now), Failure::Busy, now);
        assert_eq!(breaker.standing(now), Standing::Open);
        assert!(is_about(left(&breaker), 5_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_from_before_the_ejection_proves_nothing() {
    let breaker = NodeBreaker::new(group(2));
    let mut earlier = breaker.admit(Moment::now());
    fail(&breaker, 5);
    breaker.succeeded(&mut earlier);
    assert_eq!(breaker.standing(Moment::now()), Standing::Open);
    // Where there was no better instance, a success does.
    breaker.succeeded(&mut breaker.admit(Moment::now()));
    assert_eq!(breaker.standing(Moment::now()), Standing::Closed);
    assert_eq!(breaker.group.shared.lock().open, 0);
}
