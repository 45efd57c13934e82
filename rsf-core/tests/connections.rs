//! Connections: made ahead and on demand, closed when idle, to a subset of the instances, probed, and made again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/line.rs"]
mod line;

#[path = "support/watched.rs"]
mod watched;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rsf_core::outcome::Reason;
use rsf_core::policy::ConnectionsRules;
use rsf_core::wire::{ConnectError, Connection, Keepalive, Target, Wire};
use support::{Echo, Fleet, Kind, Node, Peer, eventually, note};
use tokio::time::{Instant, sleep};
use watched::Watched;

/// A fleet in the test's own time whose connections are watched, with `count` instances that are registered.
fn fleet(count: usize) -> (Fleet, Watched, Vec<Node>) {
    let mut fleet = Fleet::in_test();
    let watched = Watched::new(fleet.wire());
    fleet.other_wire = Some(Arc::new(watched.clone()));
    let node = |_| fleet.provide_as(|instance| instance.incarnation = 1, Echo::plain());
    let nodes = (0..count).map(node).collect();
    (fleet, watched, nodes)
}

/// Publishes `connections` for the service and waits until the consumer goes by it.
async fn set(
    fleet: &Fleet,
    peer: &Peer,
    revision: u64,
    connections: &str,
    wanted: impl Fn(&ConnectionsRules) -> bool,
) {
    fleet.service_policy(
        revision,
        &format!(r#"{{"call":{{"connections":{{{connections}}}}}}}"#),
    );
    peer.governed(|policy| wanted(&policy.call.connections)).await;
}

fn connected(peer: &Peer) -> usize {
    let view = peer.channel.view();
    view.instances
        .iter()
        .filter(|instance| instance.connected)
        .count()
}

fn members(peer: &Peer) -> BTreeSet<String> {
    let view = peer.channel.view();
    view.instances
        .into_iter()
        .map(|instance| instance.instance)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_connected_ahead_and_kept() {
    let (fleet, watched, _nodes) = fleet(30);
    fleet.service_policy(1, r#"{"call":{"connections":{"floor":3,"idle_close_ms":60000}}}"#);
    let peer = fleet.consumer();
    eventually("the floor is connected", || connected(&peer) == 3).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(
        (connected(&peer), watched.attempts().len()),
        (3, 3),
        "no call, no more"
    );
    set(&fleet, &peer, 2, r#""floor":7,"idle_close_ms":60000"#, |c| {
        c.floor == 7
    })
    .await;
    eventually("the higher floor is connected", || connected(&peer) == 7).await;
    set(&fleet, &peer, 3, r#""floor":0,"idle_close_ms":60000"#, |c| {
        c.floor == 0
    })
    .await;
    sleep(Duration::from_secs(45)).await;
    assert_eq!(connected(&peer), 7, "they are idle for less than a minute");
    sleep(Duration::from_secs(35)).await;
    assert_eq!((connected(&peer), watched.live()), (0, 0));
    peer.get(note("wake")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_and_calls_bring_them_back() {
    let (fleet, watched, _nodes) = fleet(4);
    let slow = fleet.provide_as(
        |instance| instance.incarnation = 1,
        Echo::slow(Duration::from_secs(900)),
    );
    fleet.service_policy(
        1,
        r#"{"call":{"timeout_ms":3600000,"connections":{"floor":0,"idle_close_ms":60000}}}"#,
    );
    let peer = fleet.consumer();
    peer.governed(|policy| policy.call.connections.floor == 0).await;
    eventually("the first list is there", || members(&peer).len() == 5).await;
    assert_eq!(connected(&peer), 0, "on demand only");
    // Calls go round until one is under way at the slow one.
    let mut running = Vec::new();
    while slow_pending(&peer, &slow) == 0 {
        let mut call = Box::pin(peer.get(note("")).into_future());
        if tokio::time::timeout(Duration::from_millis(10), &mut call)
            .await
            .is_err()
        {
            running.push(call);
        }
    }
    eventually("all are connected", || connected(&peer) == 5).await;
    sleep(Duration::from_secs(80)).await;
    assert_eq!(
        (connected(&peer), watched.live()),
        (1, 1),
        "only the one that works is kept"
    );
    for call in running {
        call.await.unwrap();
    }
    sleep(Duration::from_secs(80)).await;
    assert_eq!(watched.live(), 0);
    fleet.list(|instances| instances.retain(|instance| instance.id != slow.instance.id));
    eventually("the slow one has left", || members(&peer).len() == 4).await;
    peer.get(note("again")).await.unwrap();
    eventually("calls bring them back", || connected(&peer) == 4).await;
    set(&fleet, &peer, 2, r#""floor":0,"idle_close_ms":0"#, |c| {
        c.idle_close_ms == 0
    })
    .await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(connected(&peer), 4, "0: never");
    set(&fleet, &peer, 3, r#""floor":0,"idle_close_ms":1000"#, |c| {
        c.idle_close_ms == 1000
    })
    .await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((connected(&peer), watched.live()), (0, 0));
}

fn slow_pending(peer: &Peer, slow: &Node) -> u32 {
    let view = peer.channel.view();
    let instance = view
        .instances
        .into_iter()
        .find(|i| i.instance == *slow.instance.id);
    instance.map_or(0, |instance| instance.pending)
}

#[tokio::test(start_paused = true)]
async fn each_consumer_uses_its_own_part_of_a_large_service() {
    let (fleet, watched, _nodes) = fleet(40);
    let peer = fleet.consumer_in("order/1", "");
    let all = || members(&peer).len();
    eventually("all of a small service", || all() == 40).await;
    set(&fleet, &peer, 1, r#""subset":10"#, |c| c.subset == 10).await;
    let ten = members(&peer);
    assert_eq!(ten.len(), 10);
    for _ in 0..100 {
        peer.get(note("")).await.unwrap();
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(
        (connected(&peer), watched.live()),
        (10, 10),
        "the others' connections are closed"
    );
    let again = fleet.consumer_in("order/1", "");
    eventually("the same name, the same part", || members(&again) == ten).await;
    let other = fleet.consumer_in("order/2", "");
    eventually("another name, another part", || members(&other).len() == 10).await;
    assert_ne!(members(&other), ten);
    set(&fleet, &peer, 2, r#""subset":12"#, |c| c.subset == 12).await;
    assert!(
        members(&peer).is_superset(&ten) && all() == 12,
        "two more, none less"
    );
    set(&fleet, &peer, 3, r#""subset":0"#, |c| c.subset == 0).await;
    assert_eq!(all(), 40);
}

#[tokio::test(start_paused = true)]
async fn the_subset_takes_its_share_from_the_own_zone() {
    let fleet = Fleet::in_test();
    let zone = |n: usize| ["north", "south", "west"][n % 3];
    let node = |n| fleet.provide_as(|instance| instance.zone = zone(n).into(), Echo::plain());
    let _nodes: Vec<_> = (0..60).map(node).collect();
    let peer = fleet.consumer_in("order/1", "north");
    let north = || {
        let listed: BTreeSet<_> = _nodes
            .iter()
            .filter(|node| &*node.instance.zone == "north")
            .map(|node| node.instance.id.to_string())
            .collect();
        (members(&peer).intersection(&listed).count(), members(&peer).len())
    };
    set(&fleet, &peer, 1, r#""subset":12"#, |c| c.subset == 12).await;
    assert_eq!(north(), (6, 12));
    set(
        &fleet,
        &peer,
        2,
        r#""subset":12,"subset_zone_percent":100"#,
        |c| c.subset_zone_percent == 100,
    )
    .await;
    assert_eq!(north(), (12, 12));
    set(
        &fleet,
        &peer,
        3,
        r#""subset":30,"subset_zone_percent":100"#,
        |c| c.subset == 30,
    )
    .await;
    assert_eq!(north(), (20, 30), "the others fill what the zone has not");
}

#[tokio::test(start_paused = true)]
async fn another_keepalive_replaces_the_connection_without_failing_a_call() {
    let (fleet, watched, _nodes) = fleet(1);
    let foreign = fleet.provide_as(|_| {}, Echo::plain());
    let peer = fleet.consumer();
    peer.connected(2).await;
    let probed = |target: &Target| target.address.as_ref() != foreign.address();
    let last = || {
        let attempts = watched.attempts();
        let (_, target) = attempts.iter().rfind(|(_, target)| probed(target)).unwrap();
        target.keepalive
    };
    assert_eq!(last(), Some(Keepalive::default()));
    let changes = [
        (r#""keepalive_ms":2000"#, 2000, 4000),
        (r#""keepalive_ms":2000,"keepalive_timeout_ms":700"#, 2000, 700),
    ];
    for (revision, (policy, interval, timeout)) in (1..).zip(changes) {
        set(&fleet, &peer, revision, policy, |c| {
            (c.keepalive_ms, c.keepalive_timeout_ms) == (interval, timeout)
        })
        .await;
        let end = Instant::now() + Duration::from_millis(1100);
        while Instant::now() < end {
            peer.get(note("")).await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        let wanted = Keepalive {
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
        };
        assert_eq!((last(), watched.live()), (Some(wanted), 2), "{policy}");
    }
    set(&fleet, &peer, 9, r#""keepalive_ms":0"#, |c| c.keepalive_ms == 0).await;
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(last(), None);
    let attempts = watched.attempts();
    let to_foreign: Vec<_> = attempts.iter().filter(|(_, target)| !probed(target)).collect();
    assert_eq!(
        to_foreign.len(),
        1,
        "who is in no registry is not probed, so nothing changes"
    );
    assert_eq!(to_foreign[0].1.keepalive, None);
}

/// A wire on which connecting takes for ever.
struct Stuck;

impl Wire for Stuck {
    fn connect(&self, _: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        futures_util::future::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_has_its_time() {
    let mut fleet = Fleet::in_test();
    fleet.other_wire = Some(Arc::new(Stuck));
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    for (revision, limit) in [(1, 200), (2, 1500)] {
        let policy = format!(
            r#"{{"call":{{"timeout_ms":5000,"retry":{{"attempts":1}},"connections":{{"connect_timeout_ms":{limit}}}}}}}"#
        );
        fleet.service_policy(revision, &policy);
        peer.governed(|policy| policy.call.connections.connect_timeout_ms == limit)
            .await;
        // An attempt with the earlier limit may be under way.
        sleep(Duration::from_secs(8)).await;
        let error = peer.put(note("")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Connect);
        assert!(
            error.to_string().contains(&format!("within {limit} ms")),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_between_attempts_grow_to_the_policys_limit() {
    let (fleet, watched, mut nodes) = fleet(1);
    let peer = fleet.consumer();
    peer.connected(1).await;
    nodes[0].kill();
    sleep(Duration::from_secs(60)).await;
    let in_a_minute = || async {
        let before = watched.attempts().len();
        sleep(Duration::from_secs(60)).await;
        watched.attempts().len() - before
    };
    let slow = in_a_minute().await;
    assert!((9..=16).contains(&slow), "one in 4 to 6 s: {slow}");
    set(&fleet, &peer, 1, r#""max_pause_ms":1000"#, |c| {
        c.max_pause_ms == 1000
    })
    .await;
    sleep(Duration::from_secs(6)).await;
    let quick = in_a_minute().await;
    assert!((48..=80).contains(&quick), "one in 0.8 to 1.2 s: {quick}");
    nodes[0].restart();
    sleep(Duration::from_millis(1300)).await;
    assert_eq!(connected(&peer), 1);
}

#[tokio::test(start_paused = true)]
async fn consumers_do_not_come_back_in_lock_step() {
    let (fleet, watched, mut nodes) = fleet(1);
    let peers: Vec<_> = (0..100).map(|_| fleet.consumer()).collect();
    for peer in &peers {
        peer.connected(1).await;
    }
    sleep(Duration::from_secs(10)).await;
    let before = watched.attempts().len();
    nodes[0].restart();
    let restarted = Instant::now();
    sleep(Duration::from_secs(1)).await;
    assert!(peers.iter().all(|peer| connected(peer) == 1));
    let mut slots = [0; 10];
    for (at, _) in &watched.attempts()[before..] {
        let slot = (*at - restarted).as_millis() as usize / 50;
        slots[slot.min(9)] += 1;
    }
    assert_eq!(slots.iter().sum::<usize>(), 100, "{slots:?}");
    assert!(
        slots.iter().all(|slot| (1..=25).contains(slot)),
        "spread over half a second: {slots:?}"
    );
    // A call does not wait for that.
    sleep(Duration::from_secs(2)).await;
    nodes[0].restart();
    let begun = Instant::now();
    peers[0].put(note("")).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(40),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_left_keeps_its_connection_for_its_last_call() {
    let (fleet, watched, _nodes) = fleet(1);
    let slow = fleet.provide_as(
        |instance| instance.incarnation = 1,
        Echo::slow(Duration::from_millis(2500)),
    );
    let peer = fleet.consumer();
    peer.connected(2).await;
    let mut call = Box::pin(peer.put(note("slow")).into_future());
    while slow_pending(&peer, &slow) == 0 {
        // It went to the quick one.
        call = Box::pin(peer.put(note("slow")).into_future());
        let _ = tokio::time::timeout(Duration::from_millis(10), &mut call).await;
    }
    fleet.list(|instances| instances.retain(|instance| instance.id != slow.instance.id));
    eventually("it has left", || members(&peer).len() == 1).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(watched.live(), 2, "its call is still under way");
    call.await.unwrap();
    eventually("its connection is closed", || watched.live() == 1).await;
    let attempts = watched.attempts().len();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(watched.attempts().len(), attempts, "nobody calls it any more");
}

/// A proxy whose connections can be made to fall silent: what comes is swallowed, and nothing is closed.
struct Hole {
    address: String,
    silent: tokio::sync::watch::Sender<bool>,
}

impl Hole {
    async fn before(address: &str) -> Hole {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hole = Hole {
            address: listener.local_addr().unwrap().to_string(),
            silent: tokio::sync::watch::Sender::new(false),
        };
        let (address, silent) = (address.to_owned(), hole.silent.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = tokio::net::TcpStream::connect(&address).await.unwrap();
                let ((from, to), (back_from, back_to)) = (client.into_split(), server.into_split());
                tokio::spawn(pump(from, back_to, silent.clone()));
                tokio::spawn(pump(back_from, to, silent.clone()));
            }
        });
        hole
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    silent: tokio::sync::watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let swallowed = *silent.borrow();
        if !swallowed && to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
}

async fn a_half_open_connection_is_found_by_the_keepalive_alone(kind: Kind) {
    let fleet = Fleet::new(kind);
    let node = fleet.start(
        rsf_core::server::Provider::builder().service("", Echo::plain()),
        |instance| instance.incarnation = 1,
    );
    let hole = Hole::before(node.address()).await;
    let mut listed = node.instance.clone();
    listed.address = hole.address.as_str().into();
    fleet.list(|instances| instances.push(listed));
    let unprobed = r#""keepalive_ms":0"#;
    fleet.service_policy(1, &format!(r#"{{"call":{{"connections":{{{unprobed}}}}}}}"#));
    let peer = fleet.consumer();
    peer.governed(|policy| policy.call.connections.keepalive_ms == 0)
        .await;
    peer.connected(1).await;
    peer.get(note("it works")).await.unwrap();
    // The negative control: nobody notices.
    hole.silent.send_replace(true);
    let begun = Instant::now();
    let error = peer
        .get(note("nobody answers"))
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::Deadline);
    assert!(
        begun.elapsed() < Duration::from_millis(600),
        "no call outlives its deadline"
    );
    sleep(Duration::from_millis(700)).await;
    assert_eq!(
        connected(&peer),
        1,
        "without a keepalive the dead connection is held"
    );
    // The same with a keepalive: the connection that it opens is found dead, each time anew.
    hole.silent.send_replace(false);
    set(
        &fleet,
        &peer,
        2,
        r#""keepalive_ms":200,"keepalive_timeout_ms":200"#,
        |c| c.keepalive_ms == 200,
    )
    .await;
    sleep(Duration::from_millis(1200)).await;
    peer.get(note("over the connection that replaced it"))
        .await
        .unwrap();
    hole.silent.send_replace(true);
    let silent = Instant::now();
    eventually("the keepalive finds it", || connected(&peer) == 0).await;
    assert!(
        silent.elapsed() < Duration::from_secs(1),
        "{:?}",
        silent.elapsed()
    );
}

/// Connections that come about while their server begins to drain: what is sent on them is answered, or provably unseen.
async fn nobody_who_comes_with_the_drain_is_left_in_doubt(kind: Kind) {
    let fleet = Fleet::new(kind);
    let mut node = fleet.provide(Echo::plain());
    for round in 0..10 {
        let wire = fleet.wire();
        let target = Target {
            address: node.address().into(),
            keepalive: None,
        };
        let calls = (0..40).map(|_| {
            let (wire, target) = (wire.clone(), target.clone());
            tokio::spawn(async move {
                let Ok(connection) = wire.connect(&target).await else {
                    return None;
                };
                let request = line::request("Get", &note("just in time?"));
                Some(request.over(&connection).await)
            })
        });
        let calls: Vec<_> = calls.collect();
        tokio::task::yield_now().await;
        node.drain();
        for call in calls {
            if let Some(Err(error)) = call.await.unwrap() {
                assert_ne!(
                    error.fate,
                    rsf_core::wire::Fate::Written,
                    "round {round}: {error}"
                );
            }
        }
        node.restart();
    }
}

/// The system accepts for a process that is stopped: that is no connection.
async fn a_peer_that_never_says_a_word_is_not_connected(kind: Kind) {
    let fleet = Fleet::new(kind);
    let stopped = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stopped.local_addr().unwrap().to_string();
    fleet.list(|instances| instances.push(rsf_core::control::Instance::at("stopped", &address)));
    let connections = r#""connections":{"connect_timeout_ms":200}"#;
    fleet.service_policy(
        1,
        &format!(r#"{{"call":{{"retry":{{"attempts":1}},{connections}}}}}"#),
    );
    let peer = fleet.consumer();
    peer.governed(|policy| policy.call.connections.connect_timeout_ms == 200)
        .await;
    sleep(Duration::from_millis(1100)).await;
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Connect, "{error}");
    assert!(!error.may_have_run(), "{error}");
    assert_eq!(connected(&peer), 0);
}

/// Streams have numbers, and they run out: nobody is to notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_grows_old_is_replaced_before_a_call_is_turned_away() {
    const CALLS: u32 = 2000;
    let watched = Watched::new(Arc::new(
        rsf_core::wire::engine::EngineWire::new().with_calls_per_connection(CALLS),
    ));
    let mut fleet = Fleet::new(Kind::Engine);
    fleet.other_wire = Some(Arc::new(watched.clone()));
    let _node = fleet.provide(Echo::plain());
    fleet.service_policy(1, r#"{"call":{"retry":{"attempts":1}}}"#);
    let peer = Arc::new(fleet.consumer());
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    let calls = (0..4).map(|_| {
        let peer = peer.clone();
        tokio::spawn(async move {
            for number in 0..CALLS * 2 {
                peer.get(support::number(number)).await.unwrap();
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let made = watched.attempts().len();
    assert!(
        (5..=10).contains(&made),
        "{made} connections for 8 times the calls of one"
    );
}

/// What becomes of an attempt to connect.
#[derive(Clone, Copy)]
enum Attempt {
    Passes,
    Fails,
    Hangs,
}

/// A wire whose attempts, in their order, go as it is told; those behind them pass.
struct Scripted(Arc<dyn Wire>, Mutex<VecDeque<Attempt>>);

impl Scripted {
    fn new(inner: Arc<dyn Wire>, attempts: &[Attempt]) -> Arc<Scripted> {
        Arc::new(Scripted(inner, Mutex::new(attempts.iter().copied().collect())))
    }
}

impl Wire for Scripted {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let address = target.address.clone();
        match self.1.lock().pop_front() {
            None | Some(Attempt::Passes) => self.0.connect(target),
            Some(Attempt::Hangs) => std::future::pending().boxed(),
            Some(Attempt::Fails) => {
                let reason = "as the test wants it".to_owned();
                std::future::ready(Err(ConnectError {
                    address,
                    reason,
                    refused: false,
                }))
                .boxed()
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_does_not_come_at_once_is_tried_for_again() {
    const CALLS: u32 = 2000;
    let engine = Arc::new(rsf_core::wire::engine::EngineWire::new().with_calls_per_connection(CALLS));
    let script = [Attempt::Passes, Attempt::Fails, Attempt::Fails];
    let watched = Watched::new(Scripted::new(engine, &script));
    let mut fleet = Fleet::new(Kind::Engine);
    fleet.other_wire = Some(Arc::new(watched.clone()));
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    peer.connected(1).await;
    // Enough for it to be old, and not so many that it takes no more.
    for number in 0..CALLS - CALLS / 8 + 10 {
        peer.get(support::number(number)).await.unwrap();
    }
    eventually("there is a successor", || watched.attempts().len() == 4).await;
    // The old one has been let go.
    eventually("only the successor lives", || watched.live() == 1).await;
    assert_eq!(connected(&peer), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_its_successor_is_made_is_seen_to_end() {
    let mut fleet = Fleet::in_test();
    let script = [Attempt::Passes, Attempt::Hangs, Attempt::Hangs];
    fleet.other_wire = Some(Scripted::new(fleet.wire(), &script));
    let mut node = fleet.provide_as(|instance| instance.incarnation = 1, Echo::plain());
    let peer = fleet.consumer();
    peer.connected(1).await;
    let rules = r#""connect_timeout_ms":60000,"keepalive_ms":7000"#;
    set(&fleet, &peer, 1, rules, |c| c.keepalive_ms == 7000).await;
    // Its replacement has begun by now, and hangs.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(connected(&peer), 1);
    node.kill();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(connected(&peer), 0);
}

macro_rules! over {
    ($kind:ident: $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() { super::$case(super::Kind::$kind).await })*
    };
}

mod http2 {
    over! { Http2:
        a_half_open_connection_is_found_by_the_keepalive_alone
        nobody_who_comes_with_the_drain_is_left_in_doubt
        a_peer_that_never_says_a_word_is_not_connected
    }
}

mod engine {
    over! { Engine:
        a_half_open_connection_is_found_by_the_keepalive_alone
        nobody_who_comes_with_the_drain_is_left_in_doubt
        a_peer_that_never_says_a_word_is_not_connected
    }
}
