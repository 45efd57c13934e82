//! Handlers that block their I/O thread without saying so: noticed while they do, named, and moved. In real time, because
//! a blocked thread knows no other.

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
use rsf_core::message::Response;
use rsf_core::runtime::{IoRuntime, blocking};
use support::{Echo, Fleet, Kind, Node, Peer, SOON, counted, eventually, note};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A handler's ways to spend time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Its thread sleeps.
    Blocks,
    /// Its thread computes.
    Spins,
    /// It awaits.
    Awaits,
    /// Its thread sleeps, and it has said so.
    Lends,
}

/// Answers Get at once; Put spends time until the gate opens, ten seconds at most.
struct Guarded {
    echo: Arc<Echo>,
    /// Opens when dropped.
    open: mpsc::Sender<()>,
}

fn guarded(how: How) -> Guarded {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let echo = Echo::with(move |method, request| {
        let gate = gate.clone();
        async move {
            let is_open = move || matches!(gate.lock().try_recv(), Err(mpsc::TryRecvError::Disconnected));
            let wait = |is_open: &dyn Fn() -> bool| {
                while !is_open() {
                    std::thread::park_timeout(ms(1));
                }
            };
            match how {
                _ if method == support::GET => {}
                How::Blocks => wait(&is_open),
                How::Lends => blocking(|| wait(&is_open)),
                How::Spins => {
                    while !is_open() {
                        std::hint::spin_loop();
                    }
                }
                How::Awaits => {
                    while !is_open() {
                        tokio::time::sleep(ms(1)).await;
                    }
                }
            }
            Ok(Response::new(request.into_inner()))
        }
    });
    Guarded { echo, open }
}

async fn served(guarded: &Guarded, watchdog_ms: u64) -> (Fleet, Node, Peer) {
    let fleet = Fleet::on(Kind::Http2, IoRuntime::start(1).unwrap());
    let policy = format!(
        r#"{{"call":{{"timeout_ms":20000,"retry":{{"attempts":1}}}},"provider":{{"watchdog_ms":{watchdog_ms}}}}}"#
    );
    fleet.policy("fleet", 1, &policy);
    let node = fleet.provide(guarded.echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    (fleet, node, peer)
}

fn noticed(node: &Node) -> u64 {
    counted(&node.registry, "rsf_handler_blocked_total", "test.v1.Echo/Put")
}

async fn is_noticed_and_moved(how: How) {
    let guarded = guarded(how);
    let (_fleet, node, peer) = served(&guarded, 50).await;
    peer.get(note("")).await.unwrap();
    let first = peer.put(note("")).start();
    // While it blocks: the provider has one I/O thread, which is gone.
    eventually("it is noticed", || noticed(&node) == 1).await;
    assert!(!first.is_finished());
    drop(guarded.open);
    first.await.unwrap();
    assert_eq!(
        counted(&node.registry, "rsf_handler_blocked_total", ""),
        1,
        "Get is not blamed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_sleeps_on_its_thread_is_noticed() {
    is_noticed_and_moved(How::Blocks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_computes_for_long_is_noticed() {
    is_noticed_and_moved(How::Spins).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_await_or_lend_their_thread_are_not_blamed() {
    for how in [How::Awaits, How::Lends] {
        let guarded = guarded(how);
        let (_fleet, node, peer) = served(&guarded, 25).await;
        let call = peer.put(note("")).start();
        guarded
            .echo
            .seen()
            .until("it began", |counts| counts.began == 1)
            .await;
        // Sixteen looks: those that blame would have.
        tokio::time::sleep(ms(400)).await;
        assert_eq!(noticed(&node), 0, "{how:?}");
        drop(guarded.open);
        call.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_noticed_a_method_stops_the_others_no_more() {
    let sleepy = Echo::with(|method, request| async move {
        if method == support::PUT {
            // Blocks for 300 ms.
            let (_keep, never) = mpsc::channel::<()>();
            let _ = never.recv_timeout(ms(300));
        }
        Ok(Response::new(request.into_inner()))
    });
    let (open, _) = mpsc::channel();
    let (_fleet, node, peer) = served(
        &Guarded {
            echo: sleepy.clone(),
            open,
        },
        50,
    )
    .await;
    peer.put(note("")).await.unwrap();
    assert_eq!(noticed(&node), 1);
    // From now on the provider's one I/O thread stays free, however many of them block.
    let blocked: Vec<_> = (0..8).map(|_| peer.put(note("")).start()).collect();
    sleepy.seen().until("all block", |counts| counts.began == 9).await;
    let begun = tokio::time::Instant::now();
    peer.get(note("")).await.unwrap();
    let took = begun.elapsed();
    assert!(
        took < ms(200),
        "{took:?} while eight handlers block for 300 ms each"
    );
    for call in blocked {
        call.await.unwrap();
    }
    assert_eq!(noticed(&node), 1, "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_changes_live() {
    let guarded_ = guarded(How::Blocks);
    let (fleet, node, peer) = served(&guarded_, 0).await;
    let call = peer.put(note("")).start();
    guarded_
        .echo
        .seen()
        .until("it began", |counts| counts.began == 1)
        .await;
    tokio::time::sleep(ms(400)).await;
    assert_eq!(noticed(&node), 0, "switched off");
    // It is judged by what policy says when it is looked at.
    fleet.policy(
        "fleet",
        2,
        r#"{"call":{"timeout_ms":20000,"retry":{"attempts":1}},"provider":{"watchdog_ms":100}}"#,
    );
    eventually("it is noticed", || noticed(&node) == 1).await;
    drop(guarded_.open);
    call.await.unwrap();
}

/// The texts of all warnings with a field `method`.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_method_while_it_blocks() {
    static WARNINGS: OnceLock<Warnings> = OnceLock::new();
    let warnings = WARNINGS.get_or_init(|| {
        let warnings = Warnings::default();
        tracing::subscriber::set_global_default(warnings.clone()).unwrap();
        warnings
    });
    let guarded = guarded(How::Blocks);
    let (_fleet, _node, peer) = served(&guarded, 50).await;
    let call = peer.put(note("")).start();
    let told = || {
        let warnings = warnings.0.lock();
        warnings
            .iter()
            .any(|text| text.contains("/test.v1.Echo/Put") && text.contains("blocks its I/O thread"))
    };
    eventually("the log says so", told).await;
    assert!(!call.is_finished());
    drop(guarded.open);
    tokio::time::timeout(SOON, call).await.unwrap().unwrap();
}
