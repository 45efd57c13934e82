//! Further attempts as policy, the provider and the callers above want them: reasons, hedges, pushback, chains of calls,
//! instances that come meanwhile, and the record of every attempt.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::error::AttemptLog;
use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::server::Provider;
use rsf_core::status::{Code, Status};
use support::{ECHO, Echo, Fleet, Kind, Peer, note, number, previous};
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Fails as `status` says until so many attempts went before, then answers with that number.
fn failing_before(attempts: u32, status: Status) -> Arc<Echo> {
    Echo::with(move |_, _| {
        let status = status.clone();
        async move {
            match previous() {
                place if place < attempts => Err(status),
                place => Ok(Response::new(number(place))),
            }
        }
    })
}

/// Answers the attempts after these times, with their number.
fn answering_after<const N: usize>(times: [u64; N]) -> Arc<Echo> {
    Echo::with(move |_, _| async move {
        let place = previous();
        tokio::time::sleep(ms(times[place as usize])).await;
        Ok(Response::new(number(place)))
    })
}

async fn attempts_of(peer: &Peer) -> usize {
    peer.get(note("")).await.unwrap_err().attempts().len()
}

// ---- time ----

#[tokio::test(start_paused = true)]
async fn a_call_has_its_whole_time_however_long_its_future_has_lain_about() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(answering_after([80]));
    let peer = fleet.consumer();
    peer.connected(1).await;
    let call = peer.get(note("")).timeout(ms(100)).into_future();
    tokio::time::advance(ms(5000)).await;
    let begun = Instant::now();
    assert_eq!(call.await.unwrap().get_ref().number, 0);
    assert_eq!(begun.elapsed().as_millis(), 80);
}

#[tokio::test(start_paused = true)]
async fn any_timeout_may_be_asked_for() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(answering_after([80]));
    let peer = fleet.consumer();
    peer.connected(1).await;
    let reply = peer.get(note("")).timeout(Duration::MAX).await.unwrap();
    assert_eq!(reply.get_ref().number, 0);
    let error = peer.get(note("")).timeout(Duration::ZERO).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::Deadline, false));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "polled after its end")]
async fn a_future_that_has_ended_is_not_polled_again_in_silence() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(answering_after([80]));
    let peer = fleet.consumer();
    peer.connected(1).await;
    let mut call = peer.get(note("")).into_future();
    (&mut call).await.unwrap();
    let _ = call.await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_tells_what_it_tried() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(answering_after([5000]));
    let peer = fleet.consumer();
    peer.connected(1).await;
    let log = AttemptLog::default();
    let call = peer.get(note("")).timeout(ms(9000)).log_attempts(&log);
    assert!(tokio::time::timeout(ms(50), call.into_future()).await.is_err());
    let attempts = log.take();
    assert_eq!(attempts.len(), 1);
    assert!(
        !attempts[0].succeeded && attempts[0].reason.is_none(),
        "{attempts:?}"
    );
}

// ---- policy ----

#[tokio::test(start_paused = true)]
async fn policy_says_how_often() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::failing(Status::unavailable("")));
    let peer = fleet.consumer();
    assert_eq!(attempts_of(&peer).await, 3);
    for (revision, attempts) in [(1, 1), (2, 5)] {
        let document = format!(r#"{{"call":{{"retry":{{"attempts":{attempts}}}}}}}"#);
        fleet.govern(&peer, revision, &document).await;
        assert_eq!(attempts_of(&peer).await, attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn policy_says_after_which_outcomes() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::failing(Status::unavailable("")));
    let peer = fleet.consumer();
    assert_eq!(attempts_of(&peer).await, 3);
    let others = r#"{"call":{"retry":{"reasons":["attempt_timeout","connection_lost","queue_full"]}}}"#;
    fleet.govern(&peer, 1, others).await;
    assert_eq!(attempts_of(&peer).await, 1);
    fleet
        .govern(&peer, 2, r#"{"call":{"retry":{"reasons":["unavailable"]}}}"#)
        .await;
    assert_eq!(attempts_of(&peer).await, 3);
    // Refused by a threshold, not even a method that never ran is attempted again where policy says so.
    let full = r#""provider":{"concurrency":{"Get":0,"Put":0}}"#;
    for (revision, reasons, attempts) in [(3, r#"["provider_limit"]"#, 3), (4, "[]", 1)] {
        let document = format!(r#"{{"call":{{"retry":{{"reasons":{reasons}}}}},{full}}}"#);
        fleet.govern(&peer, revision, &document).await;
        let error = peer.put(note("")).await.unwrap_err();
        let found = (error.reason(), error.attempts().len());
        assert_eq!(found, (Reason::ProviderLimit, attempts));
    }
    // Nobody is there: that is attempted again whatever policy says.
    let mut node = _node;
    node.kill();
    let found = peer.put(note("")).await.unwrap_err();
    assert_eq!((found.reason(), found.attempts().len()), (Reason::Connect, 3));
}

#[tokio::test(start_paused = true)]
async fn policy_says_when_an_attempt_took_too_long() {
    let fleet = Fleet::in_test();
    let echo = answering_after([300, 0, 0]);
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    for (revision, limit, winner, took) in [(1, "null", 0, 300), (2, "100", 1, 100), (3, "200", 1, 200)] {
        let document =
            format!(r#"{{"call":{{"attempt_timeout_ms":{limit},"retry":{{"backoff_ms":{revision}}}}}}}"#);
        fleet.govern(&peer, revision, &document).await;
        let begun = Instant::now();
        assert_eq!(peer.get(note("")).await.unwrap().into_inner().number, winner);
        let found = begun.elapsed();
        assert!((ms(took)..ms(took + 5)).contains(&found), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn policy_says_how_long_to_pause() {
    fastrand::seed(7);
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::failing(Status::unavailable("")));
    let peer = fleet.consumer();
    // 30 calls of two pauses each, up to `backoff_ms` and twice that, but no more than `max_backoff_ms`.
    let pauses = async |revision, backoff: u64, most: u64| {
        let document = format!(
            r#"{{"call":{{"timeout_ms":60000,"node_breaker":{{"enabled":false}},
                "retry":{{"backoff_ms":{backoff},"max_backoff_ms":{most},"budget_per_second":1000}}}}}}"#
        );
        fleet.govern(&peer, revision, &document).await;
        let begun = Instant::now();
        for _ in 0..30 {
            assert_eq!(attempts_of(&peer).await, 3);
        }
        begun.elapsed().as_millis() as f64 / 30.0
    };
    for (revision, backoff, most) in [(1, 100, 1000), (2, 400, 10_000), (3, 400, 100), (4, 0, 1000)] {
        let mean = pauses(revision, backoff, most).await;
        let wanted = (backoff.min(most) + (2 * backoff).min(most)) as f64 / 2.0;
        assert!(
            (mean - wanted).abs() <= 0.3 * wanted + 2.0,
            "{mean} ms of {wanted}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn policy_says_how_many_retries_there_may_be() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::failing(Status::unavailable("")));
    let peer = fleet.consumer();
    let mut begun = 0;
    // Each after the window of the one before is over: the share of 100 calls, and the constant rate of ten seconds.
    for (revision, percent, per_second, wanted) in
        [(1, 0, 0, 0), (2, 50, 0, 50), (3, 0, 3, 30), (4, 20, 2, 40)]
    {
        let budget = format!(r#""budget_percent":{percent},"budget_per_second":{per_second}"#);
        let document = format!(r#"{{"call":{{"retry":{{"backoff_ms":0,{budget}}}}}}}"#);
        fleet.govern(&peer, revision, &document).await;
        for _ in 0..100 {
            peer.get(note("")).await.unwrap_err();
        }
        let retries = peer.metrics.retries.get() - begun;
        assert_eq!(retries, wanted, "{percent} % and {per_second}/s");
        begun += retries;
        tokio::time::sleep(ms(11_000)).await;
    }
    assert!(peer.metrics.retry_budget_exhausted.get() > 100);
}

// ---- pushback ----

#[tokio::test(start_paused = true)]
async fn a_provider_sets_the_pause_or_wants_no_further_attempt() {
    for (status, wanted) in [
        (Status::unavailable("").retry_after(ms(700)), Some(700)),
        (Status::unavailable("").retry_after(ms(0)), Some(0)),
        (Status::unavailable("").without_retry(), None),
        // Longer than the deadline.
        (Status::unavailable("").retry_after(ms(5000)), None),
        (Status::unavailable("").retry_after(Duration::MAX), None),
    ] {
        let fleet = Fleet::in_test();
        fleet.service_policy(
            1,
            r#"{"call":{"retry":{"backoff_ms":60000,"max_backoff_ms":60000}}}"#,
        );
        let _node = fleet.provide(failing_before(1, status));
        let peer = fleet.consumer();
        peer.connected(1).await;
        peer.governed(|policy| policy.call.retry.backoff_ms == 60_000)
            .await;
        let begun = Instant::now();
        let result = peer.get(note("")).await;
        let took = begun.elapsed();
        match wanted {
            Some(pause) => {
                assert_eq!(result.unwrap().into_inner().number, 1);
                assert!((ms(pause)..ms(pause + 3)).contains(&took), "{took:?}");
            }
            None => {
                let error = result.unwrap_err();
                assert_eq!((error.reason(), error.attempts().len()), (Reason::Unavailable, 1));
                assert!(took < ms(3), "{took:?}");
            }
        }
    }
}

// ---- instances ----

#[tokio::test(start_paused = true)]
async fn a_further_attempt_sees_an_instance_that_came_since() {
    let fleet = Fleet::in_test();
    let failing = Echo::failing(Status::unavailable("").retry_after(ms(500)));
    let _node = fleet.provide(failing.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    let call = peer.get(note("")).start();
    failing
        .seen()
        .until("the first attempt failed", |counts| counts.ended == 1)
        .await;
    let fresh = Echo::plain();
    let _fresh = fleet.provide(fresh.clone());
    call.await.unwrap();
    assert_eq!((failing.counts().began, fresh.counts().began), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn instances_are_tried_in_rounds() {
    let fleet = Fleet::in_test();
    let echoes = [(); 2].map(|()| Echo::failing(Status::unavailable("")));
    let _nodes = echoes.clone().map(|echo| fleet.provide(echo));
    let peer = fleet.consumer();
    peer.connected(2).await;
    fleet
        .govern(
            &peer,
            1,
            r#"{"call":{"retry":{"attempts":4},"node_breaker":{"enabled":false}}}"#,
        )
        .await;
    for round in 1..=10 {
        assert_eq!(attempts_of(&peer).await, 4);
        for echo in &echoes {
            assert_eq!(echo.counts().began, 2 * round);
        }
    }
}

// ---- what the caller learns ----

#[tokio::test(start_paused = true)]
async fn every_attempt_of_a_success_is_recorded_where_asked() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(failing_before(1, Status::unavailable("").retry_after(ms(100))));
    let peer = fleet.consumer();
    peer.connected(1).await;
    let log = AttemptLog::default();
    peer.get(note("")).log_attempts(&log).await.unwrap();
    let attempts = log.take();
    let found: Vec<_> = attempts
        .iter()
        .map(|a| (a.succeeded, a.reason, a.hedge))
        .collect();
    assert_eq!(
        found,
        [(false, Some(Reason::Unavailable), false), (true, None, false)]
    );
    assert!(attempts[0].begun < ms(1) && attempts[0].elapsed < ms(1));
    assert!((ms(100)..ms(103)).contains(&attempts[1].begun));
    // Of a failure and of a deadline too.
    let _silent = fleet.provide(Echo::silent());
    for call in [
        peer.get(note("")).timeout(ms(50)),
        peer.put(note("")).timeout(ms(50)),
    ] {
        let log = AttemptLog::default();
        let error = call.log_attempts(&log).await.unwrap_err();
        assert_eq!(log.take(), error.attempts());
        assert!(!error.attempts().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_is_told_rather_than_a_further_failure() {
    let fleet = Fleet::in_test();
    let echo = Echo::with(|_, _| async {
        match previous() {
            0 => {
                tokio::time::sleep(ms(80)).await;
                Err(Status::not_found("no such note"))
            }
            _ => {
                tokio::time::sleep(ms(100)).await;
                Err(Status::unavailable("").retry_after(ms(10)))
            }
        }
    });
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    fleet
        .govern(&peer, 1, r#"{"call":{"retry":{"hedge_delay_ms":50}}}"#)
        .await;
    let error = peer.get(note("")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(echo.counts().began, 2, "nothing starts after an answer");
}

/// A foreign server that begins a reply and ends it with a status in the trailers.
#[derive(Clone)]
struct Foreign;

impl tonic::server::NamedService for Foreign {
    const NAME: &'static str = ECHO;
}

impl tower::Service<http::Request<tonic::body::Body>> for Foreign {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
        let trailers = [("grpc-status", "5"), ("hint", "in the trailers"), ("shelf", "7")];
        let trailers = trailers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let trailers = http::HeaderMap::from_iter(trailers);
        let body = http_body_util::Full::new(bytes::Bytes::new());
        let body = http_body_util::BodyExt::with_trailers(body, std::future::ready(Some(Ok(trailers))));
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("region", "north")
            .header("hint", "in the headers")
            .header("rsf-reason", "queue_full");
        std::future::ready(Ok(response.body(tonic::body::Body::new(body)).unwrap()))
    }
}

#[tokio::test]
async fn an_error_has_the_metadata_of_headers_and_trailers() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        let node = fleet.start(Provider::builder().tonic_service(Foreign), |_| {});
        fleet.list(|instances| instances.push(node.instance.clone()));
        let peer = fleet.consumer();
        let error = peer.get(note("")).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::NotFound, Reason::Handler));
        let metadata = error.status().metadata();
        let found = ["region", "hint", "shelf"].map(|key| metadata.get(key));
        assert_eq!(
            found,
            [Some("north"), Some("in the trailers"), Some("7")],
            "{kind:?}"
        );
        assert_eq!(metadata.get("rsf-reason"), None);
    }
}
