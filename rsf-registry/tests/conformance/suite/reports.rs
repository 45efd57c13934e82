//! Consumers' reports: who says what of which instance, kept for a while and never too many.

use std::time::Duration;

use rsf_registry::limits::{MAX_REPORTERS, MAX_REPORTS};
use rsf_registry::record::{Report, ReportFinding};
use rsf_registry::{ReportSource, StoreError};

use super::eventually;
use crate::fixture::Fixture;

const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn who_says_what_of_whom(fixture: &impl Fixture) {
    let (store, source) = (fixture.reports(), fixture.report_source());
    assert_eq!(said(&*source, &["member/1", "member/2"]).await, []);
    // Numbers that a double does not tell apart.
    let first = [
        answers("member/1", u64::MAX, "order/1"),
        gone("member/2", u64::MAX - 1, "order/1"),
    ];
    assert_eq!(store.report(&first, LONG).await.expect("report"), 2);
    let second = answers("member/1", 7, "stock/1");
    let kept = store.report(std::slice::from_ref(&second), LONG).await;
    assert_eq!(kept.expect("report"), 1);
    assert_eq!(
        said(&*source, &["member/2", "member/1", "member/3"]).await,
        [first[0].clone(), second, first[1].clone()]
    );
    assert_eq!(said(&*source, &["member/2"]).await, [first[1].clone()]);
    assert_eq!(said(&*source, &[]).await, []);
    assert_eq!(store.report(&[], LONG).await.expect("nothing is no error"), 0);
}

pub(crate) async fn a_reporters_last_word_counts(fixture: &impl Fixture) {
    let (store, source) = (fixture.reports(), fixture.report_source());
    for report in [
        gone("member/1", 1, "order/1"),
        answers("member/1", 1, "order/1"),
        answers("member/1", 2, "order/1"),
    ] {
        let one = std::slice::from_ref(&report);
        assert_eq!(store.report(one, LONG).await.expect("report"), 1);
        assert_eq!(said(&*source, &["member/1"]).await, [report]);
    }
}

pub(crate) async fn an_instance_has_so_many_reporters_and_no_more(fixture: &impl Fixture) {
    let (store, source) = (fixture.reports(), fixture.report_source());
    let report = async |report: Report| store.report(&[report], LONG).await.expect("report");
    for reporter in 0..MAX_REPORTERS {
        let finding = if reporter < 2 { gone } else { answers };
        let kept = report(finding("member/1", 1, &format!("order/{reporter}"))).await;
        assert_eq!(kept, 1, "{reporter}");
    }
    assert_eq!(report(gone("member/1", 1, "stock/1")).await, 0, "no place");
    assert_eq!(report(gone("member/1", 1, "order/0")).await, 1, "it has one");
    // One that says that it answers is believed alone: it finds a place while one is taken by less.
    for reporter in ["stock/1", "stock/2"] {
        assert_eq!(report(answers("member/1", 1, reporter)).await, 1, "{reporter}");
    }
    assert_eq!(report(answers("member/1", 1, "stock/3")).await, 0, "no place");
    let held = said(&*source, &["member/1"]).await;
    assert_eq!(held.len(), MAX_REPORTERS);
    assert!(
        held.iter()
            .all(|report| report.finding() == ReportFinding::Answers),
        "{held:?}"
    );
    // Others are not in each other's way, and of one message each finds its own place.
    let two = [
        answers("member/1", 1, "stock/3"),
        answers("member/2", 1, "stock/3"),
    ];
    assert_eq!(store.report(&two, LONG).await.expect("report"), 1);
}

pub(crate) async fn reports_run_out(fixture: &impl Fixture) {
    let (store, source) = (fixture.reports(), fixture.report_source());
    let report = async |report: Report, ttl: Duration| store.report(&[report], ttl).await.expect("report");
    for reporter in 0..MAX_REPORTERS {
        let name = format!("order/{reporter}");
        let ttl = if reporter == 0 {
            LONG
        } else {
            Duration::from_secs(1)
        };
        report(answers("member/1", 1, &name), ttl).await;
    }
    eventually("the short ones run out", async || {
        (said(&*source, &["member/1"]).await.len() == 1).then_some(())
    })
    .await;
    for reporter in 1..MAX_REPORTERS {
        let kept = report(answers("member/1", 2, &format!("stock/{reporter}")), LONG).await;
        assert_eq!(kept, 1, "what has run out is in nobody's way");
    }
    assert_eq!(said(&*source, &["member/1"]).await.len(), MAX_REPORTERS);
}

pub(crate) async fn bad_reports_are_refused(fixture: &impl Fixture) {
    let (store, source) = (fixture.reports(), fixture.report_source());
    let good = answers("member/1", 1, "order/1");
    let of = |instance: &str| vec![good.clone(), answers(instance, 1, "order/1")];
    let unspecified = Report {
        finding: 0,
        ..good.clone()
    };
    let unknown = Report {
        finding: 77,
        ..good.clone()
    };
    let many: Vec<_> = (0..=MAX_REPORTS)
        .map(|n| answers(&format!("m/{n}"), 1, "order/1"))
        .collect();
    for (bad, why) in [
        (of(""), "empty"),
        (of(&"x".repeat(201)), "longer"),
        (of("a\nb"), "control"),
        (vec![answers("member/1", 1, "")], "reporter"),
        (
            vec![good.clone(), answers("member/2", 1, "order/2")],
            "one reporter",
        ),
        (vec![answers("member/1", 0, "order/1")], "incarnation"),
        (vec![unspecified], "answers"),
        (vec![unknown], "answers"),
        (many, "at most 64"),
    ] {
        match store.report(&bad, LONG).await {
            Err(StoreError::Invalid { reason, .. }) => assert!(reason.contains(why), "{why}: {reason}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    let never = store.report(&of("member/2"), Duration::ZERO).await;
    assert!(matches!(never, Err(StoreError::Invalid { .. })), "{never:?}");
    assert_eq!(
        said(&*source, &["member/1", "member/2"]).await,
        [],
        "nothing of them was kept"
    );
}

/// All that is said of these, by instance and reporter.
async fn said(source: &dyn ReportSource, instances: &[&str]) -> Vec<Report> {
    let instances: Vec<String> = instances.iter().map(|&instance| instance.to_owned()).collect();
    let mut read = source.reports(&instances).await.expect("reports");
    assert_eq!(read.ill_formed, 0);
    read.reports
        .sort_by(|a, b| (&a.instance, &a.reporter).cmp(&(&b.instance, &b.reporter)));
    read.reports
}

fn answers(instance: &str, incarnation: u64, reporter: &str) -> Report {
    Report {
        instance: instance.into(),
        incarnation,
        finding: ReportFinding::Answers.into(),
        reporter: reporter.into(),
    }
}

fn gone(instance: &str, incarnation: u64, reporter: &str) -> Report {
    Report {
        finding: ReportFinding::Gone.into(),
        ..answers(instance, incarnation, reporter)
    }
}
