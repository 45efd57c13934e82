//! What an endpoint's measurements become with time, and what a glance tells of them.

use std::cell::Cell;

use super::*;
use crate::client::balance::aged::DECAY;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn failures_rise_with_failures_and_fade_with_time_and_answers() {
    let now = Moment::now();
    let vitals = Vitals::default();
    vitals.observe(now, ms(1), Observed::Answered);
    assert_eq!(vitals.failures(now), 0.0);
    for _ in 0..20 {
        vitals.observe(now, ms(1), Observed::Failed);
    }
    let risen = vitals.failures(now);
    assert!(risen > 0.85, "{risen}");
    let faded = vitals.failures(now + DECAY);
    assert!((faded / risen - 0.368).abs() < 0.01, "{faded}");
    for _ in 0..80 {
        vitals.observe(now, ms(1), Observed::Answered);
    }
    assert_eq!(vitals.failures(now), 0.0);
}

#[test]
fn a_peak_counts_at_once_and_the_mean_follows() {
    let mut now = Moment::now();
    let vitals = Vitals::default();
    for _ in 0..100 {
        now = now + ms(100);
        vitals.observe(now, ms(10), Observed::Answered);
    }
    vitals.observe(now, ms(500), Observed::Answered);
    assert_eq!(vitals.peak(now), 500_000.0);
    assert!(vitals.mean() < 15_000.0, "{}", vitals.mean());
    for _ in 0..300 {
        now = now + ms(100);
        vitals.observe(now, ms(500), Observed::Answered);
    }
    assert!(vitals.mean() > 450_000.0, "{}", vitals.mean());
    assert!(vitals.faded_mean(now + ms(30_000)) < 30_000.0);
}

#[test]
fn fast_failures_are_not_taken_for_speed() {
    let now = Moment::now();
    let vitals = Vitals::default();
    vitals.observe(now, ms(10), Observed::Answered);
    vitals.observe(now, Duration::ZERO, Observed::Refused);
    vitals.observe(now, Duration::ZERO, Observed::Failed);
    assert_eq!(vitals.mean(), 10_000.0);
}

#[test]
fn a_load_goes_stale_and_nonsense_is_not_taken() {
    let now = Moment::now();
    let vitals = Vitals::default();
    vitals.report_load(now, 0.75);
    vitals.report_load(now, f32::NAN);
    vitals.report_load(now, -1.0);
    let other = Vitals::default();
    other.report_load(now, -0.0);
    assert!(
        other.has_its_share(f32::INFINITY),
        "a negative nothing is nothing"
    );
    assert_eq!(vitals.load(now + LOAD_STALE), 0.75);
    assert_eq!(vitals.load(now + LOAD_STALE + ms(1)), 0.0);
}
#[test]
fn a_glance_tells_what_is_known_and_the_pending_calls_stay_theirs() {
    let now = Moment::now();
    let vitals = Vitals::default();
    let at_most = |trouble, slow_from| {
        let glance = vitals.glance(trouble);
        glance.is_plain(slow_from).then(|| glance.pending())
    };
    let glance = || at_most(0, f32::INFINITY);
    assert_eq!(glance(), None, "not connected");
    vitals.set_connected(true);
    vitals.enter();
    vitals.enter();
    assert_eq!(glance(), Some(2));
    assert_eq!(at_most(1, f32::INFINITY), None, "its breaker's trouble");
    vitals.report_load(now, 0.5);
    vitals.leave();
    assert_eq!((glance(), vitals.pending()), (None, 1));
    vitals.report_load(now, 0.05);
    assert_eq!(glance(), Some(1), "a load that counts nothing");
    vitals.begin_warm_up(now, Duration::ZERO);
    assert_eq!(glance(), None);
    vitals.end_warm_up();
    assert_eq!(glance(), Some(1));
    vitals.observe(now, ms(1), Observed::Failed);
    assert_eq!((glance(), vitals.has_its_share(f32::INFINITY)), (None, false));
    for _ in 0..100 {
        vitals.observe(now, ms(1), Observed::Answered);
    }
    assert_eq!(glance(), Some(1), "its failures are forgotten");
    assert_eq!(at_most(0, 999.0), None, "slow");
    assert_eq!(at_most(0, vitals.mean()), Some(1));
}

#[test]
fn whoever_changes_what_is_known_last_has_told_it() {
    for last in [true, false] {
        let vitals = Vitals::default();
        let (loaded, looks) = (Cell::new(!last), Cell::new(0));
        vitals.tell(known::LOADED, || {
            let seen = loaded.get();
            // Between the first look and the word about it somebody else changes it, and has told it.
            if looks.replace(looks.get() + 1) == 0 {
                loaded.set(last);
                vitals.tell(known::LOADED, || loaded.get());
            }
            seen
        });
        assert_eq!(vitals.has_its_share(f32::INFINITY), !last, "{last}");
        assert!(looks.get() > 1);
    }
}
