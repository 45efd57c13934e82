//! The four ways to use a call, each with success, error, cancel and panic, from every kind of thread.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::runtime::{IoRuntime, blocking};
use rsf_core::status::{Code, Status};
use support::{Echo, Fleet, Kind, Node, Peer, SOON, counted, eventually, note, number};

/// One provider and one consumer.
struct Pair {
    fleet: Fleet,
    node: Node,
    peer: Peer,
    echo: Arc<Echo>,
}

fn pair(kind: Kind, echo: Arc<Echo>) -> Pair {
    let fleet = Fleet::new(kind);
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    Pair {
        fleet,
        node,
        peer,
        echo,
    }
}

/// Answers notes, fails on number 1, stays silent on number 2, panics on number 3.
fn moody() -> Arc<Echo> {
    Echo::with(|_, request| async move {
        match request.get_ref().number {
            1 => Err(Status::not_found("nobody")),
            2 => std::future::pending().await,
            3 => panic!("the handler's own panic"),
            _ => Ok(Response::new(request.into_inner())),
        }
    })
}

async fn awaited(kind: Kind) {
    let pair = pair(kind, moody());
    assert_eq!(pair.peer.get(note("a")).await.unwrap().into_inner().text, "a");
    let error = pair.peer.get(number(1)).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::NotFound, Reason::Handler));
    assert_eq!(error.message(), "nobody");
    assert_eq!(error.instance(), Some(&*pair.node.instance.id));
    let error = pair.peer.get(number(3)).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Internal, Reason::Panic));
    let error = pair
        .peer
        .get(number(2))
        .timeout(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::DeadlineExceeded, Reason::Deadline)
    );
    pair.echo
        .seen()
        .until("the silent handler was dropped", |c| c.dropped >= 2)
        .await;
    // Dropping the future cancels at the provider.
    let asked = tokio::spawn(pair.peer.get(number(2)).into_future());
    pair.echo
        .seen()
        .until("the handler began", |c| c.began == 5)
        .await;
    asked.abort();
    pair.echo
        .seen()
        .until("the handler was dropped", |c| c.dropped == 3)
        .await;
}

fn waited(kind: Kind) {
    let pair = pair(kind, moody());
    assert_eq!(pair.peer.get(note("a")).wait().unwrap().into_inner().text, "a");
    assert_eq!(
        pair.peer.get(number(1)).wait().unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        pair.peer.get(number(3)).wait().unwrap_err().reason(),
        Reason::Panic
    );
    let late = pair.peer.get(number(2)).timeout(Duration::from_millis(50)).wait();
    assert_eq!(late.unwrap_err().reason(), Reason::Deadline);
    // Many plain threads at once.
    std::thread::scope(|scope| {
        for place in 10..42 {
            let peer = &pair.peer;
            scope.spawn(move || {
                let reply = peer.get(number(place)).wait().unwrap();
                assert_eq!(reply.into_inner().number, place);
            });
        }
    });
}

async fn started(kind: Kind) {
    let pair = pair(kind, moody());
    assert_eq!(
        pair.peer.get(note("a")).start().await.unwrap().into_inner().text,
        "a"
    );
    assert_eq!(
        pair.peer.get(number(1)).start().await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        pair.peer.get(number(3)).start().await.unwrap_err().reason(),
        Reason::Panic
    );
    // It is sent without being polled, and dropping it cancels.
    let before = pair.echo.counts();
    let call = pair.peer.get(number(2)).start();
    pair.echo
        .seen()
        .until("the handler began", |c| c.began == before.began + 1)
        .await;
    assert!(!call.is_finished());
    drop(call);
    pair.echo
        .seen()
        .until("the handler was dropped", |c| c.dropped == before.dropped + 1)
        .await;
    eventually("the cancelled call is counted", || {
        counted(&pair.peer.registry, "rsf_call_errors_total", "cancelled") == 1
    })
    .await;
    assert_eq!(counted(&pair.peer.registry, "rsf_client_calls_underway", ""), 0);
    let peer = pair.peer;
    let waits = tokio::task::spawn_blocking(move || {
        blocking(|| {
            assert_eq!(peer.get(note("b")).start().wait().unwrap().into_inner().text, "b");
            let Err(call) = peer.get(number(2)).start().wait_for(Duration::from_millis(20)) else {
                panic!("a silent handler answered");
            };
            // Still under way: it can be waited for again, or dropped.
            assert!(call.wait_for(Duration::ZERO).is_err());
            let in_time = peer.get(note("c")).start().wait_for(SOON);
            assert_eq!(in_time.ok().unwrap().unwrap().into_inner().text, "c");
        });
    });
    waits.await.unwrap();
    pair.echo
        .seen()
        .until("the given-up call was dropped", |c| {
            c.dropped == before.dropped + 2
        })
        .await;
}

fn called_back(kind: Kind) {
    let pair = pair(kind, moody());
    let (results, came) = mpsc::channel();
    let send = |name: &'static str| {
        let results = results.clone();
        move |result: Result<Response<support::Note>, rsf_core::error::RpcError>| {
            let text = result
                .map(|reply| reply.into_inner().text)
                .map_err(|error| error.reason());
            results.send((name, text)).unwrap();
        }
    };
    pair.peer.get(note("a")).on_complete(send("reply"));
    assert_eq!(came.recv_timeout(SOON).unwrap(), ("reply", Ok("a".to_owned())));
    pair.peer.get(number(1)).on_complete(send("error"));
    assert_eq!(came.recv_timeout(SOON).unwrap(), ("error", Err(Reason::Handler)));
    pair.peer
        .get(number(2))
        .timeout(Duration::from_millis(50))
        .on_complete(send("late"));
    assert_eq!(came.recv_timeout(SOON).unwrap(), ("late", Err(Reason::Deadline)));
    // More panics than callback threads: each is caught and counted, and the next callbacks run.
    for _ in 0..20 {
        pair.peer
            .get(note(""))
            .on_complete(|_| panic!("the callback's own panic"));
    }
    while pair.peer.metrics.callback_panics.get() < 20 {
        std::thread::yield_now();
    }
    pair.peer.get(note("b")).on_complete(send("after"));
    assert_eq!(came.recv_timeout(SOON).unwrap(), ("after", Ok("b".to_owned())));
    // A callback may wait for a call of its own.
    let (peer, waited) = (pair.peer.channel.clone(), results.clone());
    pair.peer.get(note("")).on_complete(move |_| {
        let inner = peer
            .call::<support::Note>(support::GET, note("inner").into())
            .wait();
        waited
            .send(("inner", Ok(inner.unwrap().into_inner().text)))
            .unwrap();
    });
    assert_eq!(
        came.recv_timeout(SOON).unwrap(),
        ("inner", Ok("inner".to_owned()))
    );
}

async fn wait_inside_a_runtime_is_an_error(kind: Kind) {
    let pair = pair(kind, Echo::plain());
    pair.peer.get(note("")).await.unwrap();
    let error = pair.peer.put(note("a")).wait().unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::WaitInRuntime, false)
    );
    assert!(error.message().contains(".await"), "{error}");
    // A thread that the runtime keeps for blocking work says so, too, until it is told that it may block.
    let peer = pair.peer;
    let peer = tokio::task::spawn_blocking(move || {
        assert_eq!(
            peer.put(note("b")).wait().unwrap_err().reason(),
            Reason::WaitInRuntime
        );
        blocking(|| peer.put(note("c")).wait()).unwrap();
        assert_eq!(
            peer.put(note("d")).wait().unwrap_err().reason(),
            Reason::WaitInRuntime
        );
        peer
    });
    let peer = peer.await.unwrap();
    let Ok(Err(error)) = peer.get(number(2)).start().wait_for(SOON) else {
        panic!("it waited");
    };
    assert_eq!(error.reason(), Reason::WaitInRuntime);
    // The runtime is well, and of the four only the permitted one was sent.
    peer.get(note("")).await.unwrap();
    assert_eq!(
        counted(
            &pair.node.registry,
            "rpc_server_call_duration_seconds",
            "test.v1.Echo/Put"
        ),
        1
    );
}

fn foreign_executors(kind: Kind) {
    let pair = pair(kind, moody());
    // No tokio anywhere on this thread; with timers at work.
    pair.fleet.service_policy(
        1,
        r#"{"call":{"attempt_timeout_ms":1000,"retry":{"backoff_ms":1}}}"#,
    );
    let reply = futures_executor::block_on(pair.peer.get(note("a")).into_future());
    assert_eq!(reply.unwrap().into_inner().text, "a");
    let late = pair
        .peer
        .get(number(2))
        .timeout(Duration::from_millis(50))
        .into_future();
    assert_eq!(
        futures_executor::block_on(late).unwrap_err().reason(),
        Reason::Deadline
    );
    assert_eq!(
        futures_executor::block_on(pair.peer.get(note("b")).start())
            .unwrap()
            .into_inner()
            .text,
        "b"
    );
    // Another tokio runtime, without timers or I/O of its own.
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let reply = other.block_on(pair.peer.get(note("c")).into_future());
    assert_eq!(reply.unwrap().into_inner().text, "c");
    let late = pair
        .peer
        .get(number(2))
        .timeout(Duration::from_millis(50))
        .into_future();
    assert_eq!(other.block_on(late).unwrap_err().reason(), Reason::Deadline);
}

async fn an_unstarted_call_sends_nothing(kind: Kind) {
    let pair = pair(kind, Echo::plain());
    drop(pair.peer.get(note("a")));
    drop(pair.peer.get(note("b")).into_future());
    pair.peer.get(note("c")).await.unwrap();
    assert_eq!(pair.echo.counts().began, 1);
    assert_eq!(
        counted(&pair.peer.registry, "rpc_client_call_duration_seconds", ""),
        1
    );
}

async fn ten_thousand_at_once(kind: Kind) {
    let pair = pair(kind, Echo::plain());
    pair.fleet
        .policy("application/echo", 1, r#"{"provider":{"queue":20000}}"#);
    pair.fleet.service_policy(1, r#"{"call":{"timeout_ms":60000}}"#);
    pair.peer.connected(1).await;
    pair.peer
        .governed(|policy| policy.call.timeout_ms == 60_000)
        .await;
    let calls: Vec<_> = (0..10_000)
        .map(|place| pair.peer.put(number(place)).start())
        .collect();
    for (place, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().into_inner().number, place as u32);
    }
    assert_eq!(pair.echo.counts().ended, 10_000);
    assert_eq!(pair.peer.metrics.retries.get(), 0);
    assert_eq!(pair.peer.channel.view().instances[0].pending, 0);
}

fn threads() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.unwrap().trim().parse().unwrap()
}

/// A service whose handler calls `next` with the number less one, until it is zero.
fn calling(
    next: Arc<std::sync::OnceLock<rsf_core::client::Channel>>,
    most_threads: Arc<AtomicU32>,
) -> Arc<Echo> {
    Echo::with(move |_, request| {
        let (next, most_threads) = (next.clone(), most_threads.clone());
        async move {
            let left = request.get_ref().number;
            if left == 0 {
                most_threads.fetch_max(threads(), Ordering::Relaxed);
                return Ok(Response::new(number(0)));
            }
            let channel = next.get().expect("the channel is set");
            let reply = channel
                .call::<support::Note>(support::GET, number(left - 1).into())
                .await?;
            Ok(Response::new(number(reply.into_inner().number + 1)))
        }
    })
}

async fn a_chain_blocks_no_thread(kind: Kind) {
    let next = Arc::new(std::sync::OnceLock::new());
    let most = Arc::new(AtomicU32::new(0));
    let pair = pair(kind, calling(next.clone(), most.clone()));
    pair.fleet.service_policy(1, r#"{"call":{"timeout_ms":60000}}"#);
    next.set(pair.peer.channel.clone()).ok().unwrap();
    pair.peer.connected(1).await;
    pair.peer
        .governed(|policy| policy.call.timeout_ms == 60_000)
        .await;
    let before = threads();
    // A thousand calls A → B at once.
    let calls: Vec<_> = (0..1000).map(|_| pair.peer.get(number(1)).start()).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().into_inner().number, 1);
    }
    // And a hundred deep, then deeper than any stack of nested polls would bear.
    for depth in [100, 900] {
        assert_eq!(
            pair.peer.get(number(depth)).await.unwrap().into_inner().number,
            depth
        );
    }
    let most = most.load(Ordering::Relaxed);
    assert!(most <= before + 2, "{most} threads, {before} before");
}

macro_rules! on_all_wires {
    ($(async $case:ident)* ; $(plain $thread:ident)*) => {
        mod http2 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(super::Kind::Http2).await })*
            $(#[test] fn $thread() { super::$thread(super::Kind::Http2) })*
        }
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(super::Kind::InProcess).await })*
            $(#[test] fn $thread() { super::$thread(super::Kind::InProcess) })*
        }
    };
}

on_all_wires! {
    async awaited
    async started
    async wait_inside_a_runtime_is_an_error
    async an_unstarted_call_sends_nothing
    async ten_thousand_at_once
    async a_chain_blocks_no_thread
    ;
    plain waited
    plain called_back
    plain foreign_executors
}

#[test]
fn a_runtime_ends_with_its_last_user() {
    let echo = Echo::plain();
    let live = || {
        let runtime = IoRuntime::start(2).unwrap();
        let fleet = Fleet::on(Kind::InProcess, runtime);
        let _node = fleet.provide(echo.clone());
        let peer = fleet.consumer();
        peer.get(note("")).wait().unwrap();
    };
    let alone = threads();
    // The first one starts the watchdog's thread, of which a process has one for ever.
    live();
    let before = alone + 1;
    for _ in 0..3 {
        live();
    }
    let begun = std::time::SystemTime::now();
    while threads() > before {
        assert!(
            begun.elapsed().unwrap() < SOON,
            "{} threads, {before} before",
            threads()
        );
        std::thread::yield_now();
    }
}
