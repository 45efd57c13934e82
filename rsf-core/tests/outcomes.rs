//! The outcome table, row by row: each reason is brought about by real calls, and what the consumer then does is compared
//! with the row. A reason whose mechanism is not there yet is named as skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test ends where its surroundings fail, and says which rows it leaves out"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_core::call::{Call, RawMessage};
use rsf_core::control::Instance;
use rsf_core::error::RpcError;
use rsf_core::message::Request;
use rsf_core::metadata::Metadata;
use rsf_core::outcome::{Outcome, Reason, Retry, TABLE};
use rsf_core::runtime::IoRuntime;
use rsf_core::server::Provider;
use rsf_core::status::Status;
use support::{Echo, Fleet, GET, Kind, Node, Note, PUT, Peer, counted, eventually, note};

/// Columns and rows that other mechanisms answer for, until they are there.
const NOT_YET: &[(Reason, &str)] = &[
    (Reason::Intercepted, "tests/interceptors.rs brings it about"),
    (Reason::WrongShard, "tests/shards.rs brings it about"),
    (Reason::DuplicateInProgress, "the tests of dedup bring it about"),
    (Reason::PayloadMismatch, "the tests of dedup bring it about"),
    (Reason::OutcomeUnknown, "the tests of dedup bring it about"),
    (Reason::DedupUnavailable, "the tests of dedup bring it about"),
];

/// How a call is made.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// `GET` is idempotent, `PUT` is not.
    place: usize,
    attempts: u32,
    credit: bool,
    /// Whether the method breaker opens at the first failure.
    breaker: bool,
}

/// What a call brought about.
struct Seen {
    /// How its first attempt ended.
    reason: Reason,
    /// Further attempts.
    retried: bool,
    /// Whether one such failure ejects an instance.
    ejected: bool,
    /// Whether one such failure opens the method's breaker; `None` where nobody could look.
    open: Option<bool>,
}

/// Consumer and providers of one call.
struct Scene {
    fleet: Fleet,
    setting: Setting,
    nodes: Vec<Node>,
    /// No instance can be reached.
    dead: bool,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Scene {
    fn new(setting: Setting) -> Scene {
        Scene::on(Fleet::in_test(), setting)
    }

    fn on(fleet: Fleet, setting: Setting) -> Scene {
        Scene {
            fleet,
            setting,
            nodes: Vec::new(),
            dead: false,
        }
    }

    /// With one instance of `echo`.
    fn of(setting: Setting, echo: Arc<Echo>) -> Scene {
        let mut scene = Scene::new(setting);
        scene.nodes.push(scene.fleet.provide(echo));
        scene
    }

    /// Lists an instance that nobody can reach: calls turn to it last, and the other one may be ejected.
    fn list_another(&self) {
        self.fleet.list(|instances| {
            instances.push(Instance {
                id: "echo/gone".into(),
                ..Instance::at("echo", "nobody:1")
            });
        });
    }

    /// The consumer, governed so that one call shows each column. `call` and `provider` are further fields.
    async fn peer(&self, call: &str, provider: &str) -> Peer {
        let Setting {
            attempts,
            credit,
            breaker,
            ..
        } = self.setting;
        if !self.nodes.is_empty() {
            self.list_another();
        }
        let percent = if credit { 100 } else { 0 };
        self.fleet.service_policy(
            1,
            &format!(
                r#"{{"call":{{"timeout_ms":1000,{call}
                    "retry":{{"attempts":{attempts},"backoff_ms":0,"budget_percent":{percent},"budget_per_second":0}},
                    "method_breaker":{{"enabled":{breaker},"min_calls":1,"error_percent":1,"open_ms":60000}},
                    "node_breaker":{{"consecutive_failures":1,"consecutive_timeouts":1,"max_ejected_percent":100}}}}
                    {provider}}}"#
            ),
        );
        let peer = self.fleet.consumer();
        peer.governed(|policy| policy.call.retry.attempts == attempts)
            .await;
        if !self.nodes.is_empty() && !self.dead {
            let one = || {
                let view = peer.channel.view();
                view.instances.iter().any(|instance| instance.connected)
            };
            eventually("an instance is connected", one).await;
        }
        peer
    }

    fn call(&self, peer: &Peer) -> Call<Note> {
        peer.channel.call(self.setting.place, Request::new(note("")))
    }

    /// Makes the call and tells how its first attempt ended.
    async fn fails(self, peer: Peer) -> Seen {
        let error = self.call(&peer).await.unwrap_err();
        self.seen(&peer, first(&error)).await
    }

    async fn seen(&self, peer: &Peer, reason: Reason) -> Seen {
        let view = peer.channel.view();
        let mut seen = Seen {
            reason,
            retried: peer.metrics.retries.get() > 0,
            ejected: view.instances.iter().any(|instance| instance.breaker == "open"),
            open: None,
        };
        if self.setting.breaker && reason != Reason::ShutDown {
            let next = self.call(peer).await;
            seen.open = Some(next.is_err_and(|error| error.reason() == Reason::BreakerOpen));
        }
        seen
    }
}

fn first(error: &RpcError) -> Reason {
    let attempt = error.attempts().first();
    attempt
        .and_then(|attempt| attempt.reason)
        .unwrap_or(error.reason())
}

async fn bring_about(reason: Reason, setting: Setting) -> Seen {
    let failing = |echo| async move {
        let scene = Scene::of(setting, echo);
        let peer = scene.peer("", "").await;
        scene.fails(peer).await
    };
    match reason {
        Reason::Handler => failing(Echo::failing(Status::not_found(""))).await,
        Reason::Unavailable => failing(Echo::failing(Status::unavailable(""))).await,
        Reason::Panic => failing(Echo::with(|_, _| async { panic!("the handler's own panic") })).await,
        Reason::Deadline => failing(Echo::silent()).await,
        Reason::NoInstance => {
            let scene = Scene::new(setting);
            scene.fleet.list(|_| {});
            let peer = scene.peer("", "").await;
            scene.fails(peer).await
        }
        Reason::ProviderLimit => {
            let scene = Scene::of(setting, Echo::plain());
            let full = r#","provider":{"concurrency":{"Get":0,"Put":0}}"#;
            let peer = scene.peer("", full).await;
            scene.fails(peer).await
        }
        Reason::Denied | Reason::Unauthenticated => {
            let scene = Scene::of(setting, Echo::plain());
            let rules = match reason {
                Reason::Denied => r#""default":"deny""#,
                _ => r#""identity":"proven""#,
            };
            let provider = format!(r#","provider":{{"authorization":{{"mode":"enforce",{rules}}}}}"#);
            let peer = scene.peer("", &provider).await;
            scene.fails(peer).await
        }
        Reason::ConsumerLimit => {
            let scene = Scene::of(setting, Echo::plain());
            let peer = scene.peer(r#""limit":{"concurrency":0},"#, "").await;
            scene.fails(peer).await
        }
        Reason::Degraded => {
            let scene = Scene::of(setting, Echo::plain());
            let degrade = r#""degrade":{"when":"always","code":"UNAVAILABLE"},"#;
            let peer = scene.peer(degrade, "").await;
            scene.fails(peer).await
        }
        Reason::BreakerOpen => breaker_open(setting).await,
        Reason::QueueFull => busy_pool(setting, r#""queue":0"#).await,
        Reason::QueueTimeout => busy_pool(setting, r#""queue":10,"queue_timeout_ms":50"#).await,
        Reason::AttemptTimeout => attempt_timeout(setting).await,
        Reason::Connect => {
            let mut scene = Scene::of(setting, Echo::plain());
            scene.nodes[0].kill();
            scene.dead = true;
            let peer = scene.peer("", "").await;
            scene.fails(peer).await
        }
        Reason::ConnectionLost => {
            let echo = Echo::silent();
            let mut scene = Scene::of(setting, echo.clone());
            let peer = scene.peer("", "").await;
            let call = scene.call(&peer).start();
            echo.seen()
                .until("the handler began", |counts| counts.began == 1)
                .await;
            scene.nodes[0].kill();
            let error = call.await.unwrap_err();
            scene.seen(&peer, first(&error)).await
        }
        Reason::Refused => {
            let scene = Scene::of(setting, Echo::plain());
            let peer = scene.peer("", "").await;
            // The call is sent before anybody on this thread hears that the connection takes no more.
            scene.nodes[0].drain();
            scene.fails(peer).await
        }
        Reason::WrongInstance => {
            let mut scene = Scene::new(setting);
            let builder = Provider::builder().service("", Echo::plain());
            let node = scene.fleet.start(builder, |instance| instance.incarnation = 1);
            let mut listed = node.instance.clone();
            listed.id = "echo/another".into();
            scene.fleet.list(|instances| instances.push(listed));
            scene.nodes.push(node);
            let peer = scene.peer("", "").await;
            scene.fails(peer).await
        }
        Reason::Unimplemented => {
            let mut scene = Scene::new(setting);
            let builder = Provider::builder().service("gold", Echo::plain());
            let node = scene.fleet.start(builder, |_| {});
            scene
                .fleet
                .list(|instances| instances.push(node.instance.clone()));
            scene.nodes.push(node);
            let peer = scene.peer("", "").await;
            scene.fails(peer).await
        }
        Reason::TooLarge => {
            let scene = Scene::of(setting, Echo::plain());
            let peer = scene.peer("", "").await;
            let large = Note {
                data: Bytes::from(vec![0; 5 << 20]),
                ..Note::default()
            };
            let call: Call<Note> = peer.channel.call(setting.place, Request::new(large));
            let error = call.await.unwrap_err();
            scene.seen(&peer, first(&error)).await
        }
        Reason::Malformed => {
            let scene = Scene::of(setting, Echo::plain());
            let peer = scene.peer("", "").await;
            let bytes = Bytes::from_static(b"\xff\xff");
            let call: Call<RawMessage> = peer.channel.call_raw(setting.place, bytes, Metadata::new());
            let error = call.await.unwrap_err();
            scene.seen(&peer, first(&error)).await
        }
        Reason::Cancelled => cancelled(setting).await,
        Reason::WaitInRuntime => {
            let scene = Scene::of(setting, Echo::plain());
            let peer = scene.peer("", "").await;
            let error = scene.call(&peer).wait().unwrap_err();
            scene.seen(&peer, error.reason()).await
        }
        Reason::ShutDown => shut_down(setting).await,
        other => panic!("nothing brings about {other}; is it to be skipped?"),
    }
}

/// The failure before it is what trips the breakers.
async fn breaker_open(setting: Setting) -> Seen {
    let setting = Setting {
        breaker: true,
        attempts: 1,
        ..setting
    };
    let scene = Scene::of(setting, Echo::failing(Status::unavailable("")));
    let peer = scene.peer("", "").await;
    scene.call(&peer).await.unwrap_err();
    let error = scene.call(&peer).await.unwrap_err();
    Seen {
        reason: error.reason(),
        retried: peer.metrics.retries.get() > 0 || !error.attempts().is_empty(),
        ejected: false,
        open: None,
    }
}

/// The pool has one place, and that is taken.
async fn busy_pool(setting: Setting, queue: &str) -> Seen {
    let busy = Echo::silent();
    let mut scene = Scene::new(setting);
    let pool = format!(r#"{{"provider":{{"pool":1,{queue}}}}}"#);
    scene.fleet.policy("application/busy", 1, &pool);
    let node = scene
        .fleet
        .provide_as(|instance| instance.application = "busy".into(), busy.clone());
    scene.nodes.push(node);
    let other = scene.fleet.consumer();
    let held = other.put(note("")).timeout(ms(60_000)).start();
    busy.seen()
        .until("the pool is full", |counts| counts.began == 1)
        .await;
    let peer = scene.peer("", "").await;
    let seen = scene.fails(peer).await;
    drop(held);
    seen
}

/// The attempt's own time is over long before the handler answers.
async fn attempt_timeout(setting: Setting) -> Seen {
    let echo = Echo::slow(ms(300));
    let scene = Scene::of(setting, echo.clone());
    let peer = scene.peer(r#""attempt_timeout_ms":100,"#, "").await;
    let begun = tokio::time::Instant::now();
    scene.call(&peer).await.unwrap();
    assert!(begun.elapsed() >= ms(300), "the late answer is the result");
    scene.seen(&peer, Reason::AttemptTimeout).await
}

/// Ends in no error that anybody could see, but for the metrics.
async fn cancelled(setting: Setting) -> Seen {
    let echo = Echo::silent();
    let scene = Scene::of(setting, echo.clone());
    let peer = scene.peer("", "").await;
    let call = scene.call(&peer).start();
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    drop(call);
    echo.seen()
        .until("the handler was dropped", |counts| counts.dropped == 1)
        .await;
    let counted = || counted(&peer.registry, "rsf_call_errors_total", "cancelled") == 1;
    eventually("the call is counted", counted).await;
    scene.seen(&peer, Reason::Cancelled).await
}

async fn shut_down(setting: Setting) -> Seen {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let shared = IoRuntime::shared(runtime.handle().clone());
    let echo = Echo::silent();
    let mut scene = Scene::on(Fleet::on(Kind::InProcess, shared), setting);
    scene.nodes.push(scene.fleet.provide(echo.clone()));
    let peer = scene.peer("", "").await;
    let call = scene.call(&peer).start();
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    runtime.shutdown_background();
    let error = call.await.unwrap_err();
    scene.seen(&peer, error.reason()).await
}

fn run(reason: Reason, setting: Setting) -> Seen {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Another runtime's time cannot be paused with this one's.
    let paused = reason != Reason::ShutDown;
    let runtime = runtime.enable_all().start_paused(paused).build().unwrap();
    runtime.block_on(bring_about(reason, setting))
}

fn check(row: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: &str, setting: Setting, found: bool, wanted: bool| {
        if found != wanted {
            let method = ["Get", "Put"][setting.place];
            wrong.push(format!(
                "{} of {method}: {what} {found}, the row says {wanted}",
                row.reason
            ));
        }
    };
    for (place, idempotent) in [(GET, true), (PUT, false)] {
        let again = match row.retry {
            Retry::Never => false,
            Retry::Always => true,
            Retry::IfIdempotent => idempotent,
        };
        for (credit, wanted) in [(true, again), (false, again && !row.credit)] {
            let setting = Setting {
                place,
                attempts: 2,
                credit,
                breaker: false,
            };
            let seen = run(row.reason, setting);
            assert_eq!(seen.reason, row.reason, "{setting:?}");
            let what = if credit {
                "attempted again"
            } else {
                "attempted again without credit"
            };
            expect(what, setting, seen.retried, wanted);
        }
        // A single attempt, so that nothing but this outcome counts.
        let alone = Setting {
            place,
            attempts: 1,
            credit: true,
            breaker: true,
        };
        let seen = run(row.reason, alone);
        assert_eq!(seen.reason, row.reason);
        expect(
            "counted against the instance",
            alone,
            seen.ejected,
            row.node_breaker,
        );
        if let Some(open) = seen.open {
            expect("counted against the method", alone, open, row.method_breaker);
        }
        expect("attempted again", alone, seen.retried, false);
    }
    wrong
}

#[test]
fn each_row_is_what_calls_do() {
    let mut wrong = Vec::new();
    for row in TABLE {
        match NOT_YET.iter().find(|(reason, _)| *reason == row.reason) {
            Some((reason, why)) => eprintln!("SKIPPED: row {reason}: {why}"),
            None => wrong.extend(check(row)),
        }
    }
    eprintln!("SKIPPED: column \"stored by dedup\": the tests of dedup look at it");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the consumer makes of a reason that a provider names, whether or not this provider can name it yet.
#[test]
fn each_reason_that_a_provider_may_name_is_taken_for_what_its_row_says() {
    for row in TABLE {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            for (place, idempotent) in [(GET, true), (PUT, false)] {
                let setting = Setting {
                    place,
                    attempts: 2,
                    credit: true,
                    breaker: false,
                };
                let mut scene = Scene::new(setting);
                scene.fleet.other_wire = Some(Arc::new(named::Wire(row.reason)));
                scene.fleet.list(|instances| {
                    instances.extend(["one:1", "two:1"].map(|address| Instance::at("echo", address)));
                });
                let peer = scene.peer("", "").await;
                let error = scene.call(&peer).await.unwrap_err();
                assert_eq!(error.reason(), row.reason);
                let again = error.is_retryable(idempotent) && row.reason != Reason::WrongShard;
                assert_eq!(error.attempts().len(), 1 + usize::from(again), "{}", row.reason);
                let never_ran = !error.may_have_run();
                let refused = matches!(
                    row.reason,
                    Reason::ProviderLimit
                        | Reason::QueueFull
                        | Reason::QueueTimeout
                        | Reason::WrongShard
                        | Reason::Denied
                        | Reason::Unauthenticated
                        | Reason::DedupUnavailable
                        | Reason::WrongInstance
                        | Reason::Refused
                        | Reason::Unimplemented
                );
                assert_eq!(never_ran, refused, "{}", row.reason);
                let seen = scene.seen(&peer, row.reason).await;
                // Said at once, it tells that the caller left no time.
                let counts = row.node_breaker && row.reason != Reason::Deadline;
                assert_eq!(seen.ejected, counts, "{}", row.reason);
            }
        });
    }
}

/// A wire to a provider that answers each call with one reason.
mod named {
    use std::task::{Context, Poll};

    use futures_util::future::BoxFuture;
    use rsf_core::metadata::Metadata;
    use rsf_core::outcome::Reason;
    use rsf_core::wire::{
        ConnectError, Connection, ConnectionState, Slot, Target, UnaryReply, UnaryRequest, WireError,
    };
    use std::sync::Arc;
    use tokio::sync::watch;

    #[derive(Clone)]
    pub(super) struct Wire(pub(super) Reason);

    impl rsf_core::wire::Wire for Wire {
        fn connect(&self, _: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
            let reason = self.0;
            Box::pin(async move {
                let state = watch::Sender::new(ConnectionState::Ready);
                Ok(Arc::new(Named { reason, state }) as _)
            })
        }
    }

    struct Named {
        reason: Reason,
        state: watch::Sender<ConnectionState>,
    }

    impl Connection for Named {
        fn send(&self, _: &UnaryRequest<'_>) -> Slot {
            Slot(0)
        }

        fn poll(&self, _: Slot, _: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
            let mut status = tonic::Status::internal("");
            let reason = self.reason.name().parse().unwrap();
            status.metadata_mut().insert("rsf-reason", reason);
            Poll::Ready(Ok(UnaryReply {
                result: Err(status.into()),
                metadata: Metadata::new(),
            }))
        }

        fn cancel(&self, _: Slot) {}

        fn state(&self) -> watch::Receiver<ConnectionState> {
            self.state.subscribe()
        }

        fn http(
            &self,
            _: http::Request<tonic::body::Body>,
        ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
            Box::pin(std::future::pending())
        }

        fn close(&self) {}
    }
}
