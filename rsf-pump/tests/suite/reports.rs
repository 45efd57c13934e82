//! Rule R with what consumers report, where the instances themselves cannot be asked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus::Registry;
use rsf_pump::{ConsumerReports, PumpSettings};
use rsf_registry::record::{Report, ReportFinding};
use rsf_registry::{ReportSource, Reported, StoreError};

use crate::twin::lease;
use crate::world::{Running, World, secs, until};

const SECOND: Duration = Duration::from_secs(1);
const ONE: &[&str] = &["order/1"];
const TWO: &[&str] = &["order/1", "stock/1"];

/// What consumers said last.
#[derive(Default)]
struct Consumers {
    said: Mutex<BTreeMap<String, Vec<Report>>>,
}

impl Consumers {
    fn say(&self, reporters: &[&str], instances: Range<usize>, finding: ReportFinding) {
        let mut said = self.said.lock();
        for lease in instances.map(|index| lease("s", index)) {
            let report = |reporter: &&str| Report {
                instance: lease.instance.clone(),
                incarnation: lease.incarnation,
                finding: finding.into(),
                reporter: (*reporter).to_owned(),
            };
            said.insert(lease.instance.clone(), reporters.iter().map(report).collect());
        }
    }

    fn fall_silent(&self) {
        self.said.lock().clear();
    }
}

#[async_trait]
impl ReportSource for Consumers {
    async fn reports(&self, instances: &[String]) -> Result<Reported, StoreError> {
        let said = self.said.lock();
        let of = |instance: &String| said.get(instance).cloned().unwrap_or_default();
        Ok(Reported {
            reports: instances.iter().flat_map(of).collect(),
            ill_formed: 0,
        })
    }
}

/// A hundred instances, a pump that reads what their consumers say, and whose probes no host answers.
async fn reporting(settings: PumpSettings) -> (World, Running, Arc<Consumers>) {
    let mut world = World::new();
    world.fleet.start("s", 100);
    world.fleet.hosts().cut_off();
    let consumers = Arc::new(Consumers::default());
    let reports = ConsumerReports::new(consumers.clone(), &Registry::new()).expect("a fresh registry");
    let pump = world.start(settings, |pump| {
        let pump = pump.with_evidence(world.fleet.hosts());
        pump.with_evidence(Arc::new(reports))
    });
    secs(20).await;
    assert_eq!(world.directory.len("s"), 100);
    (world, pump, consumers)
}

fn evidence(pump: &Running, kind: &str, finding: &str) -> u64 {
    pump.handle.status().counters.evidence[kind][finding]
}

#[tokio::test(start_paused = true)]
async fn who_answers_its_consumers_stays_past_every_hold_and_until_they_fall_silent() {
    let (mut world, pump, consumers) = reporting(PumpSettings::default()).await;
    consumers.say(ONE, 0..60, ReportFinding::Answers);
    world.fleet.silence("s", 0..60);
    secs(900).await;
    let listed = world.directory.len("s");
    assert!(
        listed >= 80,
        "only the first fifth, before anybody was asked about"
    );
    let status = pump.handle.status();
    assert_eq!((status.holds.len(), status.holds[0].answering), (1, listed - 40));
    assert!(evidence(&pump, "reports", "answers") > 0);
    assert_eq!(evidence(&pump, "probe", "answers"), 0);
    assert!(evidence(&pump, "probe", "unclear") > 0);

    consumers.fall_silent();
    until(200 * SECOND, "without a word it ends by time", || {
        world.directory.len("s") == 40
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_their_reports_the_same_hold_ends_by_time() {
    for reports in [true, false] {
        let settings = PumpSettings {
            reports,
            ..PumpSettings::default()
        };
        let (mut world, pump, consumers) = reporting(settings).await;
        if !reports {
            consumers.say(ONE, 0..60, ReportFinding::Answers);
        }
        world.fleet.silence("s", 0..60);
        secs(600).await;
        assert_eq!(world.directory.len("s"), 40);
        assert_eq!(
            pump.handle.status().counters.evidence.contains_key("reports"),
            reports
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_consumers_that_are_refused_end_a_hold_early() {
    let (mut world, pump, consumers) = reporting(PumpSettings::default()).await;
    consumers.say(TWO, 0..60, ReportFinding::Gone);
    consumers.say(TWO, 60..100, ReportFinding::Answers);
    world.fleet.kill("s", 0..60);
    world.hold_ends_early(&pump, 40).await;
    assert!(evidence(&pump, "reports", "gone") > 0);
    assert_eq!(evidence(&pump, "probe", "gone"), 0);
}

#[tokio::test(start_paused = true)]
async fn one_consumer_or_such_as_see_everybody_gone_end_none() {
    for (reporters, living) in [(ONE, ReportFinding::Answers), (TWO, ReportFinding::Gone)] {
        let (mut world, pump, consumers) = reporting(PumpSettings::default()).await;
        consumers.say(reporters, 0..60, ReportFinding::Gone);
        consumers.say(reporters, 60..100, living);
        world.fleet.kill("s", 0..60);
        secs(200).await;
        assert_eq!(
            world.directory.len("s"),
            50,
            "half of the list stays: {reporters:?}, the living {living:?}"
        );
        assert_eq!(pump.handle.status().counters.probes["gone"], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_answered_outweighs_all_that_are_refused() {
    let (mut world, _pump, consumers) = reporting(PumpSettings::default()).await;
    consumers.say(TWO, 0..60, ReportFinding::Gone);
    for reports in consumers.said.lock().values_mut() {
        reports.push(Report {
            finding: ReportFinding::Answers.into(),
            reporter: "member/1".into(),
            ..reports[0].clone()
        });
    }
    world.fleet.silence("s", 0..60);
    secs(400).await;
    assert!(world.directory.len("s") >= 80);
}
