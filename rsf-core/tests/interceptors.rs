//! The application's own code around calls, on both sides.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use rsf_core::client::{ClientCall, ClientInterceptor, ClientNext};
use rsf_core::context::Context;
use rsf_core::error::RpcError;
use rsf_core::message::{Request, Response};
use rsf_core::outcome::Reason;
use rsf_core::server::{Provider, ServerCall, ServerInterceptor, ServerNext};
use rsf_core::status::{Code, Status};
use rsf_core::wire::Frame;

use support::{Echo, Fleet, Kind, Note, counted, note};

type Journal = Arc<Mutex<Vec<String>>>;

/// Does on either side what the request's text asks for, and writes everything down.
struct Scribe {
    name: &'static str,
    journal: Journal,
}

impl Scribe {
    fn wrote(&self, what: impl std::fmt::Display) {
        self.journal.lock().push(format!("{} {what}", self.name));
    }
}

impl ClientInterceptor for Scribe {
    async fn intercept(
        &self,
        call: &mut ClientCall<'_>,
        next: ClientNext<'_>,
    ) -> Result<Response<Bytes>, RpcError> {
        let asked = Note::decode(call.message()).unwrap().text;
        assert_eq!(
            (call.service(), call.method(), call.path()),
            ("test.v1.Echo", "Get", "/test.v1.Echo/Get")
        );
        assert!(call.deadline() > tokio::time::Instant::now());
        self.wrote(format!("{} {}", call.request_id(), asked));
        let before = call.metadata().get("way").unwrap_or_default().to_owned();
        call.metadata_mut()
            .insert("way", &format!("{before}{}", self.name))
            .unwrap();
        match asked.as_str() {
            "reply" if self.name == "b" => return Ok(Response::new(note("short").encode_to_vec().into())),
            "refuse" if self.name == "b" => {
                return Err(RpcError::intercepted(Status::failed_precondition("not now")));
            }
            "panic" if self.name == "b" => panic!("as asked"),
            "shorten" => call.limit_time(Duration::from_millis(20)),
            _ => {}
        }
        let result = next.run(call).await;
        self.wrote(match &result {
            Ok(reply) => format!("saw {}", Note::decode(reply.get_ref().clone()).unwrap().text),
            Err(error) => format!("saw {}", error.reason()),
        });
        result
    }
}

impl ServerInterceptor for Scribe {
    async fn intercept(
        &self,
        call: &mut ServerCall<'_>,
        next: ServerNext<'_>,
    ) -> Result<Response<Frame>, Status> {
        let asked = Note::decode(call.message()).unwrap().text;
        assert_eq!(
            (call.service(), call.method(), call.path()),
            ("test.v1.Echo", "Get", "/test.v1.Echo/Get")
        );
        assert_eq!(call.caller(), Some("tester"));
        assert!(!call.identity().is_proven() && call.deadline().is_some());
        let context = Context::current().expect("an interceptor runs within the handler's context");
        assert_eq!(context.request_id(), call.request_id());
        self.wrote(format!("{} {asked}", call.request_id().unwrap()));
        let before = call.metadata().get("way").unwrap_or_default().to_owned();
        call.metadata_mut()
            .insert("way", &format!("{before}{}", self.name))
            .unwrap();
        match asked.as_str() {
            "reply" if self.name == "b" => return Ok(Response::new(Frame::encode(&note("short")).unwrap())),
            "refuse" if self.name == "b" => return Err(Status::failed_precondition("not now")),
            "panic" if self.name == "b" => panic!("as asked"),
            _ => {}
        }
        let result = next.run(call).await;
        self.wrote(match &result {
            Ok(reply) => format!("saw {}", Note::decode(reply.get_ref().message()).unwrap().text),
            Err(status) => format!("saw {}", status.code()),
        });
        result
    }
}

/// Answers with the way that the metadata took.
fn echo() -> Arc<Echo> {
    Echo::with(|_, request: Request<Note>| async move {
        let way = request.metadata().get("way").unwrap_or_default().to_owned();
        match request.get_ref().text.as_str() {
            "fail" => Err(Status::not_found("nothing")),
            "shorten" => std::future::pending().await,
            _ => Ok(Response::new(note(&way))),
        }
    })
}

/// What each request leads to, with interceptors `a` and `b` on one side: the reply's text or the reason, and the journal.
fn table(client: bool) -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let mut table = vec![
        ("pass", "ab", vec!["a 7 pass", "b 7 pass", "b saw ab", "a saw ab"]),
        ("reply", "short", vec!["a 7 reply", "b 7 reply", "a saw short"]),
    ];
    match client {
        true => table.extend([
            (
                "fail",
                "handler",
                vec!["a 7 fail", "b 7 fail", "b saw handler", "a saw handler"],
            ),
            (
                "refuse",
                "intercepted",
                vec!["a 7 refuse", "b 7 refuse", "a saw intercepted"],
            ),
            ("panic", "panic", vec!["a 7 panic", "b 7 panic"]),
            (
                "shorten",
                "deadline",
                vec!["a 7 shorten", "b 7 shorten", "b saw deadline", "a saw deadline"],
            ),
        ]),
        false => table.extend([
            (
                "fail",
                "handler",
                vec!["a 7 fail", "b 7 fail", "b saw NOT_FOUND", "a saw NOT_FOUND"],
            ),
            (
                "refuse",
                "handler",
                vec!["a 7 refuse", "b 7 refuse", "a saw FAILED_PRECONDITION"],
            ),
            ("panic", "panic", vec!["a 7 panic", "b 7 panic"]),
        ]),
    }
    table
}

async fn check(fleet: &Fleet, client: bool) {
    let journal = Journal::default();
    let scribe = |name| Scribe {
        name,
        journal: journal.clone(),
    };
    let mut builder = Provider::builder().service("", echo());
    if !client {
        builder = builder.interceptor(scribe("a")).interceptor(scribe("b"));
    }
    let node = fleet.provide_built(builder);
    let peer = fleet.consumer_as(|parts| {
        if client {
            parts.interceptors.add(scribe("a"));
            parts.interceptors.add(scribe("b"));
        }
    });
    for (asked, outcome, wrote) in table(client) {
        let result = peer.get(note(asked)).request_id("7").await;
        let found = match &result {
            Ok(reply) => reply.get_ref().text.clone(),
            Err(error) => error.reason().name().to_owned(),
        };
        assert_eq!(found, outcome, "{asked}: {result:?}");
        assert_eq!(std::mem::take(&mut *journal.lock()), wrote, "{asked}");
        if asked == "refuse" {
            let error = result.unwrap_err();
            assert_eq!(
                (error.code(), error.message()),
                (Code::FailedPrecondition, "not now")
            );
            assert_eq!(
                error.may_have_run(),
                !client,
                "of a provider's interceptor nobody knows"
            );
        }
    }
    match client {
        true => assert_eq!(counted(&peer.registry, "rsf_interceptor_panics_total", ""), 1),
        false => assert_eq!(counted(&node.registry, "rsf_handler_panics_total", ""), 1),
    }
    let intercepted = counted(&peer.registry, "rsf_call_errors_total", "intercepted");
    assert_eq!(
        intercepted,
        u64::from(client),
        "each call is counted as its caller saw it"
    );
    assert!(
        matches!(peer.get(note("pass")).await, Ok(reply) if reply.get_ref().text == "ab"),
        "all live on"
    );
}

#[test]
fn clients_interceptors_see_change_and_answer_calls() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(check(&fleet, true));
    }
}

#[test]
fn providers_interceptors_see_change_and_answer_calls() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(check(&fleet, false));
    }
}

/// Passes on the status of a call of its own.
struct PassesOn(rsf_core::client::Channel);

impl ServerInterceptor for PassesOn {
    async fn intercept(&self, _: &mut ServerCall<'_>, _: ServerNext<'_>) -> Result<Response<Frame>, Status> {
        let refused = self
            .0
            .call::<Note>(support::GET, Request::new(note("")))
            .await
            .unwrap_err();
        assert_eq!(refused.reason(), Reason::ProviderLimit);
        Err(refused.status().clone())
    }
}

#[tokio::test]
async fn an_interceptor_does_not_pass_on_the_reason_of_another_call() {
    let fleet = Fleet::in_test();
    let busy = fleet.provide(echo());
    fleet.service_policy(
        1,
        r#"{"call":{"retry":{"attempts":1}},"provider":{"concurrency":{"Get":0}}}"#,
    );
    let inner = fleet.consumer();
    inner.connected(1).await;
    inner.governed(|policy| policy.call.retry.attempts == 1).await;
    let outer = Fleet::in_test();
    let interceptor = PassesOn(inner.channel.clone());
    let _node = outer.provide_built(Provider::builder().service("", echo()).interceptor(interceptor));
    let error = outer.consumer().get(note("")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Handler, "{error}");
    assert!(error.may_have_run());
    drop(busy);
}

/// Waits for a moment, gives up what it has begun, and answers in its place.
struct Impatient;

impl ClientInterceptor for Impatient {
    async fn intercept(
        &self,
        call: &mut ClientCall<'_>,
        next: ClientNext<'_>,
    ) -> Result<Response<Bytes>, RpcError> {
        match tokio::time::timeout(Duration::from_millis(30), next.run(call)).await {
            Ok(result) => result,
            Err(_) => Ok(Response::new(note("given up").encode_to_vec().into())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_that_gives_up_midway_cancels_what_it_has_begun() {
    let fleet = Fleet::in_test();
    let echo = Echo::silent();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer_as(|parts| parts.interceptors.add(Impatient));
    for given_up in 1..=2 {
        let reply = peer.get(note("hello")).await.unwrap();
        assert_eq!(reply.get_ref().text, "given up");
        let seen = echo.seen();
        seen.until("the handler is cancelled", |counts| counts.dropped == given_up)
            .await;
        let instances = peer.channel.view().instances;
        assert_eq!((instances.len(), instances[0].pending), (1, 0));
    }
    // The interceptor's answer is the call's.
    let cancelled = counted(&peer.registry, "rsf_call_errors_total", "cancelled");
    assert_eq!(cancelled, 0);
}
