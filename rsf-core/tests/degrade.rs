//! Degraded replies, mocks and failure at once: when policy answers, what it may answer, and policies that change
//! meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::message::Request;
use rsf_core::method::ServiceDescriptor;
use rsf_core::outcome::Reason;
use rsf_core::status::{Code, Status};
use support::{ECHO, Echo, Fleet, Node, Note, Peer, counted, descriptor, eventually, note};

const GET: &str = "test.v1.Echo/Get";

struct Rig {
    fleet: Fleet,
    echo: Arc<Echo>,
    node: Node,
    peer: Peer,
    revision: u64,
}

impl Rig {
    async fn with(echo: Arc<Echo>, call: &str) -> Rig {
        let fleet = Fleet::in_test();
        let node = fleet.provide(echo.clone());
        let mut rig = Rig {
            peer: fleet.consumer(),
            fleet,
            echo,
            node,
            revision: 0,
        };
        rig.govern(call).await;
        rig.peer.connected(1).await;
        rig
    }

    /// Publishes what is in `call`, and waits until it is in force.
    async fn govern(&mut self, call: &str) {
        self.revision += 1;
        let document = format!(
            r#"{{"call":{{"timeout_ms":500,"retry":{{"attempts":1}},"node_breaker":{{"enabled":false}},{call}}}}}"#
        );
        self.fleet.govern(&self.peer, self.revision, &document).await;
    }

    async fn degrade(&mut self, degrade: &str) {
        self.govern(&format!(r#""degrade":{{{degrade}}}"#)).await;
    }

    /// The reply, and whether policy gave it.
    async fn get(&self) -> (Note, bool) {
        let (reply, metadata) = self.peer.get(note("asked")).await.unwrap().into_parts();
        (reply, metadata.get("rsf-degraded") == Some("policy"))
    }
}

/// Publishes a document that the fleet's one consumer must refuse, and returns why.
async fn refused(fleet: &Fleet, revision: u64, document: &str) -> String {
    fleet.service_policy(revision, document);
    let scope = format!("service/{ECHO}");
    let acknowledged = || fleet.acknowledged(&scope).filter(|(seen, _)| *seen == revision);
    eventually("the document is acknowledged", || acknowledged().is_some()).await;
    let problem = acknowledged().and_then(|(_, problem)| problem);
    problem.unwrap_or_else(|| panic!("was not refused: {document}"))
}

#[tokio::test(start_paused = true)]
async fn policy_can_answer_every_call_and_stop_to() {
    let mut rig = Rig::with(
        Echo::plain(),
        r#""degrade":{"when":"never","reply_json":{"text":"mock"}}"#,
    )
    .await;
    assert_eq!(rig.get().await, (note("asked"), false));
    rig.degrade(r#""when":"always","reply_json":{"text":"mock","number":7,"data":"AQI="}"#)
        .await;
    let mock = Note {
        text: "mock".to_owned(),
        number: 7,
        data: vec![1, 2].into(),
    };
    assert_eq!(rig.get().await, (mock, true));
    assert_eq!(rig.echo.counts().began, 1, "a mock reaches no provider");
    assert_eq!(counted(&rig.peer.registry, "rsf_client_degraded_total", GET), 1);
    // Other methods are other replies; both are of the same type here.
    assert_eq!(rig.peer.put(note("")).await.unwrap().get_ref().text, "mock");
    rig.degrade(r#""when":"always","reply_json":{}"#).await;
    assert_eq!(rig.get().await, (Note::default(), true));
    rig.degrade(r#""when":"never""#).await;
    assert_eq!(rig.get().await, (note("asked"), false));
}

#[tokio::test(start_paused = true)]
async fn encoded_replies_change_live() {
    let mut rig = Rig::with(
        Echo::plain(),
        r#""degrade":{"when":"always","reply_base64":"CgVieXRlcw=="}"#,
    )
    .await;
    assert_eq!(rig.get().await, (note("bytes"), true));
    rig.degrade(r#""when":"always","reply_base64":"""#).await;
    assert_eq!(rig.get().await, (Note::default(), true));
}

#[tokio::test(start_paused = true)]
async fn policy_can_fail_every_call_at_once() {
    let mut rig = Rig::with(Echo::plain(), r#""degrade":{"when":"always","code":"NOT_FOUND"}"#).await;
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.code(), error.may_have_run()),
        (Reason::Degraded, Code::NotFound, false)
    );
    assert_eq!(
        error.message(),
        "/test.v1.Echo/Get: fails at once by `degrade` of service/test.v1.Echo@1; not sent"
    );
    assert_eq!(error.status().metadata().get("rsf-degraded"), Some("policy"));
    rig.degrade(r#""when":"always","code":"UNAVAILABLE","message":"closed for the night""#)
        .await;
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "closed for the night")
    );
    assert_eq!(rig.echo.counts().began, 0);
    assert_eq!(
        counted(&rig.peer.registry, "rsf_call_errors_total", "degraded"),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_answered() {
    let degrade = r#""degrade":{"when":"breaker_open","reply_json":{"text":"later"}}"#;
    let rig = Rig::with(
        Echo::failing(Status::unavailable("sick")),
        &format!(r#""method_breaker":{{"enabled":true,"min_calls":4}},{degrade}"#),
    )
    .await;
    for _ in 0..4 {
        let error = rig.peer.get(note("")).await.unwrap_err();
        assert_eq!(
            error.reason(),
            Reason::Unavailable,
            "its own failures are the caller's"
        );
    }
    assert_eq!(rig.get().await, (note("later"), true));
    assert_eq!(rig.echo.counts().began, 4);
}

#[tokio::test(start_paused = true)]
async fn what_the_service_does_not_answer_is_answered() {
    let unavailable = r#""degrade":{"when":"unavailable","reply_json":{"text":"stale"}}"#;
    // Nobody answers in time.
    let rig = Rig::with(Echo::silent(), unavailable).await;
    assert_eq!(rig.get().await, (note("stale"), true));
    assert_eq!(rig.echo.counts().began, 1, "the service was asked first");
    // Refused, and nobody there.
    let mut rig = Rig::with(Echo::failing(Status::unavailable("sick")), unavailable).await;
    assert_eq!(rig.get().await, (note("stale"), true));
    rig.node.kill();
    assert_eq!(rig.get().await, (note("stale"), true));
    rig.fleet.list(Vec::clear);
    eventually("the list is empty", || {
        rig.peer.channel.view().instances.is_empty()
    })
    .await;
    assert_eq!(rig.get().await, (note("stale"), true));
    assert_eq!(counted(&rig.peer.registry, "rsf_client_degraded_total", GET), 3);
    // A code instead: the error tells both.
    rig.degrade(r#""when":"unavailable","code":"ABORTED""#).await;
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!((error.reason(), error.code()), (Reason::Degraded, Code::Aborted));
    assert_eq!(
        error.message(),
        "degraded by `degrade` of service/test.v1.Echo@2, because no instance of `test.v1.Echo` is registered; is its \
         provider running, with the same RSF_NAMESPACE and RSF_REGISTRY?"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_answered_by_policy_still_tells_whether_the_handler_ran() {
    let rig = Rig::with(
        Echo::silent(),
        r#""degrade":{"when":"unavailable","code":"ABORTED"}"#,
    )
    .await;
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::Degraded, true));
    assert_eq!(error.attempts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_handlers_own_errors_are_answers() {
    let rig = Rig::with(
        Echo::failing(Status::not_found("no such member")),
        r#""degrade":{"when":"unavailable","reply_json":{}},"limit":{"concurrency":1}"#,
    )
    .await;
    assert_eq!(
        rig.peer.get(note("")).await.unwrap_err().reason(),
        Reason::Handler
    );
    // The consumer's own limit says nothing about the service.
    let mut rig = Rig::with(
        Echo::plain(),
        r#""degrade":{"when":"unavailable","reply_json":{}}"#,
    )
    .await;
    rig.govern(r#""degrade":{"when":"unavailable","reply_json":{}},"limit":{"concurrency":0}"#)
        .await;
    assert_eq!(
        rig.peer.get(note("")).await.unwrap_err().reason(),
        Reason::ConsumerLimit
    );
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_another_type_is_refused_and_the_last_good_policy_stays() {
    // Without a provider: it knows no schema, takes the document, and says so in the same place.
    let fleet = Fleet::in_test();
    fleet.list(Vec::clear);
    fleet.service_policy(
        1,
        r#"{"call":{"degrade":{"when":"always","reply_json":{"text":"good"}}}}"#,
    );
    let peer = fleet.consumer();
    for (place, (document, wanted)) in [
        (
            r#"{"call":{"timeout_ms":7,"degrade":{"when":"always","reply_json":{"txt":"typo"}}}}"#,
            "degrade of method Get: reply_json: is no test.v1.Note: unrecognized field name 'txt'",
        ),
        (
            r#"{"methods":{"Put":{"degrade":{"reply_json":{"number":"many"}}}}}"#,
            "degrade of method Put: reply_json: is no test.v1.Note",
        ),
        (
            r#"{"consumers":{"tester":{"degrade":{"reply_json":[1]}}}}"#,
            "degrade of method Get: reply_json: is no test.v1.Note",
        ),
        (
            r#"{"methods":{"Get":{"degrade":{"reply_base64":"CgU="}}}}"#,
            "degrade of method Get: reply_base64: is no test.v1.Note",
        ),
        (
            r#"{"call":{"degrade":{"reply_base64":"?"}}}"#,
            "call.degrade.reply_base64: is no base64",
        ),
        (
            r#"{"methods":{"Get":{"degrade":{"reply_json":{},"code":"ABORTED","message":"no"}}}}"#,
            "methods.Get.degrade.code: stands beside `reply_json`; give one answer; \
             methods.Get.degrade.message: goes with `code`, not with a reply",
        ),
        (
            r#"{"call":{"degrade":{"code":"OK"}}}"#,
            "call.degrade.code: expected one of CANCELLED",
        ),
        (
            r#"{"call":{"degrade":{"when":"sometimes"}}}"#,
            "call.degrade.when: expected one of never",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let problem = refused(&fleet, place as u64 + 2, document).await;
        assert!(problem.contains(wanted), "{problem}");
        assert_eq!(peer.get(note("")).await.unwrap().get_ref(), &note("good"));
    }
    assert_eq!(counted(&peer.registry, "rsf_policies_refused_total", ""), 8);
}

/// The fleet's document is not a service's: who knows the type finds out only where the layers meet.
#[tokio::test(start_paused = true)]
async fn a_fleets_reply_that_does_not_fit_is_not_given() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    peer.connected(1).await;
    for (revision, degrade) in [
        (1, r#"{"when":"always","reply_json":{"no":"such"}}"#),
        (2, r#"{"when":"always"}"#),
    ] {
        fleet.policy(
            "fleet",
            revision,
            &format!(r#"{{"call":{{"degrade":{degrade}}}}}"#),
        );
        let origin = format!("fleet@{revision}");
        peer.governed(|policy| policy.origins.get("degrade.when").is_some_and(|o| **o == *origin))
            .await;
        let reply = peer.get(note("asked")).await.unwrap();
        assert_eq!(reply.get_ref(), &note("asked"));
    }
    // Counted once for each method and problem, however often the list changes.
    let _second = fleet.provide(Echo::plain());
    peer.connected(2).await;
    assert_eq!(counted(&peer.registry, "rsf_policies_refused_total", ""), 4);
    assert_eq!(counted(&peer.registry, "rsf_client_degraded_total", ""), 0);
}

/// A tool that knows a method only by its name: bytes can be given, JSON cannot be translated.
#[tokio::test(start_paused = true)]
async fn without_a_schema_bytes_are_taken_as_they_are() {
    let fleet = Fleet::in_test();
    let peer = fleet.consumer();
    let blind = ServiceDescriptor {
        name: "test.v1.Blind".into(),
        schema: Vec::new().into(),
        ..descriptor()
    };
    let channel = peer.consumer.channel(&blind, "");
    let get = || channel.call::<Note>(0, Request::new(note("asked")));
    let publish = async |revision: u64, degrade: &str| {
        let document = format!(r#"{{"call":{{"degrade":{degrade}}}}}"#);
        fleet.policy("service/test.v1.Blind", revision, &document);
        fleet.control.set_instances("test.v1.Blind", Vec::new());
        let origin = format!("@{revision}");
        eventually("the policy is in force", || {
            let policies = channel.view().policies;
            let origins = policies.get("Get").map(|policy| &policy.origins);
            origins.is_some_and(|origins| origins.get("degrade.when").is_some_and(|o| o.ends_with(&origin)))
        })
        .await;
    };
    publish(1, r#"{"when":"always","reply_base64":"CgVieXRlcw=="}"#).await;
    assert_eq!(get().await.unwrap().get_ref(), &note("bytes"));
    publish(2, r#"{"when":"always","reply_json":{"text":"json"}}"#).await;
    assert_eq!(get().await.unwrap_err().reason(), Reason::NoInstance);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(counted(&peer.registry, "rsf_policies_refused_total", ""), 2);
}
