//! What is attempted again, when, where, how often, and whose answer wins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rsf_core::error::RpcError;
use rsf_core::message::Response;
use rsf_core::outcome::{Reason, Retry, TABLE};
use rsf_core::status::{Code, Status};
use rsf_core::wire::{ConnectError, Connection, Target, Wire};
use support::{Echo, Fleet, Peer, counted, eventually, note, previous};
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn unavailable() -> Arc<Echo> {
    Echo::failing(Status::unavailable("gone fishing"))
}

#[test]
fn the_table_says_what_may_be_attempted_again() {
    for row in TABLE {
        let allowed = |reached, idempotent| RpcError::new(row.reason, reached, "").is_retryable(idempotent);
        let (both, idempotent_only, never) = ([true; 4], [false, true, false, true], [false; 4]);
        let found = [
            allowed(false, false),
            allowed(false, true),
            allowed(true, false),
            allowed(true, true),
        ];
        match row.retry {
            Retry::Never => assert_eq!(found, never, "{}", row.reason),
            Retry::IfIdempotent => assert_eq!(found, idempotent_only, "{}", row.reason),
            // Whatever the row says: once the handler can have run, only idempotent methods are run again.
            Retry::Always => assert_eq!(found, [both[0], both[1], false, true], "{}", row.reason),
        }
    }
}

/// Attempts that a `Get` and a `Put` took, and the reasons they ended with.
async fn attempts(peer: &Peer) -> [(usize, Reason); 2] {
    let get = peer.get(note("")).await.unwrap_err();
    let put = peer.put(note("")).await.unwrap_err();
    [&get, &put].map(|error| (error.attempts().len(), error.reason()))
}

#[tokio::test(start_paused = true)]
async fn only_idempotent_methods_follow_an_unavailable() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(unavailable());
    let found = attempts(&fleet.consumer()).await;
    assert_eq!(found, [(3, Reason::Unavailable), (1, Reason::Unavailable)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_says_on_purpose_is_final() {
    for code in [
        Code::NotFound,
        Code::ResourceExhausted,
        Code::Aborted,
        Code::Internal,
        Code::DeadlineExceeded,
    ] {
        let fleet = Fleet::in_test();
        let _node = fleet.provide(Echo::failing(Status::new(code, "")));
        let found = attempts(&fleet.consumer()).await;
        assert_eq!(found, [(1, Reason::Handler), (1, Reason::Handler)], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_final() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::with(|_, _| async { panic!("the handler's own panic") }));
    let found = attempts(&fleet.consumer()).await;
    assert_eq!(found, [(1, Reason::Panic), (1, Reason::Panic)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_unseen_is_attempted_again_even_if_not_idempotent() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"provider":{"concurrency":{"Get":0,"Put":0}}}"#);
    let echo = Echo::plain();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    let found = attempts(&peer).await;
    assert_eq!(found, [(3, Reason::ProviderLimit), (3, Reason::ProviderLimit)]);
    assert!(!peer.put(note("")).await.unwrap_err().may_have_run());
    assert_eq!(echo.counts().began, 0);
    // Nobody listens at all.
    let fleet = Fleet::in_test();
    let mut node = fleet.provide(Echo::plain());
    node.kill();
    let peer = fleet.consumer();
    let found = attempts(&peer).await;
    assert_eq!(found, [(3, Reason::Connect), (3, Reason::Connect)]);
    assert!(!peer.put(note("")).await.unwrap_err().may_have_run());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_sends_even_a_put_elsewhere() {
    let fleet = Fleet::in_test();
    fleet.policy("application/busy", 1, r#"{"provider":{"pool":1,"queue":0}}"#);
    let busy = Echo::silent();
    let full = fleet.provide_as(|instance| instance.application = "busy".into(), busy.clone());
    let free = Echo::plain();
    // Filled by another consumer, so that ours sees two idle instances.
    let other = fleet.consumer();
    let held = other.put(note("")).timeout(ms(60_000)).start();
    busy.seen()
        .until("the pool is full", |counts| counts.began == 1)
        .await;
    let _node = fleet.provide(free.clone());
    fleet.service_policy(1, r#"{"call":{"retry":{"budget_percent":100}}}"#);
    let peer = fleet.consumer();
    peer.connected(2).await;
    for _ in 0..40 {
        peer.put(note("")).await.unwrap();
    }
    assert_eq!(free.counts().ended, 40);
    assert_eq!(busy.counts().began, 1);
    assert!(counted(&full.registry, "rsf_call_errors_total", "queue_full") >= 3);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_final_for_a_put_and_not_for_a_get() {
    for idempotent in [false, true] {
        let fleet = Fleet::in_test();
        let dying = Echo::silent();
        let mut node = fleet.provide_as(|instance| instance.weight = 10_000, dying.clone());
        let healthy = Echo::plain();
        let _other = fleet.provide_as(|instance| instance.weight = 1, healthy.clone());
        let peer = fleet.consumer();
        peer.connected(2).await;
        fastrand::seed(1);
        let call = match idempotent {
            true => peer.get(note("")).start(),
            false => peer.put(note("")).start(),
        };
        dying
            .seen()
            .until("the handler began", |counts| counts.began == 1)
            .await;
        node.kill();
        match call.await {
            Ok(_) => assert!(idempotent),
            Err(error) => {
                assert!(!idempotent, "{error}");
                assert_eq!(
                    (error.reason(), error.may_have_run()),
                    (Reason::ConnectionLost, true)
                );
                assert_eq!(error.attempts().len(), 1);
            }
        }
        assert_eq!(healthy.counts().began, u32::from(idempotent));
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_attempt_that_got_through_is_not_forgotten() {
    let fleet = Fleet::in_test();
    let dying = Echo::silent();
    let mut node = fleet.provide(dying.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    let call = peer.get(note("")).start();
    dying
        .seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    node.kill();
    let error = call.await.unwrap_err();
    let reasons: Vec<_> = error.attempts().iter().map(|attempt| attempt.reason).collect();
    assert_eq!(
        reasons,
        [
            Some(Reason::ConnectionLost),
            Some(Reason::Connect),
            Some(Reason::Connect)
        ]
    );
    assert!(
        error.may_have_run(),
        "the first attempt reached the handler: {error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_first_success_wins_and_the_loser_is_cancelled() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"attempt_timeout_ms":100}}"#);
    let echo = Echo::with(|_, _| async {
        let place = previous();
        tokio::time::sleep(ms([300, 2500, 2500][place as usize])).await;
        Ok(Response::new(support::number(place)))
    });
    let _nodes = [
        fleet.provide(echo.clone()),
        fleet.provide(echo.clone()),
        fleet.provide(echo.clone()),
    ];
    let peer = fleet.consumer();
    peer.connected(3).await;
    let begun = Instant::now();
    let reply = peer.get(note("")).await.unwrap();
    assert_eq!(reply.into_inner().number, 0, "the first attempt's answer");
    assert_eq!(begun.elapsed().as_millis() / 10, 30);
    echo.seen()
        .until("the losers were dropped", |counts| counts.dropped == 2)
        .await;
    assert_eq!((echo.counts().began, echo.counts().ended), (3, 1));
    assert_eq!(peer.metrics.retries.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_faster_second_attempt_wins_and_the_first_is_cancelled() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"attempt_timeout_ms":100}}"#);
    let echo = Echo::with(|_, _| async {
        let place = previous();
        tokio::time::sleep(ms([2500, 50][place as usize])).await;
        Ok(Response::new(support::number(place)))
    });
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let begun = Instant::now();
    assert_eq!(peer.get(note("")).await.unwrap().into_inner().number, 1);
    assert_eq!(begun.elapsed().as_millis() / 10, 15);
    echo.seen()
        .until("the first was dropped", |counts| counts.dropped == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_never_runs_a_put_twice() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"attempt_timeout_ms":100}}"#);
    let echo = Echo::slow(ms(1000));
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.put(note("")).await.unwrap();
    assert_eq!(echo.counts().began, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_wins_only_when_no_attempt_is_left() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"attempt_timeout_ms":100}}"#);
    let echo = Echo::with(|_, _| async {
        match previous() {
            0 => {
                tokio::time::sleep(ms(300)).await;
                Ok(Response::new(note("late but good")))
            }
            _ => Err(Status::not_found("the second attempt's failure")),
        }
    });
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    assert_eq!(
        peer.get(note("")).await.unwrap().into_inner().text,
        "late but good"
    );
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_attempts_when_everything_fails() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"node_breaker":{"enabled":false}}}"#);
    let echo = unavailable();
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.governed(|policy| !policy.call.node_breaker.enabled).await;
    let begun = Instant::now();
    let calls = 2000;
    for _ in 0..calls {
        peer.get(note("")).await.unwrap_err();
        tokio::time::sleep(ms(5)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let attempts = f64::from(echo.counts().began);
    // The reserve of ten a second fills one window of ten seconds ahead.
    let most = f64::from(calls) * 1.2 + 10.0 * (seconds + 10.0);
    assert!(
        attempts <= most,
        "{attempts} attempts of {calls} calls in {seconds} s, at most {most}"
    );
    assert!(
        attempts >= f64::from(calls) * 1.15,
        "{attempts} attempts: the budget gives no credit"
    );
    assert_eq!(peer.metrics.retries.get(), u64::from(echo.counts().began - calls));
    assert!(peer.metrics.retry_budget_exhausted.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn no_budget_no_retry() {
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        r#"{"call":{"retry":{"budget_percent":0,"budget_per_second":0}}}"#,
    );
    let echo = unavailable();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    assert_eq!(peer.get(note("")).await.unwrap_err().attempts().len(), 1);
    assert_eq!(peer.metrics.retry_budget_exhausted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_up_to_their_limit_and_are_jittered() {
    fastrand::seed(3);
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        r#"{"call":{"timeout_ms":60000,"node_breaker":{"enabled":false},
            "retry":{"attempts":4,"backoff_ms":100,"max_backoff_ms":150,"budget_per_second":10000}}}"#,
    );
    let times = Arc::new(Mutex::new(Vec::new()));
    let echo = Echo::with({
        let times = times.clone();
        move |_, _| {
            times.lock().push(Instant::now());
            std::future::ready(Err(Status::unavailable("")))
        }
    });
    let _node = fleet.provide(echo);
    let peer = fleet.consumer();
    peer.governed(|policy| policy.call.retry.attempts == 4).await;
    let mut sums = [Duration::ZERO; 3];
    let rounds = 200;
    for _ in 0..rounds {
        times.lock().clear();
        peer.get(note("")).await.unwrap_err();
        let times = times.lock();
        assert_eq!(times.len(), 4);
        for (place, most) in [100, 150, 150].into_iter().enumerate() {
            let pause = times[place + 1] - times[place];
            // Timers tick in milliseconds.
            assert!(pause <= ms(most + 2), "{pause:?} before attempt {}", place + 2);
            sums[place] += pause;
        }
    }
    for (sum, most) in sums.into_iter().zip([100.0, 150.0, 150.0]) {
        let mean = sum.as_secs_f64() * 1000.0 / f64::from(rounds);
        assert!(
            (mean - most / 2.0).abs() < most * 0.12,
            "mean {mean} ms of at most {most}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_go_to_instances_that_were_not_tried() {
    let fleet = Fleet::in_test();
    let echoes = [unavailable(), unavailable(), unavailable()];
    let _nodes = echoes.clone().map(|echo| fleet.provide(echo));
    let peer = fleet.consumer();
    peer.connected(3).await;
    let error = peer.get(note("")).await.unwrap_err();
    assert_eq!(error.attempts().len(), 3);
    for echo in &echoes {
        assert_eq!(echo.counts().began, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_instance_is_tried_again_itself() {
    let fleet = Fleet::in_test();
    let echo = Echo::with(|_, request| async move {
        match previous() {
            0 => Err(Status::unavailable("not yet")),
            _ => Ok(Response::new(request.into_inner())),
        }
    });
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.get(note("")).await.unwrap();
    assert_eq!(echo.counts().began, 2);
    assert_eq!(peer.metrics.retries.get(), 1);
    assert_eq!(
        counted(&peer.registry, "rpc_client_call_duration_seconds", "UNAVAILABLE"),
        0
    );
    assert_eq!(
        counted(
            &peer.registry,
            "rpc_client_call_duration_seconds",
            "test.v1.Echo/Get"
        ),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_would_outlast_the_deadline_is_not_waited_out() {
    fastrand::seed(1);
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        r#"{"call":{"timeout_ms":200,"retry":{"attempts":5,"backoff_ms":60000,"max_backoff_ms":60000}}}"#,
    );
    let echo = unavailable();
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 5).await;
    let begun = Instant::now();
    let error = peer.get(note("")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Unavailable);
    assert!(begun.elapsed() < ms(10), "{:?}", begun.elapsed());
    assert_eq!(peer.metrics.retries.get(), 0);
    let tried: Vec<_> = error.attempts().iter().map(|attempt| attempt.reason).collect();
    assert_eq!(tried, [Some(Reason::Unavailable)]);
    assert_eq!(error.instance(), Some(&*node.instance.id));
    assert!(error.may_have_run());
    tokio::time::sleep(ms(120_000)).await;
    assert_eq!(echo.counts().began, 1, "nothing is attempted after the deadline");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_over_a_silent_handler_names_the_instance() {
    let fleet = Fleet::in_test();
    let echo = Echo::silent();
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    let error = peer.put(note("")).timeout(ms(50)).await.unwrap_err();
    assert_eq!(error.attempts().len(), 1);
    assert_eq!(error.instance(), Some(&*node.instance.id));
    assert!(error.may_have_run());
    echo.seen()
        .until("the handler was dropped", |counts| counts.dropped == 1)
        .await;
}

/// A network that swallows every packet.
struct BlackHole;

impl Wire for BlackHole {
    fn connect(&self, _: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_any_connection_promises_that_nothing_ran() {
    let mut fleet = Fleet::in_test();
    fleet.other_wire = Some(Arc::new(BlackHole));
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    let error = peer.put(note("")).timeout(ms(500)).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::Deadline, false));
    // With more time the attempts to connect end by themselves.
    fleet.service_policy(1, r#"{"call":{"timeout_ms":60000}}"#);
    peer.governed(|policy| policy.call.timeout_ms == 60_000).await;
    let error = peer.put(note("")).timeout(ms(60_000)).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::Connect, false));
    assert_eq!(error.attempts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_attempt_counts_once_against_its_instance() {
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        r#"{"call":{"attempt_timeout_ms":50,"timeout_ms":1000,"node_breaker":{"consecutive_failures":3},
            "retry":{"attempts":2,"backoff_ms":0}}}"#,
    );
    let hung = Echo::silent();
    let _nodes = [fleet.provide(hung.clone()), fleet.provide(Echo::plain())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    peer.governed(|policy| policy.call.retry.attempts == 2).await;
    let mut calls = 0;
    while hung.counts().began < 3 {
        peer.get(note("")).await.unwrap();
        calls += 1;
        assert!(calls < 200);
    }
    let open = || {
        peer.channel
            .view()
            .instances
            .iter()
            .filter(|i| i.breaker == "open")
            .count()
            == 1
    };
    eventually("the hung instance is ejected", open).await;
    for _ in 0..50 {
        peer.get(note("")).await.unwrap();
    }
    assert_eq!(hung.counts().began, 3, "ejected by its timeouts alone");
}
