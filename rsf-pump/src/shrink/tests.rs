//! Rule R by itself, on one service and one clock.

use super::*;

fn rule() -> ShrinkRule {
    let config = ShrinkConfig {
        enforced: true,
        lease_ttl: secs(15),
        share_percent: 20,
        window: secs(10),
        floor_percent: 50,
        max_hold: secs(300),
    };
    ShrinkRule::new(config, 2)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_an_earlier_leader_let_go_counts_in_the_window() {
    let mut rule = rule();
    rule.inherit(secs(100), "s", 17, &[secs(30), secs(6), secs(5)]);
    assert_eq!(rule.admit(secs(100), "s", 17, 5, 0), 1, "3 of 17, 2 are gone");
    rule.inherit(secs(100), "s", 16, &[]);
    assert_eq!(rule.admit(secs(100), "s", 16, 4, 0), 0, "it knows better");
    assert_eq!(rule.admit(secs(105), "s", 16, 4, 0), 2);
}

#[test]
fn what_was_let_go_here_hides_nothing_that_an_earlier_leader_let_go_later() {
    let mut standby = rule();
    assert_eq!(standby.admit(secs(100), "s", 10, 2, 0), 2);
    standby.inherit(secs(109), "s", 9, &[secs(2)]);
    assert_eq!(
        standby.admit(secs(109), "s", 9, 1, 0),
        0,
        "two were lost either way"
    );
    assert_eq!(standby.admit(secs(116), "s", 9, 1, 0), 0, "1 of 9, which is gone");
    assert_eq!(standby.admit(secs(117), "s", 9, 1, 0), 1);
}

#[test]
fn who_came_since_does_not_make_an_earlier_loss_smaller() {
    let (mut standby, mut fresh) = (rule(), rule());
    assert_eq!(standby.admit(secs(100), "s", 14, 1, 0), 1);
    assert_eq!(standby.admit(secs(100), "s", 13, 1, 0), 1);
    for rule in [&mut standby, &mut fresh] {
        // 12 were left, and one came: they were 14, not 15.
        rule.inherit(secs(105), "s", 13, &[secs(5), secs(5)]);
        assert_eq!(rule.admit(secs(107), "s", 13, 6, 0), 0, "2 of 14 are gone");
        assert_eq!(
            rule.holds(secs(107))[0].before,
            15,
            "half of all that were there stay"
        );
        assert_eq!(rule.admit(secs(110), "s", 13, 6, 0), 2, "they are over");
    }
}

#[test]
fn a_hold_goes_on_under_the_next_leader() {
    let mut former = rule();
    assert_eq!(former.admit(secs(1_000), "s", 20, 12, 0), 4);
    assert_eq!(former.take_changed_holds().len(), 1);
    let hold = former
        .published_hold(secs(1_100), 1_100_000, "s")
        .expect("it lasts");
    assert_eq!((hold.before, hold.since_unix_ms), (20, 1_000_000));
    assert!(former.published_hold(secs(1_100), 1_100_000, "t").is_none());

    let mut next = rule();
    next.inherit_hold(secs(2), "s", 20, secs(100));
    assert_eq!(next.published_hold(secs(2), 1_100_000, "s"), Some(hold));
    assert_eq!(next.holds(secs(2))[0].age_ms, 100_000);
    next.settle(secs(3), |_| true);
    assert!(next.is_held("s"), "who is missing cannot be judged yet");
    assert_eq!(next.admit(secs(17), "s", 11, 3, 0), 1, "half of 20 stay");
    assert_eq!(next.admit(secs(201), "s", 10, 2, 0), 0);
    assert_eq!(next.admit(secs(202), "s", 10, 2, 0), 2, "300 s in all");
    next.settle(secs(202), |_| true);
    assert!(next.is_held("s"), "others cannot be judged yet");
    next.settle(secs(203), |_| false);
    assert!(!next.is_held("s") && next.take_changed_holds().contains("s"));

    former.inherit_hold(secs(1_100), "s", 30, secs(150));
    let hold = former
        .published_hold(secs(1_100), 1_100_000, "s")
        .expect("it lasts");
    assert_eq!(
        (hold.before, hold.since_unix_ms),
        (30, 950_000),
        "the greater list, and the beginning that was published"
    );
    let mut back = rule();
    back.inherit_hold(secs(2), "s", 20, secs(100));
    back.settle(secs(3), |_| false);
    assert!(!back.is_held("s"), "all of them are back");
}

#[test]
fn losses_from_before_this_process_count_no_longer_than_others() {
    let mut young = rule();
    young.inherit(secs(2), "s", 16, &[secs(7_200), secs(8), secs(8)]);
    assert_eq!(young.admit(secs(2), "s", 16, 3, 0), 1, "3 of 16, 2 are gone");
    assert_eq!(young.admit(secs(4), "s", 15, 3, 0), 2, "those two are over");
}

#[test]
fn a_hold_of_ones_own_does_not_make_a_published_one_older() {
    let mut standby = rule();
    standby.admit(secs(100), "s", 20, 12, 0);
    // An operator ended the leader's hold then, and it began another one.
    standby.inherit_hold(secs(1_000), "s", 20, secs(10));
    assert_eq!(standby.holds(secs(1_000))[0].age_ms, 10_000);
    assert_eq!(standby.admit(secs(1_001), "s", 10, 2, 0), 0, "it lasts");
}

#[test]
fn a_published_hold_of_more_than_any_list_has_is_bounded() {
    let mut rule = rule();
    rule.inherit_hold(secs(2), "s", usize::MAX, secs(1));
    assert_eq!(rule.holds(secs(2))[0].before, 20_000);
}

#[test]
fn a_fifth_goes_at_once_and_the_rest_is_held_at_half() {
    let mut rule = rule();
    assert_eq!(rule.admit(secs(0), "s", 20, 12, 0), 4);
    assert_eq!(rule.admit(secs(5), "s", 16, 8, 0), 0);
    assert_eq!(rule.admit(secs(10), "s", 16, 8, 0), 3);
    assert_eq!(rule.admit(secs(20), "s", 13, 5, 0), 2);
    assert_eq!(rule.admit(secs(30), "s", 11, 3, 0), 1, "half of 20 stays");
    assert_eq!(rule.admit(secs(299), "s", 10, 2, 0), 0);
    let holds = rule.holds(secs(299));
    assert_eq!(
        (holds[0].held, holds[0].before, holds[0].releasing),
        (2, 20, false)
    );
    assert_eq!(
        rule.admit(secs(300), "s", 10, 2, 0),
        2,
        "its time is over: 20 % of 10 a window"
    );
}

#[test]
fn one_instance_may_always_go() {
    let mut rule = rule();
    for (second, listed) in [(0, 3), (10, 2), (20, 1)] {
        assert_eq!(rule.admit(secs(second), "s", listed, 1, 0), 1);
    }
    assert!(rule.holds(secs(20)).is_empty());
}

#[test]
fn an_operator_ends_a_hold_at_once() {
    let mut rule = rule();
    rule.admit(secs(0), "s", 20, 20, 0);
    assert_eq!(rule.end_hold(Some("other")), 0);
    assert_eq!(rule.end_hold(None), 1);
    assert_eq!(rule.admit(secs(1), "s", 16, 16, 0), 16);
    assert!(rule.holds(secs(1)).is_empty());
}

#[test]
fn who_answers_is_kept_until_an_operator_says_otherwise() {
    let mut rule = rule();
    assert_eq!(rule.admit(secs(0), "s", 20, 12, 0), 4);
    assert_eq!(rule.admit(secs(10), "s", 16, 5, 3), 3);
    assert_eq!(
        rule.admit(secs(400), "s", 13, 0, 5),
        0,
        "its time is over, and it answers"
    );
    rule.settle(secs(400), |_| true);
    let holds = rule.holds(secs(400));
    assert_eq!((holds[0].held, holds[0].answering), (5, 5));
    assert_eq!(rule.end_hold(None), 1);
    assert_eq!(rule.admit(secs(401), "s", 13, 0, 5), 5);
}

#[test]
fn a_hold_ends_when_nothing_is_missing() {
    let mut rule = rule();
    rule.admit(secs(0), "s", 20, 20, 0);
    rule.settle(secs(1), |_| true);
    assert_eq!(rule.holds(secs(1)).len(), 1);
    rule.settle(secs(2), |_| false);
    assert!(rule.holds(secs(2)).is_empty());
    assert_eq!(rule.holds_begun(), 1);
}

#[test]
fn interruptions_cannot_stop_expiry_for_ever() {
    let mut rule = rule();
    let mut refused = false;
    for second in (0..400).step_by(10) {
        refused |= !rule.discontinuity(1, secs(second), Discontinuity::Interrupted);
    }
    assert!(refused);
    assert!(rule.trusts(1, secs(400), secs(15)));
    assert!(rule.discontinuity(1, secs(400), Discontinuity::SourceChanged));
    assert!(!rule.trusts(1, secs(414), secs(15)));
    assert!(
        !rule.trusts(1, secs(429), secs(30)),
        "a longer lease has a longer grace"
    );
    assert!(rule.trusts(1, secs(415), secs(15)));
}

#[test]
fn interruptions_are_counted_anew_from_the_last_loss_on() {
    let mut rule = rule();
    for second in (0..300).step_by(10) {
        rule.discontinuity(0, secs(second), Discontinuity::Interrupted);
    }
    assert!(rule.discontinuity(0, secs(300), Discontinuity::SourceChanged));
    assert!(rule.discontinuity(0, secs(310), Discontinuity::Interrupted));
    assert!(
        !rule.trusts(0, secs(324), secs(15)),
        "who it lost had no chance to come back"
    );
    for second in (320..=600).step_by(10) {
        assert!(rule.discontinuity(0, secs(second), Discontinuity::Interrupted));
    }
    assert!(!rule.discontinuity(0, secs(610), Discontinuity::Interrupted));
}

#[test]
fn one_sources_fault_is_not_anothers() {
    let mut rule = rule();
    assert!(!rule.trusts(0, secs(0), secs(15)), "it was never read");
    for source in [0, 1] {
        rule.discontinuity(source, secs(0), Discontinuity::Started);
    }
    rule.silent(1);
    assert!(rule.trusts(0, secs(15), secs(15)) && !rule.trusts(1, secs(15), secs(15)));
    assert!(!rule.trusts_all(secs(15), secs(15)));
    rule.answered(1);
    rule.discontinuity(0, secs(15), Discontinuity::Vanished);
    assert!(!rule.trusts(0, secs(29), secs(15)) && rule.trusts(1, secs(29), secs(15)));
    assert!(rule.trusts_all(secs(30), secs(15)));
}
