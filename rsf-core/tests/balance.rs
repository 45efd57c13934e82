//! The balancers on the whole path of a call: each word of the policy, what they go by, and policies that change
//! meanwhile. How well they do against each other is the simulation's subject (`src/simulation`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/counter.rs"]
mod counter;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use http_body_util::BodyExt as _;
use rsf_core::client::{Balancer, Balancers, CandidateView, Candidates};
use rsf_core::message::{Request, Response};
use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
use rsf_core::policy::Balance;
use rsf_core::server::Provider;
use rsf_core::status::Status;
use support::{Echo, Fleet, GET, Kind, Node, Note, Peer, counted, eventually, note};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Providers that are all of one kind.
fn provide(fleet: &Fleet, count: usize, echo: impl Fn() -> Arc<Echo>) -> (Vec<Arc<Echo>>, Vec<Node>) {
    let echoes: Vec<_> = (0..count).map(|_| echo()).collect();
    let nodes = echoes.iter().map(|echo| fleet.provide(echo.clone())).collect();
    (echoes, nodes)
}

fn began(echoes: &[Arc<Echo>]) -> Vec<u32> {
    echoes.iter().map(|echo| echo.counts().began).collect()
}

fn candidate(peer: &Peer, node: &Node) -> CandidateView {
    let view = peer.channel.view();
    let own = view
        .instances
        .into_iter()
        .find(|i| *i.instance == *node.instance.id);
    own.unwrap().candidate
}

async fn keyed(peer: &Peer, key: &str) {
    peer.get(note("")).routing_key(key).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn round_robin_takes_turns_by_weight() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"balance":"round_robin"}}"#);
    let echoes: Vec<_> = (0..3).map(|_| Echo::plain()).collect();
    let node = |(weight, echo): (u32, &Arc<Echo>)| fleet.provide_as(|i| i.weight = weight, echo.clone());
    let _nodes: Vec<_> = [50, 100, 250].into_iter().zip(&echoes).map(node).collect();
    let peer = fleet.consumer();
    peer.connected(3).await;
    for _ in 0..800 {
        peer.get(note("")).await.unwrap();
    }
    for (count, wanted) in began(&echoes).into_iter().zip([100, 200, 500]) {
        assert!(count.abs_diff(wanted) <= 2, "{:?}", began(&echoes));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_its_instance_and_moves_only_with_it() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"balance":"consistent_hash"}}"#);
    let (echoes, nodes) = provide(&fleet, 5, Echo::plain);
    let peer = fleet.consumer();
    let other = fleet.consumer();
    peer.connected(5).await;
    other.connected(5).await;
    let mut homes = Vec::new();
    for number in 0..200 {
        let key = format!("member-{number}");
        let before = began(&echoes);
        keyed(&peer, &key).await;
        keyed(&peer, &key).await;
        keyed(&other, &key).await;
        let after = began(&echoes);
        let home = (0..5).find(|place| after[*place] == before[*place] + 3);
        homes.push(home.expect("all three calls went to one instance"));
    }
    for place in 0..5 {
        let own = homes.iter().filter(|home| **home == place).count();
        assert!((20..=65).contains(&own), "instance {place} has {own} of 200 keys");
    }
    let gone = nodes[0].instance.id.clone();
    fleet.list(|instances| instances.retain(|instance| instance.id != gone));
    peer.connected(4).await;
    for (number, home) in homes.iter().enumerate() {
        let before = began(&echoes);
        keyed(&peer, &format!("member-{number}")).await;
        let stayed = began(&echoes)[*home] == before[*home] + 1;
        assert_eq!(stayed, *home != 0, "key {number} of instance {home}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_of_a_hash_changes_live() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"balance":"consistent_hash"}}"#);
    let (echoes, _nodes) = provide(&fleet, 4, || Echo::slow(ms(50)));
    let peer = fleet.consumer();
    peer.connected(4).await;
    let busiest = || async {
        let before = began(&echoes);
        join_all((0..100).map(|_| keyed(&peer, "everybody's darling"))).await;
        let all = began(&echoes).into_iter().zip(before);
        all.map(|(after, before)| after - before).max().unwrap()
    };
    // 125 % of a fair share of 25, rounded up.
    let bounded = busiest().await;
    assert!((26..=33).contains(&bounded), "{bounded}");
    fleet.service_policy(
        2,
        r#"{"call":{"balance":"consistent_hash","hash":{"bounded_load_percent":10000}}}"#,
    );
    peer.governed(|policy| policy.call.hash.bounded_load_percent == 10_000)
        .await;
    assert_eq!(busiest().await, 100);
}

#[tokio::test(start_paused = true)]
async fn every_word_changes_live() {
    fastrand::seed(5);
    let fleet = Fleet::in_test();
    let (echoes, _nodes) = provide(&fleet, 3, Echo::plain);
    let peer = fleet.consumer();
    peer.connected(3).await;
    // Each is told from the one before by what it alone does with three hundred keyed calls, one after the other.
    let mut revision = 0;
    for (word, wanted) in [
        ("consistent_hash", Some([0, 0, 300])),
        ("round_robin", Some([100, 100, 100])),
        ("consistent_hash", Some([0, 0, 300])),
        ("least_pending", None),
        ("round_robin", Some([100, 100, 100])),
        ("random", None),
        ("consistent_hash", Some([0, 0, 300])),
        ("peak_ewma", None),
    ] {
        revision += 1;
        fleet.service_policy(revision, &format!(r#"{{"call":{{"balance":"{word}"}}}}"#));
        let balance: Balance = word.parse().unwrap();
        peer.governed(|policy| policy.call.balance == balance).await;
        let before = began(&echoes);
        for _ in 0..300 {
            keyed(&peer, "one").await;
        }
        let after = began(&echoes).into_iter().zip(before);
        let mut counts: Vec<_> = after.map(|(after, before)| after - before).collect();
        counts.sort_unstable();
        match wanted {
            Some(wanted) => assert_eq!(counts, wanted, "{word}"),
            None => assert!(counts[0] > 0 && counts != [100, 100, 100], "{word}: {counts:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_up_changes_live() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"warm_up":{"duration_ms":3600000}}}"#);
    let (_echoes, _nodes) = provide(&fleet, 3, || Echo::slow(ms(10)));
    let peer = fleet.consumer();
    peer.connected(3).await;
    let share = |echo: Arc<Echo>| {
        let peer = &peer;
        async move {
            let before = echo.counts().began;
            for _ in 0..1000 {
                peer.get(note("")).await.unwrap();
            }
            f64::from(echo.counts().began - before) / 1000.0
        }
    };
    let first = share(_echoes[0].clone()).await;
    assert!(
        first > 0.25,
        "who is there from the beginning is not new: {first}"
    );
    // Slower than the others, so that only time ends its warm-up, and not so much that it is avoided.
    let echo = Echo::slow(ms(20));
    let new = fleet.provide(echo.clone());
    peer.connected(4).await;
    let small = share(echo.clone()).await;
    assert!((0.01..0.06).contains(&small), "{small}");
    assert!(candidate(&peer, &new).warm_up < 0.2);
    fleet.service_policy(2, r#"{"call":{"warm_up":{"duration_ms":0}}}"#);
    peer.governed(|policy| policy.call.warm_up.duration_ms == 0).await;
    let whole = share(echo).await;
    assert!(whole > 0.2, "{whole}");
    assert_eq!(candidate(&peer, &new).warm_up, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_new_instance_that_is_fast_is_warm_at_once() {
    let fleet = Fleet::in_test();
    fleet.service_policy(1, r#"{"call":{"warm_up":{"duration_ms":3600000}}}"#);
    let (_echoes, _nodes) = provide(&fleet, 3, || Echo::slow(ms(10)));
    let peer = fleet.consumer();
    peer.connected(3).await;
    let new = fleet.provide(Echo::slow(ms(10)));
    peer.connected(4).await;
    assert!(candidate(&peer, &new).warm_up < 0.2);
    for _ in 0..1000 {
        peer.get(note("")).await.unwrap();
    }
    assert_eq!(candidate(&peer, &new).warm_up, 1.0);
}

#[tokio::test(start_paused = true)]
async fn one_of_ten_that_fails_at_once_costs_next_to_nothing() {
    for balance in ["least_pending", "peak_ewma", "round_robin", "random"] {
        fastrand::seed(3);
        let fleet = Fleet::in_test();
        // Without the breaker: this is what the balancer alone does.
        let policy = format!(r#"{{"call":{{"balance":"{balance}","node_breaker":{{"enabled":false}}}}}}"#);
        fleet.service_policy(1, &policy);
        let (_echoes, _nodes) = provide(&fleet, 9, || Echo::slow(ms(5)));
        let failing = Echo::failing(Status::unavailable("out of order"));
        let node = fleet.provide(failing.clone());
        let peer = fleet.consumer();
        peer.connected(10).await;
        let callers = (0..20).map(|_| async {
            let mut failed = 0;
            for _ in 0..250 {
                failed += u32::from(peer.get(note("")).await.is_err());
            }
            failed
        });
        let failed: u32 = join_all(callers).await.into_iter().sum();
        assert!(failed <= 5, "{balance}: {failed} of 5 000 calls failed");
        let drawn = failing.counts().began;
        assert!(drawn <= 60, "{balance}: {drawn} of 5 000 calls went there");
        assert!(candidate(&peer, &node).failures > 0.2);
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_at_once_does_not_draw_the_calls_that_find_the_others_busy() {
    // The breaker is on, and has not counted enough yet.
    fastrand::seed(7);
    let fleet = Fleet::in_test();
    let policy = r#"{"call":{"retry":{"attempts":1},"node_breaker":{"consecutive_failures":1000}}}"#;
    fleet.service_policy(1, policy);
    let (_echoes, _nodes) = provide(&fleet, 3, || Echo::slow(ms(10)));
    let failing = Echo::failing(Status::unavailable("ill"));
    let _node = fleet.provide(failing.clone());
    let peer = fleet.consumer();
    peer.connected(4).await;
    // More callers than healthy instances: each of those always has a call pending.
    let callers = (0..8).map(|_| async {
        for _ in 0..250 {
            let _ = peer.get(note("")).await;
            tokio::time::sleep(ms(1)).await;
        }
    });
    join_all(callers).await;
    let drawn = failing.counts().began;
    assert!(drawn < 400, "{drawn} of 2 000 calls");
}

#[tokio::test(start_paused = true)]
async fn a_slow_one_of_ten_gets_next_to_nothing_after_ten_seconds() {
    for balance in ["least_pending", "peak_ewma"] {
        fastrand::seed(4);
        let fleet = Fleet::in_test();
        fleet.service_policy(1, &format!(r#"{{"call":{{"balance":"{balance}"}}}}"#));
        let (_echoes, _nodes) = provide(&fleet, 9, || Echo::slow(ms(10)));
        let slow = Echo::slow(ms(500));
        let _node = fleet.provide(slow.clone());
        let peer = fleet.consumer();
        peer.connected(10).await;
        let steady = |calls: u32| {
            let peer = &peer;
            async move {
                let mut started = Vec::new();
                for _ in 0..calls {
                    started.push(peer.get(note("")).start());
                    tokio::time::sleep(ms(2)).await;
                }
                for call in started {
                    call.await.unwrap();
                }
            }
        };
        steady(5000).await;
        let before = slow.counts().began;
        steady(2000).await;
        let share = f64::from(slow.counts().began - before) / 2000.0;
        assert!(share <= 0.005, "{balance}: {share}");
    }
}

/// How many candidates there were, the chosen one's weight, and the key.
type Told = (usize, u32, Option<u64>);

/// Goes round the candidates whatever their load is, and notes what it is told.
struct Turns {
    next: AtomicUsize,
    told: Arc<parking_lot::Mutex<Vec<Told>>>,
}

impl Balancer for Turns {
    fn pick(&self, candidates: &Candidates<'_>, key: Option<u64>) -> Option<usize> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % candidates.len();
        let told = (candidates.len(), candidates.weight(place), key);
        self.told.lock().push(told);
        Some(place)
    }
}

#[tokio::test(start_paused = true)]
async fn an_applications_own_balancer_chooses_where_policy_names_it() {
    let fleet = Fleet::in_test();
    let (echoes, _nodes) = provide(&fleet, 3, Echo::plain);
    let told = Arc::default();
    let turns = Turns {
        next: AtomicUsize::new(0),
        told: Arc::clone(&told),
    };
    let balancers = Balancers::new().with("turns", turns);
    let peer = fleet.consumer_as(|parts| parts.balancers = balancers);
    peer.connected(3).await;
    fleet.service_policy(1, r#"{"call":{"balance":"custom:turns"}}"#);
    peer.governed(|policy| policy.call.balance == Balance::Custom("turns".into()))
        .await;
    for _ in 0..30 {
        keyed(&peer, "k").await;
    }
    assert_eq!(began(&echoes), [10, 10, 10]);
    assert!(told.lock().iter().all(|told| matches!(told, (3, 100, Some(_)))));
    assert_eq!(counted(&peer.registry, "rsf_unknown_balancers_total", ""), 0);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_nobody_registered_is_replaced_and_counted() {
    let fleet = Fleet::in_test();
    let (fast, slow) = (Echo::slow(ms(10)), Echo::slow(ms(90)));
    let _nodes = [fleet.provide(fast), fleet.provide(slow.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    fleet.service_policy(1, r#"{"call":{"balance":"custom:nobodys"}}"#);
    peer.governed(|policy| policy.call.balance == Balance::Custom("nobodys".into()))
        .await;
    let callers = (0..20).map(|_| async {
        for _ in 0..50 {
            peer.get(note("")).await.unwrap();
        }
    });
    join_all(callers).await;
    assert!(slow.counts().began < 250, "least_pending has chosen");
    assert_eq!(counted(&peer.registry, "rsf_unknown_balancers_total", ""), 1);
    // Another snapshot of the same policy is no news.
    fleet.list(|instances| instances[0].weight = 200);
    eventually("the weight is in force", || {
        peer.channel.view().instances.iter().any(|i| i.weight == 200)
    })
    .await;
    assert_eq!(counted(&peer.registry, "rsf_unknown_balancers_total", ""), 1);
}

/// Two instances, of which the first has told that it is loaded four times over.
async fn loaded(fleet: &Fleet) -> (Peer, Vec<Arc<Echo>>, Vec<Node>) {
    let (echoes, nodes) = provide(fleet, 2, Echo::plain);
    let peer = fleet.consumer();
    peer.connected(2).await;
    nodes[0].provider.set_application_utilization(4.0);
    let mut reported = 0.0;
    for _ in 0..200 {
        peer.get(note("")).await.unwrap();
        reported = candidate(&peer, &nodes[0]).load;
        if reported > 0.0 {
            break;
        }
    }
    assert_eq!((reported, candidate(&peer, &nodes[1]).load), (4.0, 0.0));
    (peer, echoes, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_are_reported_over_http2() {
    loaded(&Fleet::new(Kind::Http2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_are_reported_over_the_engine() {
    for kind in [Kind::Engine, Kind::EngineToHttp2, Kind::Http2ToEngine] {
        loaded(&Fleet::new(kind)).await;
    }
}

/// In virtual time: in real time whoever is delayed by a neighbour on the machine is slow, too, and gets less for that.
#[tokio::test(start_paused = true)]
async fn a_loaded_instance_gets_less() {
    let (peer, echoes, _nodes) = loaded(&Fleet::in_test()).await;
    let before = began(&echoes);
    for _ in 0..600 {
        peer.get(note("")).await.unwrap();
    }
    let share = f64::from(echoes[0].counts().began - before[0]) / 600.0;
    assert!((0.1..0.25).contains(&share), "a fifth of the other's: {share}");
}

#[tokio::test(start_paused = true)]
async fn running_and_waiting_calls_are_load() {
    let fleet = Fleet::in_test();
    fleet.policy("application/echo", 1, r#"{"provider":{"pool":4}}"#);
    let echo = Echo::with(|_, request: Request<Note>| async move {
        tokio::time::sleep(ms(u64::from(request.get_ref().number))).await;
        Ok(Response::new(request.into_inner()))
    });
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    let long: Vec<_> = (0..3).map(|_| peer.get(support::number(1000)).start()).collect();
    echo.seen().until("three run", |seen| seen.began == 3).await;
    peer.get(support::number(1)).await.unwrap();
    assert_eq!(candidate(&peer, &node).load, 0.75);
    for call in long {
        call.await.unwrap();
    }
    // Nobody reports while nobody calls: what is old counts no more.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(candidate(&peer, &node).load, 0.0);
}

#[tokio::test(start_paused = true)]
async fn load_is_measured_by_the_pools_own_size_and_refusals_are_none() {
    let fleet = Fleet::in_test();
    let learned = r#"{"provider":{"queue":0,"adaptive":{"enabled":true,"initial":2,"min":2,"max":2}}}"#;
    fleet.policy("application/echo", 1, learned);
    let echo = Echo::with(|_, request: Request<Note>| async move {
        tokio::time::sleep(ms(u64::from(request.get_ref().number))).await;
        Ok(Response::new(request.into_inner()))
    });
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    let mut long = vec![peer.get(support::number(1000)).start()];
    echo.seen().until("one runs", |seen| seen.began == 1).await;
    peer.get(support::number(1)).await.unwrap();
    assert_eq!(candidate(&peer, &node).load, 0.5);
    long.push(peer.get(support::number(1000)).start());
    echo.seen().until("both run", |seen| seen.began == 3).await;
    // Full: each of these is refused, and none of them is load.
    tokio::time::sleep(ms(200)).await;
    let refused = join_all((0..20).map(|_| peer.get(support::number(1)).start())).await;
    assert!(refused.iter().all(Result::is_err));
    assert_eq!(candidate(&peer, &node).load, 1.0);
    for call in long {
        call.await.unwrap();
    }
}

async fn a_provider_of_tonic_services_alone_reports_its_load(kind: Kind) {
    let fleet = Fleet::new(kind);
    let scope = "application/echo";
    fleet.policy(scope, 1, r#"{"provider":{"pool":2}}"#);
    let node = fleet.start(Provider::builder().tonic_service(counter::Counter), |_| {});
    let service = "test.v1.Counter";
    fleet.control.set_instances(service, vec![node.instance.clone()]);
    let peer = fleet.consumer();
    let descriptor = ServiceDescriptor {
        name: service.into(),
        methods: vec![MethodDescriptor::plain(service, "Next")].into(),
        schema: Vec::new().into(),
    };
    let channel = peer.consumer.channel(&descriptor, "");
    let size = || counted(&node.registry, "rsf_server_pool_size", "");
    eventually("the pool has two places", || size() == 2).await;
    let held = channel.call::<Note>(GET, Request::new(note("hold"))).start();
    let running = || counted(&node.registry, "rsf_server_pool_running", "");
    eventually("one runs", || running() == 1).await;
    let reply = channel.call::<Note>(GET, Request::new(support::number(7)));
    assert_eq!(reply.await.unwrap().get_ref().number, 8);
    assert_eq!(channel.view().instances[0].candidate.load, 0.5);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_services_report_their_load_over_http2() {
    a_provider_of_tonic_services_alone_reports_its_load(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_services_report_their_load_in_process() {
    a_provider_of_tonic_services_alone_reports_its_load(Kind::InProcess).await;
}

/// The tonic service, with the report that other gRPC servers write into their trailers.
#[derive(Clone)]
struct Reporting(counter::Counter);

impl tonic::server::NamedService for Reporting {
    const NAME: &'static str = "test.v1.Counter";
}

impl tower::Service<http::Request<tonic::body::Body>> for Reporting {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = tower::Service::call(&mut self.0, request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| {
                tonic::body::Body::new(body.map_frame(|frame| match frame.into_trailers() {
                    Ok(mut trailers) => {
                        // OrcaLoadReport { cpu_utilization: 0.5, mem_utilization: 0.25 }.
                        let report = "CQAAAAAAAOA/EQAAAAAAANA/";
                        trailers.insert("endpoint-load-metrics-bin", report.parse().unwrap());
                        http_body::Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                }))
            }))
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_other_grpc_servers_are_understood() {
    let fleet = Fleet::new(Kind::Http2);
    let builder = Provider::builder().tonic_service(Reporting(counter::Counter));
    let node = fleet.start(builder, |_| {});
    let service = "test.v1.Counter";
    fleet.control.set_instances(service, vec![node.instance.clone()]);
    let peer = fleet.consumer();
    let descriptor = ServiceDescriptor {
        name: service.into(),
        methods: vec![MethodDescriptor::plain(service, "Next")].into(),
        schema: Vec::new().into(),
    };
    let channel = peer.consumer.channel(&descriptor, "");
    let reply = channel.call::<Note>(GET, Request::new(support::number(7)));
    assert_eq!(reply.await.unwrap().get_ref().number, 8);
    assert_eq!(channel.view().instances[0].candidate.load, 0.5);
}

#[tokio::test(start_paused = true)]
async fn what_the_balancer_goes_by_is_there_for_people() {
    let fleet = Fleet::in_test();
    let (echoes, nodes) = provide(&fleet, 2, || Echo::slow(ms(10)));
    let peer = fleet.consumer();
    peer.connected(2).await;
    for _ in 0..20 {
        peer.get(note("")).await.unwrap();
    }
    let pending = peer.get(note("")).start();
    // It goes to one of them; time stands still meanwhile.
    while began(&echoes).iter().sum::<u32>() < 21 {
        tokio::task::yield_now().await;
    }
    let views = [candidate(&peer, &nodes[0]), candidate(&peer, &nodes[1])];
    let busy = views.iter().find(|view| view.pending == 1).unwrap();
    let json = serde_json::to_value(busy).unwrap();
    assert_eq!(json["tier"], "well");
    assert_eq!((&json["weight"], &json["pending"]), (&100.into(), &1.into()));
    assert_eq!(
        (&json["load"], &json["failures"], &json["warm_up"]),
        (&0.0.into(), &0.0.into(), &1.0.into())
    );
    assert_eq!(json["breaker"], "closed");
    assert!((9.0..13.0).contains(&busy.latency_ms), "{busy:?}");
    assert!((busy.score - 0.01).abs() < 1e-6, "one call per hundred: {busy:?}");
    pending.await.unwrap();
}
