//! The method breaker: what opens it, what it lets through, and policies that change meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::error::RpcError;
use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::status::{Code, Status};
use support::{Echo, Fleet, Node, Note, Peer, counted, note};

const GET: &str = "test.v1.Echo/Get";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One provider that does what each request says, and one consumer whose method breaker each test rules.
struct Rig {
    fleet: Fleet,
    echo: Arc<Echo>,
    _node: Node,
    peer: Peer,
    revision: u64,
}

/// Obeys the text: `fail`, `missing`, `panic`, `silent`, a number of milliseconds; anything else is echoed.
fn obedient() -> Arc<Echo> {
    Echo::with(|_, request| async move {
        match request.get_ref().text.as_str() {
            "fail" => return Err(Status::unavailable("as told")),
            "missing" => return Err(Status::not_found("as told")),
            "panic" => panic!("as told"),
            "silent" => std::future::pending().await,
            text => tokio::time::sleep(ms(text.parse().unwrap_or(0))).await,
        }
        Ok(Response::new(request.into_inner()))
    })
}

impl Rig {
    async fn with(rules: &str) -> Rig {
        let fleet = Fleet::in_test();
        let echo = obedient();
        let node = fleet.provide(echo.clone());
        let mut rig = Rig {
            peer: fleet.consumer(),
            fleet,
            echo,
            _node: node,
            revision: 0,
        };
        rig.rule(rules).await;
        rig.peer.connected(1).await;
        rig
    }

    /// Publishes the breaker's rules, and waits until they are in force.
    async fn rule(&mut self, rules: &str) {
        self.govern(&format!(r#""method_breaker":{{{rules}}}"#)).await;
    }

    async fn govern(&mut self, call: &str) {
        self.revision += 1;
        let document = format!(
            r#"{{"call":{{"timeout_ms":1000,"retry":{{"attempts":1}},"node_breaker":{{"enabled":false}},{call}}}}}"#
        );
        self.fleet.govern(&self.peer, self.revision, &document).await;
    }

    async fn get(&self, text: &str) -> Result<(), RpcError> {
        self.peer.get(note(text)).await.map(drop)
    }

    async fn repeat(&self, text: &str, times: u32) {
        for _ in 0..times {
            let _ = self.get(text).await;
        }
    }

    /// Whether the next call is refused by the breaker. It reaches the provider otherwise, and succeeds.
    async fn is_open(&self) -> bool {
        match self.get("").await {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.reason(), Reason::BreakerOpen, "{error}");
                true
            }
        }
    }

    /// Good calls that push earlier bad ones out of sight.
    async fn forget(&mut self) {
        self.rule(r#""enabled":false"#).await;
    }

    /// 0 closed, 1 half-open, 2 open: the metric, which the view must confirm.
    fn state(&self) -> u64 {
        let state = counted(&self.peer.registry, "rsf_method_breaker_state", GET);
        let view = self.peer.channel.view();
        let wanted = ["closed", "half-open", "open"][state as usize];
        assert_eq!(
            view.method_breakers.get("Get").copied().unwrap_or("closed"),
            wanted
        );
        state
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_method_is_not_called_until_trials_go_well() {
    let rig = Rig::with(r#""enabled":true,"min_calls":10"#).await;
    rig.repeat("", 5).await;
    rig.repeat("fail", 4).await;
    assert_eq!(rig.state(), 0);
    rig.repeat("fail", 1).await;
    assert_eq!(rig.state(), 2);
    let reached = rig.echo.counts().began;
    tokio::time::advance(ms(1000)).await;
    let error = rig.get("").await.unwrap_err();
    assert_eq!(
        (error.reason(), error.code(), error.may_have_run()),
        (Reason::BreakerOpen, Code::Unavailable, false)
    );
    assert!(error.attempts().is_empty());
    assert_eq!(
        error.message(),
        "/test.v1.Echo/Get: the method's breaker is open for another 4000 ms, because 5 of 10 calls failed within \
         10000 ms; not sent (`method_breaker` of service/test.v1.Echo@1)"
    );
    assert_eq!(rig.echo.counts().began, reached, "it reached no provider");
    assert_eq!(counted(&rig.peer.registry, "rsf_client_retries_total", ""), 0);
    rig.peer.put(note("")).await.unwrap();
    // Three trials at once, and no more.
    tokio::time::advance(ms(4000)).await;
    let reached = rig.echo.counts().began;
    let calls: Vec<_> = (0..20).map(|_| rig.peer.get(note("50")).start()).collect();
    let results = futures_util::future::join_all(calls).await;
    let (passed, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((passed.len(), refused.len()), (3, 17));
    for error in refused.into_iter().filter_map(Result::err) {
        assert_eq!(error.reason(), Reason::BreakerOpen);
        assert!(
            error
                .message()
                .contains("half-open until its 3 trials have ended"),
            "{error}"
        );
    }
    assert_eq!(rig.echo.counts().began, reached + 3);
    assert_eq!(rig.state(), 0);
    rig.repeat("fail", 9).await;
    assert_eq!(rig.state(), 0, "the window is new");
    assert_eq!(
        counted(&rig.peer.registry, "rsf_method_breaker_opened_total", GET),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn failed_trials_open_it_again() {
    let rig = Rig::with(r#""enabled":true,"min_calls":4"#).await;
    rig.repeat("fail", 4).await;
    for round in 2..5 {
        tokio::time::advance(ms(5000)).await;
        let reached = rig.echo.counts().began;
        rig.repeat("fail", 10).await;
        assert_eq!(
            rig.echo.counts().began,
            reached + 2,
            "the second of three decided"
        );
        assert_eq!(
            counted(&rig.peer.registry, "rsf_method_breaker_opened_total", GET),
            round
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_counts_is_what_the_outcome_table_says() {
    for (text, counts) in [
        ("fail", true),
        ("panic", true),
        ("silent", true),
        ("missing", false),
        ("", false),
    ] {
        let rig = Rig::with(r#""enabled":true,"min_calls":5"#).await;
        rig.repeat(text, 5).await;
        assert_eq!(rig.is_open().await, counts, "`{text}`");
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_about_the_method_counts_for_nothing() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":5"#).await;
    // Given up by the caller, and with too little time for anybody to answer.
    for _ in 0..10 {
        let waiting = tokio::time::timeout(ms(500), rig.peer.get(note("silent")));
        assert!(waiting.await.is_err());
        let hasty = rig.peer.get(note("silent")).timeout(ms(50)).await;
        assert_eq!(hasty.unwrap_err().reason(), Reason::Deadline);
    }
    assert!(!rig.is_open().await);
    // Nothing was sent: no instance, and the consumer's own limit.
    rig.govern(r#""limit":{"concurrency":0},"method_breaker":{"enabled":true,"min_calls":1}"#)
        .await;
    rig.repeat("", 10).await;
    rig.rule(r#""enabled":true,"min_calls":1"#).await;
    let listed = rig._node.instance.clone();
    rig.fleet.list(Vec::clear);
    support::eventually("the list is empty", || {
        rig.peer.channel.view().instances.is_empty()
    })
    .await;
    for _ in 0..10 {
        assert_eq!(rig.get("").await.unwrap_err().reason(), Reason::NoInstance);
    }
    assert_eq!(rig.state(), 0);
    // A trial that says nothing leaves its place to another one.
    rig.fleet.list(|instances| instances.push(listed));
    rig.peer.connected(1).await;
    rig.repeat("fail", 5).await;
    rig.rule(r#""enabled":true,"half_open_calls":1"#).await;
    assert!(rig.is_open().await);
    tokio::time::advance(ms(5000)).await;
    let trial = rig.peer.get(note("silent")).start();
    rig.echo
        .seen()
        .until("the trial is there", |counts| {
            counts.began - counts.ended - counts.dropped == 1
        })
        .await;
    assert!(rig.is_open().await);
    drop(trial);
    rig.echo
        .seen()
        .until("the trial is gone", |counts| {
            counts.began == counts.ended + counts.dropped
        })
        .await;
    assert!(!rig.is_open().await);
    assert_eq!(rig.state(), 0, "and that one closed it");
}

#[tokio::test(start_paused = true)]
async fn its_state_outlives_snapshots_and_ends_with_enabled() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4"#).await;
    rig.repeat("fail", 4).await;
    assert!(rig.is_open().await);
    let _second = rig.fleet.provide(Echo::plain());
    rig.peer.connected(2).await;
    rig.rule(r#""enabled":true,"min_calls":5,"window_ms":3000"#).await;
    assert!(rig.is_open().await);
    rig.rule(r#""enabled":false"#).await;
    assert!(!rig.is_open().await);
    assert_eq!(rig.state(), 0);
    rig.rule(r#""enabled":true,"min_calls":4"#).await;
    assert!(!rig.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn volume_and_ratio_change_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":20"#).await;
    rig.repeat("fail", 10).await;
    assert!(!rig.is_open().await, "too few calls");
    rig.rule(r#""enabled":true,"min_calls":12"#).await;
    rig.repeat("fail", 1).await;
    assert!(rig.is_open().await);
    rig.forget().await;
    rig.rule(r#""enabled":true,"min_calls":10,"error_percent":80"#)
        .await;
    rig.repeat("", 5).await;
    rig.repeat("fail", 5).await;
    assert!(!rig.is_open().await);
    rig.rule(r#""enabled":true,"min_calls":10,"error_percent":50"#)
        .await;
    rig.repeat("fail", 1).await;
    assert!(rig.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn slow_calls_change_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4"#).await;
    rig.repeat("200", 4).await;
    assert!(!rig.is_open().await);
    rig.rule(r#""enabled":true,"min_calls":4,"slow_call_ms":300"#)
        .await;
    rig.repeat("200", 8).await;
    assert!(!rig.is_open().await);
    rig.forget().await;
    rig.rule(r#""enabled":true,"min_calls":4,"slow_call_ms":150,"slow_percent":75"#)
        .await;
    rig.repeat("", 2).await;
    rig.repeat("200", 2).await;
    assert!(!rig.is_open().await, "2 of 4");
    rig.rule(r#""enabled":true,"min_calls":4,"slow_call_ms":150,"slow_percent":50"#)
        .await;
    rig.repeat("200", 2).await;
    let error = rig.get("").await.unwrap_err();
    assert!(
        error
            .message()
            .contains("because 3 of 6 calls took 150 ms or longer"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_window_changes_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4,"window_ms":1000"#).await;
    let spread = async |rig: &Rig| {
        for _ in 0..4 {
            rig.repeat("fail", 1).await;
            tokio::time::advance(ms(500)).await;
        }
    };
    spread(&rig).await;
    assert!(!rig.is_open().await, "at most two within a second");
    rig.rule(r#""enabled":true,"min_calls":4,"window_ms":4000"#).await;
    spread(&rig).await;
    assert!(rig.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn the_time_open_changes_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4,"open_ms":60000"#).await;
    rig.repeat("fail", 4).await;
    tokio::time::advance(ms(10_000)).await;
    assert!(rig.is_open().await);
    rig.rule(r#""enabled":true,"min_calls":4,"open_ms":10000"#).await;
    assert!(!rig.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn the_trials_change_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4,"half_open_calls":1"#).await;
    rig.repeat("fail", 4).await;
    rig.rule(r#""enabled":true,"min_calls":4,"half_open_calls":7"#)
        .await;
    tokio::time::advance(ms(5000)).await;
    let reached = rig.echo.counts().began;
    let calls: Vec<_> = (0..20).map(|_| rig.peer.get(note("100")).start()).collect();
    futures_util::future::join_all(calls).await;
    assert_eq!(rig.echo.counts().began, reached + 7);
}

#[tokio::test(start_paused = true)]
async fn codes_change_live() {
    let mut rig = Rig::with(r#""enabled":true,"min_calls":4"#).await;
    rig.repeat("missing", 10).await;
    assert!(!rig.is_open().await);
    rig.forget().await;
    rig.rule(r#""enabled":true,"min_calls":4,"codes":["NOT_FOUND","DATA_LOSS"]"#)
        .await;
    rig.repeat("missing", 4).await;
    assert!(rig.is_open().await);
    let refused = r#"{"call":{"method_breaker":{"codes":["OK"]}}}"#;
    rig.fleet.service_policy(99, refused);
    let scope = format!("service/{}", support::ECHO);
    support::eventually("the policy is refused", || {
        rig.fleet.acknowledged(&scope).is_some_and(|(revision, problem)| {
            revision == 99 && problem.is_some_and(|problem| problem.contains("call.method_breaker.codes[0]"))
        })
    })
    .await;
}

/// Each method has its own breaker and its own rules.
#[tokio::test(start_paused = true)]
async fn methods_break_by_themselves() {
    let rig = Rig::with(r#""enabled":true,"min_calls":4"#).await;
    let document = r#"{"call":{"retry":{"attempts":1},"method_breaker":{"enabled":true,"min_calls":4}},
            "methods":{"Put":{"method_breaker":{"enabled":false}}}}"#;
    rig.fleet.govern(&rig.peer, 2, document).await;
    for _ in 0..10 {
        let _ = rig.peer.put(Note::clone(&note("fail"))).await;
    }
    rig.peer.put(note("")).await.unwrap();
    rig.repeat("fail", 4).await;
    assert!(rig.is_open().await);
}
