//! The provider's side: thresholds, pool and queue, deadlines, panics, identity, and what calls inside calls inherit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/line.rs"]
mod line;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rsf_core::client::Channel;
use rsf_core::context::Context;
use rsf_core::message::{Request, Response};
use rsf_core::metadata::Metadata;
use rsf_core::method::ServiceDescriptor;
use rsf_core::outcome::Reason;
use rsf_core::server::{CallScope, Handled, Provider, Service};
use rsf_core::status::{Code, Status};
use rsf_core::wire::{Dispatch, InboundReply, InboundRequest};
use support::{Echo, Fleet, GET, Kind, Note, PUT, Peer, counted, eventually, note, number};
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const ONE_ATTEMPT: &str = r#""call":{"timeout_ms":60000,"retry":{"attempts":1}}"#;

/// One provider with one consumer whose calls have a minute and one attempt.
async fn alone(fleet: &Fleet, echo: &Arc<Echo>) -> (support::Node, Peer) {
    fleet.policy("fleet", 1, &format!("{{{ONE_ATTEMPT}}}"));
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    (node, peer)
}

#[tokio::test(start_paused = true)]
async fn the_pool_runs_so_many_the_queue_holds_so_many_and_the_next_is_refused() {
    let fleet = Fleet::in_test();
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":2,"queue":3}}"#);
    let (echo, gate) = Echo::gated();
    let (node, peer) = alone(&fleet, &echo).await;
    let mut calls = Vec::new();
    for place in 0..5 {
        calls.push(peer.put(number(place)).start());
        tokio::time::sleep(ms(1)).await;
    }
    assert_eq!(echo.counts().began, 2, "two run, three wait");
    let begun = Instant::now();
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::ResourceExhausted, Reason::QueueFull)
    );
    assert!(!error.may_have_run());
    assert!(error.message().contains("provider.queue"), "{error}");
    assert!(begun.elapsed() < ms(2), "refused at once");
    // First come, first served.
    gate.add_permits(2);
    for (place, call) in calls.drain(..2).enumerate() {
        assert_eq!(call.await.unwrap().into_inner().number, place as u32);
    }
    echo.seen()
        .until("the next two run", |counts| counts.began == 4)
        .await;
    let waits = peer.put(note("")).start();
    // A waiting call that is given up frees its place in the queue.
    calls.push(peer.put(note("")).start());
    tokio::time::sleep(ms(1)).await;
    let given_up = calls.pop();
    drop(given_up);
    tokio::time::sleep(ms(1)).await;
    calls.push(peer.put(note("")).start());
    gate.add_permits(100);
    for call in calls {
        call.await.unwrap();
    }
    waits.await.unwrap();
    assert_eq!(counted(&node.registry, "rsf_call_errors_total", "queue_full"), 1);
    assert_eq!(counted(&node.registry, "rsf_call_errors_total", "cancelled"), 1);
    assert_eq!(counted(&node.registry, "rsf_server_calls_underway", ""), 0);
}

/// Polls each call once before it hands it on, so that one that is done at once is polled past its end.
struct Eager(Arc<Echo>);

impl Service for Eager {
    fn descriptor(&self) -> &ServiceDescriptor {
        self.0.descriptor()
    }

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        let mut handled = self.0.clone().call(method, request, scope);
        let _ = (&mut handled).now_or_never();
        handled
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_polled_past_its_end_gives_its_place_back_once() {
    let fleet = Fleet::in_test();
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":1,"queue":0}}"#);
    let (echo, gate) = Echo::gated();
    let node = fleet.provide(Arc::new(Eager(echo.clone())));
    let acknowledged = || fleet.acknowledged("application/echo") == Some((1, None));
    eventually("the small pool is acknowledged", acknowledged).await;
    // Without the client stack, which would end its call at the deadline before the provider does.
    let connection = line::connect(&fleet, &node).await;
    for round in 1..=3 {
        gate.add_permits(1);
        let mut request = line::request("Put", &note(""));
        request.timeout = Some(ms(100));
        // Its answer is lost, and it is still polled when its deadline passes.
        let _ = tokio::time::timeout(ms(200), request.over(&connection)).await;
        assert_eq!(echo.counts().ended, round, "it was let in");
        assert_eq!(counted(&node.registry, "rsf_server_calls_underway", ""), 0);
    }
}

/// Panics when it has made the handler's future.
struct Clumsy(Arc<Echo>);

impl Service for Clumsy {
    fn descriptor(&self) -> &ServiceDescriptor {
        self.0.descriptor()
    }

    fn call(self: Arc<Self>, method: usize, request: Request<Bytes>, scope: CallScope) -> Handled {
        let _made = self.0.clone().call(method, request, scope);
        panic!("the service's own panic")
    }
}

/// A call of `Put` as a wire hands it in.
fn handed_in(node: &support::Node) -> BoxFuture<'static, InboundReply> {
    let method = node.provider.method("/test.v1.Echo/Put", "").unwrap();
    let request = InboundRequest {
        message: Ok(Bytes::new()),
        timeout: None,
        metadata: Metadata::new(),
        peer: None,
    };
    node.provider.unary(method, request)
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_its_calls_own_only_where_the_service_is_being_called() {
    let fleet = Fleet::in_test();
    let (echo, _gate) = Echo::gated();
    let errors = |node: &support::Node| {
        assert_eq!(counted(&node.registry, "rsf_server_calls_underway", ""), 0);
        ["panic", "cancelled"].map(|reason| counted(&node.registry, "rsf_call_errors_total", reason))
    };
    let node = fleet.provide(Arc::new(Clumsy(echo.clone())));
    let status = handed_in(&node).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(errors(&node), [1, 0]);
    // One that nobody has polled goes with somebody else's panic.
    let node = fleet.provide(echo);
    let call = handed_in(&node);
    let other = || {
        let _held = call;
        panic!("somebody else's panic")
    };
    assert!(std::panic::catch_unwind(AssertUnwindSafe(other)).is_err());
    assert_eq!(errors(&node), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn pool_and_queue_change_live() {
    let fleet = Fleet::in_test();
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":1,"queue":10}}"#);
    let (echo, gate) = Echo::gated();
    let (_node, peer) = alone(&fleet, &echo).await;
    let calls: Vec<_> = (0..6).map(|_| peer.put(note("")).start()).collect();
    echo.seen().until("one runs", |counts| counts.began == 1).await;
    fleet.policy("application/echo", 2, r#"{"provider":{"pool":4,"queue":0}}"#);
    echo.seen().until("four run", |counts| counts.began == 4).await;
    // Those who wait already stay; nobody joins them.
    assert_eq!(peer.put(note("")).await.unwrap_err().reason(), Reason::QueueFull);
    fleet.policy("application/echo", 3, r#"{"provider":{"pool":1,"queue":10}}"#);
    let acknowledged = || fleet.acknowledged("application/echo") == Some((3, None));
    eventually("the smaller pool is acknowledged", acknowledged).await;
    tokio::time::sleep(ms(5)).await;
    gate.add_permits(3);
    tokio::time::sleep(ms(5)).await;
    assert_eq!(
        (echo.counts().began, echo.counts().ended),
        (4, 3),
        "the pool is reached by shrinking"
    );
    gate.add_permits(3);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(echo.counts().ended, 6);
}

#[tokio::test(start_paused = true)]
async fn a_threshold_refuses_one_method_and_spares_the_other() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"provider":{"concurrency":{"Put":2}}}"#);
    let (echo, gate) = Echo::gated();
    let (node, peer) = alone(&fleet, &echo).await;
    let puts: Vec<_> = (0..2).map(|_| peer.put(note("")).start()).collect();
    echo.seen()
        .until("both puts run", |counts| counts.began == 2)
        .await;
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::ProviderLimit, false)
    );
    assert!(
        error
            .message()
            .contains("/test.v1.Echo/Put has 2 calls under way"),
        "{error}"
    );
    let get = peer.get(note("")).start();
    echo.seen()
        .until("the get runs", |counts| counts.began == 3)
        .await;
    fleet.service_policy(2, r#"{"provider":{"concurrency":{"Put":3}}}"#);
    eventually("acknowledged", || {
        fleet.acknowledged("service/test.v1.Echo") == Some((2, None))
    })
    .await;
    tokio::time::sleep(ms(5)).await;
    let third = peer.put(note("")).start();
    echo.seen()
        .until("the third put runs", |counts| counts.began == 4)
        .await;
    gate.add_permits(4);
    for call in puts.into_iter().chain([get, third]) {
        call.await.unwrap();
    }
    assert_eq!(
        counted(&node.registry, "rsf_call_errors_total", "provider_limit"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn implementations_have_thresholds_of_their_own() {
    let fleet = Fleet::in_test();
    fleet.policy("fleet", 1, &format!("{{{ONE_ATTEMPT}}}"));
    fleet.policy(
        "service/test.v1.Echo:gold",
        1,
        r#"{"provider":{"concurrency":{"Get":0}}}"#,
    );
    let builder = Provider::builder()
        .service("", Echo::plain())
        .service("gold", Echo::plain());
    let node = fleet.start(builder, |_| {});
    fleet.list(|instances| instances.push(node.instance.clone()));
    fleet
        .control
        .set_instances("test.v1.Echo:gold", vec![node.instance.clone()]);
    let peer = fleet.consumer();
    let gold = peer.channel.implementation("gold");
    for _ in 0..3 {
        peer.get(note("")).await.unwrap();
        let error = gold.call::<Note>(GET, note("").into()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::ProviderLimit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_the_queue_never_runs_the_handler() {
    let fleet = Fleet::in_test();
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":1,"queue":10}}"#);
    let (echo, gate) = Echo::gated();
    let (_node, peer) = alone(&fleet, &echo).await;
    let running = peer.put(note("")).start();
    echo.seen().until("one runs", |counts| counts.began == 1).await;
    let error = peer.put(note("")).timeout(ms(50)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Deadline);
    gate.add_permits(10);
    running.await.unwrap();
    tokio::time::sleep(ms(100)).await;
    assert_eq!(echo.counts().began, 1);
    // Its place in the queue is free again.
    peer.put(note("")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_outlives_its_deadline_is_dropped() {
    let fleet = Fleet::in_test();
    let echo = Echo::silent();
    let (node, peer) = alone(&fleet, &echo).await;
    let begun = Instant::now();
    peer.put(note("")).timeout(ms(50)).await.unwrap_err();
    echo.seen()
        .until("the handler was dropped", |counts| counts.dropped == 1)
        .await;
    assert!(begun.elapsed() < ms(60));
    assert_eq!(counted(&node.registry, "rsf_server_calls_underway", ""), 0);
}

async fn a_panic_ends_only_its_call(kind: Kind) {
    let fleet = Fleet::new(kind);
    let echo = Echo::with(|_, request| async move {
        assert!(request.get_ref().number != 13, "the handler's own panic");
        Ok(Response::new(request.into_inner()))
    });
    let (node, peer) = alone(&fleet, &echo).await;
    for _ in 0..20 {
        let error = peer.put(number(13)).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::Internal, Reason::Panic));
        assert!(error.message().contains("/test.v1.Echo/Put"), "{error}");
        assert!(
            !error.message().contains("own panic"),
            "its text stays in the provider's log: {error}"
        );
        peer.put(number(1)).await.unwrap();
    }
    assert_eq!(counted(&node.registry, "rsf_handler_panics_total", ""), 20);
    assert_eq!(counted(&node.registry, "rsf_call_errors_total", "panic"), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_over_http2() {
    a_panic_ends_only_its_call(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_in_process() {
    a_panic_ends_only_its_call(Kind::InProcess).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_belongs_to_somebody_else_now_is_refused_and_left() {
    let fleet = Fleet::in_test();
    let stranger = Echo::plain();
    // The stranger took over the address of `echo/old`, which is listed still.
    let builder = Provider::builder().service("", stranger.clone());
    let node = fleet.start(builder, |instance| instance.incarnation = 5);
    fleet.list(|instances| {
        let mut old = node.instance.clone();
        old.id = "echo/old".into();
        instances.push(old);
    });
    let peer = fleet.consumer();
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::WrongInstance, false)
    );
    assert!(
        error.message().contains("test/echo/1") && error.message().contains("test/echo/old"),
        "{error}"
    );
    assert_eq!(stranger.counts().began, 0);
    // With a right entry beside it, calls find their way.
    let right = fleet.provide_as(|instance| instance.incarnation = 6, Echo::plain());
    peer.connected(2).await;
    for _ in 0..20 {
        peer.put(note("")).await.unwrap();
    }
    assert_eq!(stranger.counts().began, 0);
    drop(right);
}

/// What a handler sees of its call.
fn surroundings() -> Arc<Echo> {
    Echo::with(|_, _| async {
        let context = Context::current().unwrap();
        let trace = context.trace().unwrap();
        Ok(Response::new(Note {
            number: context.remaining().unwrap().as_millis() as u32,
            text: format!("{:032x} {:016x}", trace.trace_id, trace.span_id),
            ..Note::default()
        }))
    })
}

/// Calls the inner service in every way that a handler can, and reports what each call inherited.
fn relay(inner: Arc<OnceLock<Channel>>) -> Arc<Echo> {
    Echo::with(move |_, _: Request<Note>| {
        let inner = inner.clone();
        async move {
            let channel = inner.get().unwrap();
            let call = || channel.call::<Note>(GET, note("").into());
            let context = Context::current().unwrap();
            let trace = context.trace().unwrap().trace_id;
            let awaited = call().await?.into_inner();
            let started = call().start().await?.into_inner();
            let (send, receive) = tokio::sync::oneshot::channel();
            call().on_complete(|result| drop(send.send(result)));
            let called_back = receive.await.unwrap()?.into_inner();
            // Made here and sent by another task; and made by another task within this context.
            let sent_there = tokio::spawn(call().into_future()).await.unwrap()?.into_inner();
            let there = channel.clone();
            let scoped = context.scope(async move { there.call::<Note>(GET, note("").into()).await });
            let scoped = tokio::spawn(scoped).await.unwrap()?.into_inner();
            let replies = [awaited, started, called_back, sent_there, scoped];
            let inherited =
                |reply: &Note| reply.number <= 500 && reply.text.starts_with(&format!("{trace:032x}"));
            let mut spans: Vec<_> = replies.iter().map(|reply| reply.text.clone()).collect();
            spans.sort();
            spans.dedup();
            Ok(Response::new(Note {
                number: replies.iter().filter(|reply| inherited(reply)).count() as u32,
                text: format!("{} spans: {replies:?}", spans.len()),
                ..Note::default()
            }))
        }
    })
}

async fn calls_inside_calls_inherit_deadline_and_trace(kind: Kind) {
    let fleet = Fleet::new(kind);
    let _inner = fleet.provide(surroundings());
    let inner = fleet.consumer();
    inner.connected(1).await;
    let front = Fleet::new(kind);
    let channel = Arc::new(OnceLock::new());
    channel.set(inner.channel.clone()).ok().unwrap();
    let _outer = front.provide(relay(channel));
    let outer = front.consumer();
    let reply = outer.get(note("")).timeout(ms(500)).await.unwrap().into_inner();
    assert_eq!(reply.number, 5, "{}", reply.text);
    assert!(reply.text.starts_with("5 spans"), "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inheritance_over_http2() {
    calls_inside_calls_inherit_deadline_and_trace(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inheritance_in_process() {
    calls_inside_calls_inherit_deadline_and_trace(Kind::InProcess).await;
}

#[tokio::test(start_paused = true)]
async fn the_callers_cancel_travels_down_the_chain() {
    let fleet = Fleet::in_test();
    let last = Echo::silent();
    let _last = fleet.provide(last.clone());
    let to_last = fleet.consumer();
    let front = Fleet::in_test();
    let channel = to_last.channel.clone();
    let middle = Echo::with(move |_, _| {
        let channel = channel.clone();
        async move { Ok(channel.call::<Note>(GET, note("").into()).await?) }
    });
    let _middle = front.provide(middle.clone());
    let peer = front.consumer();
    let call = peer.put(note("")).start();
    last.seen()
        .until("the last handler began", |counts| counts.began == 1)
        .await;
    drop(call);
    middle
        .seen()
        .until("the middle was dropped", |counts| counts.dropped == 1)
        .await;
    last.seen()
        .until("the last was dropped", |counts| counts.dropped == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_downstream_refusal_is_not_this_handlers() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"provider":{"concurrency":{"Get":0}}}"#);
    let _full = fleet.provide(Echo::plain());
    let downstream = fleet.consumer();
    let front = Fleet::in_test();
    let channel = downstream.channel.clone();
    // Passed on with `?`, and by hand with all that the provider sent.
    let middle = Echo::with(move |method, _| {
        let channel = channel.clone();
        async move {
            let result = channel.call::<Note>(GET, note("").into()).await;
            if method == PUT {
                return Err(result.unwrap_err().status().clone());
            }
            Ok(result?)
        }
    });
    let _middle = front.provide(middle.clone());
    let peer = front.consumer();
    for call in [peer.put(note("")), peer.get(note(""))] {
        let error = call.await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason()),
            (Code::ResourceExhausted, Reason::Handler),
            "{error}"
        );
        assert!(error.may_have_run());
    }
    assert_eq!(
        middle.counts().began,
        2,
        "the middle's own calls were not repeated"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handlers_unimplemented_may_have_run() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::failing(Status::unimplemented("not for gold members")));
    let peer = fleet.consumer();
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.may_have_run());
}
