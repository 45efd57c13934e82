//! Handlers that block, and calls that are waited for inside them: on threads of their own, under the pool, within the
//! context.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rsf_core::client::Channel;
use rsf_core::context::Context;
use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::runtime::blocking;
use rsf_core::server::{Blocking, Provider, Service};
use rsf_core::status::Status;
use support::{Echo, Fleet, GET, Kind, Node, Note, Peer, SOON, counted, eventually, note, number};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Stops its thread until the sender is dropped.
#[derive(Clone)]
struct Gate(Arc<Mutex<mpsc::Receiver<()>>>);

impl Gate {
    fn new() -> (mpsc::Sender<()>, Gate) {
        let (open, gate) = mpsc::channel();
        (open, Gate(Arc::new(Mutex::new(gate))))
    }

    fn pass(&self) {
        // An error is the open gate.
        let _ = self.0.lock().recv_timeout(SOON);
    }
}

/// A consumer and a provider whose handlers may block, on an I/O runtime of one thread, so that a handler that blocked it
/// would stop everything.
fn served(kind: Kind, service: Arc<dyn Service>) -> (Fleet, Node, Peer) {
    let fleet = Fleet::on(kind, rsf_core::runtime::IoRuntime::start(1).unwrap());
    fleet.policy(
        "fleet",
        1,
        r#"{"call":{"timeout_ms":8000,"retry":{"attempts":1}},"provider":{"watchdog_ms":0}}"#,
    );
    let node = fleet.provide(service);
    let peer = fleet.consumer();
    (fleet, node, peer)
}

fn answer(text: impl Into<String>) -> Result<Response<Note>, Status> {
    Ok(Response::new(note(&text.into())))
}

async fn blocked_handlers_stop_nobody(kind: Kind) {
    let (open, gate) = Gate::new();
    let echo = Echo::with(move |method, _| {
        let gate = gate.clone();
        async move {
            if method == GET {
                gate.pass();
            }
            answer(std::thread::current().name().unwrap_or_default())
        }
    });
    let service = Blocking::only(OwnedEcho(echo.clone()), &["Get"]).unwrap();
    let (_fleet, _node, peer) = served(kind, Arc::new(service));
    let blocked: Vec<_> = (0..8).map(|_| peer.get(note("")).start()).collect();
    echo.seen()
        .until("all eight block", |counts| counts.began == 8)
        .await;
    for _ in 0..20 {
        peer.put(note("")).await.unwrap();
    }
    assert!(blocked.iter().all(|call| !call.is_finished()));
    drop(open);
    for call in blocked {
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_handlers_stop_nobody_over_http2() {
    blocked_handlers_stop_nobody(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_handlers_stop_nobody_in_process() {
    blocked_handlers_stop_nobody(Kind::InProcess).await;
}

/// An [`Echo`] by value, as generated servers are.
struct OwnedEcho(Arc<Echo>);

impl Service for OwnedEcho {
    fn descriptor(&self) -> &rsf_core::method::ServiceDescriptor {
        self.0.descriptor()
    }

    fn call(
        self: Arc<Self>,
        method: usize,
        request: rsf_core::message::Request<bytes::Bytes>,
        scope: rsf_core::server::CallScope,
    ) -> rsf_core::server::Handled {
        self.0.clone().call(method, request, scope)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_handler_waits_for_calls_of_its_own_that_inherit_its_context() {
    let inner = Fleet::new(Kind::Http2);
    let seen = Echo::with(|_, _| async {
        let context = Context::current().unwrap();
        let remaining = context.remaining().unwrap().as_millis() as u32;
        let trace = context.trace().unwrap().trace_id;
        Ok(Response::new(Note {
            number: remaining,
            text: format!("{trace:032x}"),
            ..Note::default()
        }))
    });
    let _inner = inner.provide(seen);
    let downstream = inner.consumer();
    downstream.connected(1).await;
    let channel: Arc<OnceLock<Channel>> = Arc::default();
    channel.set(downstream.channel.clone()).ok().unwrap();
    let echo = Echo::with(move |_, _| {
        let channel = channel.clone();
        async move {
            let channel = channel.get().unwrap();
            let call = || channel.call::<Note>(GET, note("").into());
            let context = Context::current().unwrap();
            let waited = call().wait()?.into_inner();
            let started = call().start().wait()?.into_inner();
            let bounded = call().start().wait_for(SOON).ok().unwrap()?.into_inner();
            let awaited = call().await?.into_inner();
            // On a thread that somebody else lends, the context is entered by hand.
            let scope = context.clone();
            let there = channel.clone();
            let elsewhere = std::thread::spawn(move || {
                scope.sync_scope(|| there.call::<Note>(GET, note("").into()).wait())
            });
            let elsewhere = elsewhere.join().unwrap()?.into_inner();
            let trace = format!("{:032x}", context.trace().unwrap().trace_id);
            let inherited = [waited, started, bounded, awaited, elsewhere]
                .iter()
                .filter(|reply| reply.text == trace && reply.number <= 4000)
                .count();
            Ok(Response::new(number(inherited as u32)))
        }
    });
    let (_fleet, _node, peer) = served(Kind::Http2, Arc::new(Blocking::all(OwnedEcho(echo))));
    let reply = peer.get(note("")).timeout(ms(4000)).await.unwrap();
    assert_eq!(reply.into_inner().number, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_counts_blocking_handlers_until_they_return() {
    let (open, gate) = Gate::new();
    let echo = Echo::with(move |_, _| {
        let gate = gate.clone();
        async move {
            gate.pass();
            answer("")
        }
    });
    let (fleet, node, peer) = served(Kind::InProcess, Arc::new(Blocking::all(OwnedEcho(echo.clone()))));
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":2,"queue":1}}"#);
    let acknowledged = || fleet.acknowledged("application/echo") == Some((1, None));
    eventually("the policy is acknowledged", acknowledged).await;
    eventually("it is in force", || {
        counted(&node.registry, "rsf_server_pool_size", "") == 2
    })
    .await;
    let calls: Vec<_> = (0..2).map(|_| peer.put(note("")).start()).collect();
    echo.seen().until("two block", |counts| counts.began == 2).await;
    // Their callers give up; the threads are still taken.
    drop(calls);
    let waits = peer.put(note("")).start();
    eventually("it waits", || {
        counted(&node.registry, "rsf_server_pool_waiting", "") == 1
    })
    .await;
    assert_eq!(counted(&node.registry, "rsf_server_pool_running", ""), 2);
    assert_eq!(peer.put(note("")).await.unwrap_err().reason(), Reason::QueueFull);
    drop(open);
    waits.await.unwrap();
    eventually("all places are free", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_ends_a_handler_that_awaits_on_its_thread() {
    let echo = Echo::silent();
    let (_fleet, node, peer) = served(Kind::Http2, Arc::new(Blocking::all(OwnedEcho(echo.clone()))));
    let call = peer.put(note("")).start();
    echo.seen().until("it began", |counts| counts.began == 1).await;
    drop(call);
    echo.seen()
        .until("it was dropped", |counts| counts.dropped == 1)
        .await;
    eventually("its place is free", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_a_thread_ends_only_its_call() {
    let echo = Echo::with(|_, request| async move {
        assert!(request.get_ref().number != 13, "the handler's own panic");
        answer("")
    });
    let (_fleet, node, peer) = served(Kind::Http2, Arc::new(Blocking::all(OwnedEcho(echo))));
    for _ in 0..5 {
        assert_eq!(peer.put(number(13)).await.unwrap_err().reason(), Reason::Panic);
        peer.put(number(1)).await.unwrap();
    }
    assert_eq!(counted(&node.registry, "rsf_handler_panics_total", ""), 5);
}

#[test]
fn a_method_that_is_not_there_cannot_be_marked() {
    let error = Blocking::only(OwnedEcho(Echo::plain()), &["Get", "Got"])
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "`test.v1.Echo` has no method `Got` whose handler could block; its methods: Get, Put"
    );
}

/// A plain provider over HTTP/2, and a consumer of it.
fn plain() -> (Fleet, Node, Peer) {
    served(Kind::Http2, Echo::plain())
}

#[test]
fn blocking_lets_calls_wait_on_every_kind_of_thread() {
    let (fleet, _node, peer) = plain();
    let wait = |peer: &Peer| peer.get(note("x")).wait().map(|reply| reply.into_inner().text);
    // Without a runtime.
    assert_eq!(wait(&peer).unwrap(), "x");
    assert_eq!(blocking(|| wait(&peer)).unwrap(), "x");
    for workers in [1, 2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .unwrap();
        let channel = peer.channel.clone();
        let call = move || channel.call::<Note>(GET, note("x").into());
        runtime.block_on(async {
            // In the main task, in a worker, and on a thread for blocking work.
            assert_eq!(call().wait().unwrap_err().reason(), Reason::WaitInRuntime);
            assert!(blocking(|| call().wait()).is_ok());
            let there = call.clone();
            let worker = tokio::spawn(async move { blocking(|| there().wait()).is_ok() });
            assert!(worker.await.unwrap());
            let there = call.clone();
            let thread = tokio::task::spawn_blocking(move || blocking(|| there().wait()).is_ok());
            assert!(thread.await.unwrap());
        });
    }
    // One thread alone: it stands still meanwhile, but RSF's own does not.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(
            peer.get(note("")).wait().unwrap_err().reason(),
            Reason::WaitInRuntime
        );
        assert_eq!(blocking(|| wait(&peer)).unwrap(), "x");
        let nested = blocking(|| blocking(|| wait(&peer)));
        assert_eq!(nested.unwrap(), "x");
    });
    // On the very thread that RSF's I/O runs on, where it has one thread only.
    let (done, heard) = mpsc::channel();
    let channel = peer.channel.clone();
    fleet.runtime.handle().spawn(async move {
        let result = blocking(|| channel.call::<Note>(GET, note("x").into()).wait());
        done.send(result.is_ok()).unwrap();
    });
    assert!(heard.recv_timeout(SOON).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_is_not_marked_may_lend_its_thread() {
    let (fleet, _node, inner) = plain();
    let channel = inner.channel.clone();
    let echo = Echo::with(move |_, _| {
        let channel = channel.clone();
        async move {
            let call = || channel.call::<Note>(GET, note("x").into());
            let refused = call().wait().unwrap_err().reason();
            let lent = blocking(|| call().wait())?;
            answer(format!("{refused} {}", lent.get_ref().text))
        }
    });
    let builder = Provider::builder().service("", echo);
    let front = Fleet::on(Kind::Http2, fleet.runtime.clone());
    let node = front.start(builder, |_| {});
    front.list(|instances| instances.push(node.instance.clone()));
    let peer = front.consumer();
    assert_eq!(
        peer.get(note("")).await.unwrap().into_inner().text,
        "wait_in_runtime x"
    );
}
