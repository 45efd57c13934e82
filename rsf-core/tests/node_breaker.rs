//! The node breaker's policy, changed while calls run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rsf_core::message::Response;
use rsf_core::status::Status;
use support::{ECHO, Echo, Fleet, Node, Peer, counted, note};
use tokio::time::Instant;

const WELL: u32 = 0;
const FAILS: u32 = 1;
const SILENT: u32 = 2;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Instances whose health each test sets, and one consumer whose breakers it rules.
struct Rig {
    fleet: Fleet,
    health: Vec<Arc<AtomicU32>>,
    echoes: Vec<Arc<Echo>>,
    nodes: Vec<Node>,
    peer: Peer,
    revision: u64,
}

impl Rig {
    async fn of(instances: usize) -> Rig {
        fastrand::seed(3);
        let fleet = Fleet::in_test();
        let mut rig = Rig {
            peer: fleet.consumer(),
            fleet,
            health: Vec::new(),
            echoes: Vec::new(),
            nodes: Vec::new(),
            revision: 0,
        };
        for _ in 0..instances {
            rig.add();
        }
        rig.peer.connected(instances).await;
        rig
    }

    fn add(&mut self) {
        let health = Arc::new(AtomicU32::new(WELL));
        let echo = Echo::with({
            let health = health.clone();
            move |_, request| {
                let health = health.load(Ordering::Relaxed);
                async move {
                    match health {
                        FAILS => Err(Status::unavailable("as told")),
                        SILENT => std::future::pending().await,
                        _ => Ok(Response::new(request.into_inner())),
                    }
                }
            }
        });
        self.nodes.push(self.fleet.provide(echo.clone()));
        self.echoes.push(echo);
        self.health.push(health);
    }

    /// Publishes the breaker's rules, and waits until they are in force.
    async fn rule(&mut self, rules: &str) {
        self.govern(&format!(r#""node_breaker":{{{rules}}}"#)).await;
    }

    async fn govern(&mut self, call: &str) {
        self.revision += 1;
        let document = format!(r#"{{"call":{{"timeout_ms":300,"retry":{{"attempts":1}},{call}}}}}"#);
        self.fleet.govern(&self.peer, self.revision, &document).await;
    }

    fn set(&self, place: usize, health: u32) {
        self.health[place].store(health, Ordering::Relaxed);
    }

    fn open(&self) -> usize {
        let view = self.peer.channel.view();
        view.instances.iter().filter(|i| i.breaker == "open").count()
    }

    /// Calls until `until` holds; how many failed calls that took.
    async fn failures_until(&self, until: impl Fn(&Rig) -> bool) -> u32 {
        self.failures_apart(ms(0), until).await
    }

    /// The same with a pause before each call.
    async fn failures_apart(&self, pause: Duration, until: impl Fn(&Rig) -> bool) -> u32 {
        let mut failed = 0;
        for _ in 0..1000 {
            if until(self) {
                return failed;
            }
            tokio::time::advance(pause).await;
            failed += u32::from(self.peer.get(note("")).await.is_err());
        }
        panic!("not within 1000 calls");
    }

    /// How long the one ejected instance stays out, in milliseconds; it is well afterwards.
    async fn ejection(&self, sick: usize) -> u64 {
        self.set(sick, FAILS);
        self.failures_until(|rig| rig.open() == 1).await;
        self.set(sick, WELL);
        let begun = Instant::now();
        while self.open() == 1 {
            tokio::time::advance(ms(10)).await;
        }
        let length = begun.elapsed().as_millis() as u64;
        // The trial.
        let reached = self.echoes[sick].counts().began;
        while self.echoes[sick].counts().began == reached {
            self.peer.get(note("")).await.unwrap();
        }
        length
    }
}

fn is_about(length: u64, wanted: u64) {
    let near = wanted * 8 / 10 - 10..=wanted * 12 / 10 + 20;
    assert!(near.contains(&length), "{length} instead of {wanted} ± 20 %");
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_change_live() {
    let mut rig = Rig::of(2).await;
    for failures in [5, 2, 9] {
        rig.rule(&format!(
            r#""consecutive_failures":{failures},"ejection_ms":1000,"ejection_decay_ms":100"#
        ))
        .await;
        rig.set(0, FAILS);
        assert_eq!(rig.failures_until(|rig| rig.open() == 1).await, failures);
        rig.set(0, WELL);
        tokio::time::advance(ms(5000)).await;
        for _ in 0..20 {
            rig.peer.get(note("")).await.unwrap();
        }
        assert_eq!(rig.open(), 0);
    }
}

/// A stopped process answers nothing: three calls learn it, whatever other failures are allowed.
#[tokio::test(start_paused = true)]
async fn timeouts_change_live() {
    let mut rig = Rig::of(2).await;
    for timeouts in [3, 1, 4] {
        rig.rule(&format!(
            r#""consecutive_timeouts":{timeouts},"consecutive_failures":100,"ejection_ms":1000,"ejection_decay_ms":100"#
        ))
        .await;
        rig.set(0, SILENT);
        // So far apart that an instance that was slow once is tried again.
        let failures = rig.failures_apart(ms(1000), |rig| rig.open() == 1).await;
        assert_eq!(failures, timeouts);
        rig.set(0, WELL);
        tokio::time::advance(ms(5000)).await;
        for _ in 0..20 {
            rig.peer.get(note("")).await.unwrap();
        }
        assert_eq!(rig.open(), 0);
    }
}

/// RELIABILITY T24 without the process: a stopped provider under 100 calls a second is out within 2 s or three
/// timeouts.
#[tokio::test(start_paused = true)]
async fn a_silent_instance_is_out_within_two_seconds_under_load() {
    let mut rig = Rig::of(5).await;
    rig.govern(r#""node_breaker":{}"#).await;
    rig.set(0, SILENT);
    let begun = Instant::now();
    let mut calls = Vec::new();
    while rig.open() == 0 {
        calls.push(rig.peer.get(note("")).start());
        tokio::time::sleep(ms(10)).await;
        assert!(begun.elapsed() < ms(2000));
    }
    let reached = rig.echoes[0].counts().began;
    for _ in 0..100 {
        rig.peer.get(note("")).await.unwrap();
    }
    assert_eq!(rig.echoes[0].counts().began, reached);
}

#[tokio::test(start_paused = true)]
async fn busy_instances_stay_unless_policy_says_otherwise() {
    let mut rig = Rig::of(2).await;
    // Both refuse everything.
    let busy = r#""provider":{"concurrency":{"Get":0}}"#;
    let publish = async |rig: &mut Rig, rules: &str| {
        rig.revision += 1;
        let document = format!(
            r#"{{"call":{{"timeout_ms":300,"retry":{{"attempts":1}},"node_breaker":{{{rules}}}}},{busy}}}"#
        );
        rig.fleet.govern(&rig.peer, rig.revision, &document).await;
    };
    publish(&mut rig, "").await;
    rig.failures_until(|rig| counted(&rig.peer.registry, "rsf_call_errors_total", "provider_limit") == 100)
        .await;
    assert_eq!(rig.open(), 0);
    publish(&mut rig, r#""consecutive_busy":4"#).await;
    let failed = rig.failures_until(|rig| rig.open() == 1).await;
    assert!((4..=7).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn ejections_grow_decay_and_end_as_policy_says() {
    let mut rig = Rig::of(2).await;
    rig.rule(r#""ejection_ms":1000,"ejection_decay_ms":3600000"#)
        .await;
    is_about(rig.ejection(0).await, 1000);
    is_about(rig.ejection(0).await, 2000);
    is_about(rig.ejection(0).await, 3000);
    // Two steps of decay.
    rig.rule(r#""ejection_ms":1000,"ejection_decay_ms":10000"#).await;
    tokio::time::advance(ms(25_000)).await;
    is_about(rig.ejection(0).await, 2000);
    // Longer steps, and then a bound.
    rig.rule(r#""ejection_ms":4000,"ejection_decay_ms":3600000"#)
        .await;
    is_about(rig.ejection(0).await, 12_000);
    rig.rule(r#""ejection_ms":4000,"ejection_decay_ms":3600000,"max_ejection_ms":6000"#)
        .await;
    is_about(rig.ejection(0).await, 6000);
}

#[tokio::test(start_paused = true)]
async fn the_share_changes_live() {
    let mut rig = Rig::of(4).await;
    (0..4).for_each(|place| rig.set(place, FAILS));
    for (percent, open) in [(0, 0), (10, 1), (50, 2), (100, 3)] {
        rig.rule(&format!(
            r#""max_ejected_percent":{percent},"ejection_ms":600000,"max_ejection_ms":600000"#
        ))
        .await;
        for _ in 0..100 {
            rig.peer.get(note("")).await.unwrap_err();
        }
        assert_eq!(rig.open(), open, "{percent} % of 4");
    }
    let reached: u32 = rig.echoes.iter().map(|echo| echo.counts().began).sum();
    assert_eq!(reached, 400, "each call was tried");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_may_be_ejected_and_the_only_one_never() {
    let mut rig = Rig::of(2).await;
    rig.rule(r#""max_ejected_percent":50"#).await;
    (0..2).for_each(|place| rig.set(place, FAILS));
    for _ in 0..50 {
        rig.peer.get(note("")).await.unwrap_err();
    }
    assert_eq!(rig.open(), 1);
    let mut rig = Rig::of(1).await;
    rig.rule(r#""max_ejected_percent":100"#).await;
    rig.set(0, FAILS);
    for _ in 0..50 {
        rig.peer.get(note("")).await.unwrap_err();
    }
    assert_eq!(rig.open(), 0);
    assert_eq!(
        counted(&rig.peer.registry, "rsf_node_breaker_opened_total", ECHO),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn it_can_be_switched_off_and_on() {
    let mut rig = Rig::of(2).await;
    rig.rule(r#""enabled":false"#).await;
    rig.set(0, FAILS);
    for _ in 0..100 {
        let _ = rig.peer.get(note("")).await;
    }
    assert_eq!(rig.open(), 0);
    rig.rule(r#""enabled":true"#).await;
    assert_eq!(
        rig.failures_until(|rig| rig.open() == 1).await,
        1,
        "it has failed often enough by then"
    );
    rig.rule(r#""enabled":false"#).await;
    assert_eq!(rig.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_until_the_deadline_counts_whoever_looks_at_the_clock_first() {
    let mut rig = Rig::of(2).await;
    rig.rule(r#""enabled":true,"consecutive_timeouts":3,"consecutive_failures":100"#)
        .await;
    rig.set(0, SILENT);
    for _ in 0..100 {
        // The caller's own timer is set to the call's very end, and fires before the call's coarse one.
        let _ = tokio::time::timeout(ms(300), rig.peer.get(note("")).into_future()).await;
        if rig.open() == 1 {
            return;
        }
    }
    panic!("never ejected");
}
