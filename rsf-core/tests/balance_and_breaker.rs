//! Which instance a call goes to, what happens to instances that fail, die and come back, and policies that change
//! meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rsf_core::control::Scope;
use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::status::Status;
use support::{ECHO, Echo, Fleet, Kind, Node, Peer, counted, eventually, note};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// So many plain providers, listed with their weights.
fn weighted(fleet: &Fleet, weights: &[u32]) -> (Vec<Arc<Echo>>, Vec<Node>) {
    let echoes: Vec<_> = weights.iter().map(|_| Echo::plain()).collect();
    let node = |(weight, echo): (&u32, &Arc<Echo>)| fleet.provide_as(|i| i.weight = *weight, echo.clone());
    let nodes = weights.iter().zip(&echoes).map(node).collect();
    (echoes, nodes)
}

fn began(echoes: &[Arc<Echo>]) -> Vec<u32> {
    echoes.iter().map(|echo| echo.counts().began).collect()
}

fn shares_are(echoes: &[Arc<Echo>], weights: &[u32], tolerance: f64) {
    let counts = began(echoes);
    let all: u32 = counts.iter().sum();
    let total: u32 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let (share, wanted) = (
            f64::from(*count) / f64::from(all),
            f64::from(*weight) / f64::from(total),
        );
        assert!(
            (share - wanted).abs() <= tolerance,
            "{counts:?} of weights {weights:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn weights_hold_while_idle() {
    for balance in ["least_pending", "random"] {
        fastrand::seed(11);
        let fleet = Fleet::in_test();
        fleet.service_policy(1, &format!(r#"{{"call":{{"balance":"{balance}"}}}}"#));
        let weights = [50, 100, 250];
        let (echoes, _nodes) = weighted(&fleet, &weights);
        let peer = fleet.consumer();
        peer.connected(3).await;
        for _ in 0..4000 {
            peer.get(note("")).await.unwrap();
        }
        shares_are(&echoes, &weights, 0.03);
    }
}

#[tokio::test(start_paused = true)]
async fn weights_hold_under_load_and_in_long_lists() {
    for count in [3, 24] {
        fastrand::seed(12);
        let fleet = Fleet::in_test();
        let weights: Vec<u32> = (0..count).map(|place| 100 * (1 + place % 3)).collect();
        let slow: Vec<_> = weights.iter().map(|_| Echo::slow(ms(50))).collect();
        let nodes = weights.iter().zip(&slow);
        let _nodes: Vec<_> = nodes
            .map(|(weight, echo)| fleet.provide_as(|i| i.weight = *weight, echo.clone()))
            .collect();
        let peer = fleet.consumer();
        // Of a long list the rest is connected when it is their turn.
        for _ in 0..400 {
            let _ = peer.get(note("")).await;
        }
        peer.connected(weights.len()).await;
        let before = began(&slow);
        for _ in 0..40 {
            let calls: Vec<_> = (0..300).map(|_| peer.get(note("")).start()).collect();
            for call in calls {
                call.await.unwrap();
            }
        }
        let total: u32 = weights.iter().sum();
        for (place, echo) in slow.iter().enumerate() {
            let share = f64::from(echo.counts().began - before[place]) / 12_000.0;
            let wanted = f64::from(weights[place]) / f64::from(total);
            assert!(
                (share / wanted - 1.0).abs() < 0.15,
                "{place} of {count}: {share} instead of {wanted}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slower_instance_gets_less() {
    let fleet = Fleet::in_test();
    let (fast, slow) = (Echo::slow(ms(10)), Echo::slow(ms(90)));
    let _nodes = [fleet.provide(fast.clone()), fleet.provide(slow.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let callers = (0..20).map(|_| async {
        for _ in 0..50 {
            peer.get(note("")).await.unwrap();
        }
    });
    futures_util::future::join_all(callers).await;
    let (fast, slow) = (fast.counts().began, slow.counts().began);
    assert!(fast > 4 * slow, "{fast} fast, {slow} slow");
}

#[tokio::test(start_paused = true)]
async fn every_instance_of_a_long_list_takes_part() {
    let fleet = Fleet::in_test();
    let (echoes, _nodes) = weighted(&fleet, &[100; 40]);
    let peer = fleet.consumer();
    for _ in 0..4000 {
        peer.get(note("")).await.unwrap();
    }
    peer.connected(40).await;
    let counts = began(&echoes);
    assert!(counts.iter().all(|count| *count > 40), "{counts:?}");
}

fn now_unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_millis() as u64
}

#[tokio::test(start_paused = true)]
async fn instances_that_may_take_no_calls_take_none_and_the_error_says_why() {
    let fleet = Fleet::in_test();
    let past = now_unix_ms() - 1000;
    fleet.service_policy(
        1,
        &format!(
            r#"{{"instances":[{{"instance":"echo/1","weight":0}},{{"zone":"north","disabled":true}},
                {{"tags":{{"canary":"yes"}},"weight":0}},{{"zone":"","disabled":true,"expires_unix_ms":{past}}}]}}"#
        ),
    );
    let echoes: Vec<_> = (0..5).map(|_| Echo::plain()).collect();
    let mut nodes = vec![
        fleet.provide(echoes[0].clone()),
        fleet.provide_as(|instance| instance.zone = "north".into(), echoes[1].clone()),
        fleet.provide_as(
            |instance| drop(instance.tags.insert("canary".into(), "yes".into())),
            echoes[2].clone(),
        ),
        fleet.provide_as(|instance| instance.draining = true, echoes[3].clone()),
    ];
    let peer = fleet.consumer();
    let error = peer.get(note("")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::NoInstance, false)
    );
    for why in [
        "echo/1 has weight 0",
        "echo/2 is disabled by policy",
        "echo/3 has weight 0",
        "echo/4 drains",
    ] {
        assert!(error.message().contains(why), "`{why}` is missing: {error}");
    }
    nodes.push(fleet.provide(echoes[4].clone()));
    peer.connected(1).await;
    for _ in 0..50 {
        peer.get(note("")).await.unwrap();
    }
    assert_eq!(began(&echoes), [0, 0, 0, 0, 50]);
    // Empty and unknown lists are errors of their own.
    fleet.list(Vec::clear);
    eventually("the list is empty", || peer.channel.view().instances.is_empty()).await;
    let error = peer.get(note("")).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("no instance of `test.v1.Echo` is registered"),
        "{error}"
    );
    let unknown = peer.channel.implementation("gold");
    let error = unknown
        .call::<support::Note>(0, note("").into())
        .await
        .unwrap_err();
    assert!(error.message().contains("test.v1.Echo:gold"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn rules_for_instances_change_live() {
    let fleet = Fleet::in_test();
    let echoes: Vec<_> = (0..3).map(|_| Echo::plain()).collect();
    let _nodes = [
        fleet.provide(echoes[0].clone()),
        fleet.provide_as(|instance| instance.zone = "north".into(), echoes[1].clone()),
        fleet.provide_as(
            |instance| drop(instance.tags.insert("canary".into(), "yes".into())),
            echoes[2].clone(),
        ),
    ];
    let peer = fleet.consumer();
    for (revision, (rule, takes)) in (1..).zip([
        ("", [true, true, true]),
        (r#"{"zone":"north","disabled":true}"#, [true, false, true]),
        (
            r#"{"tags":{"canary":"yes"},"disabled":true}"#,
            [true, true, false],
        ),
        (
            r#"{"disabled":true},{"zone":"north","disabled":false}"#,
            [false, true, false],
        ),
        ("", [true, true, true]),
    ]) {
        fleet.service_policy(revision, &format!(r#"{{"instances":[{rule}]}}"#));
        let scope = format!("service/{ECHO}");
        let in_force = || fleet.acknowledged(&scope) == Some((revision, None));
        eventually("the policy is in force", in_force).await;
        peer.connected(takes.iter().filter(|takes| **takes).count()).await;
        let before = began(&echoes);
        for _ in 0..60 {
            peer.get(note("")).await.unwrap();
        }
        let after = began(&echoes).into_iter();
        let came: Vec<_> = after.zip(before).map(|(now, before)| now > before).collect();
        assert_eq!(came, takes, "{rule}");
    }
}

/// An operator takes one instance out of use: what it has begun it ends, streams included, and it gets nothing new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_instance_ends_what_it_has_and_gets_nothing_new() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let held = gate.clone();
        let leaving = Echo::with(move |_, request| {
            let gate = held.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Response::new(request.into_inner()))
            }
        });
        let _leaves = fleet.provide_as(|instance| instance.id = "echo/leaves".into(), leaving.clone());
        fleet.service_policy(1, r#"{"call":{"timeout_ms":60000}}"#);
        let peer = fleet.consumer();
        peer.connected(1).await;
        let under_way: Vec<_> = (0..3).map(|_| peer.put(note("")).start()).collect();
        leaving.seen().until("all run", |counts| counts.began == 3).await;
        let staying = Echo::plain();
        let _stays = fleet.provide_as(|instance| instance.id = "echo/stays".into(), staying.clone());
        peer.connected(2).await;

        fleet.service_policy(
            2,
            r#"{"call":{"timeout_ms":60000},"instances":[{"instance":"echo/leaves","drained":true}]}"#,
        );
        let left = || peer.channel.view().instances.len() == 1;
        eventually("it takes no new calls", left).await;
        for _ in 0..50 {
            peer.put(note("")).await.unwrap();
        }
        assert_eq!(
            (leaving.counts().began, staying.counts().began),
            (3, 50),
            "{kind:?}"
        );
        gate.add_permits(3);
        for call in under_way {
            call.await.expect("what was under way is finished");
        }
        assert_eq!(leaving.counts().dropped, 0, "{kind:?}");
        // Nobody else is left: the error says why.
        fleet.list(|instances| instances.retain(|instance| &*instance.id == "echo/leaves"));
        eventually("the list is known", || peer.channel.view().instances.is_empty()).await;
        let error = peer.put(note("")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::NoInstance);
        assert!(
            error.message().contains("echo/leaves is drained by policy"),
            "{error}"
        );
        // And back, live.
        fleet.service_policy(3, r#"{"instances":[{"instance":"echo/leaves","drained":false}]}"#);
        gate.add_permits(1);
        peer.connected(1).await;
        peer.put(note("")).await.unwrap();
    }
}

#[tokio::test]
async fn a_rule_ends_when_it_expires() {
    let fleet = Fleet::in_test();
    let soon = now_unix_ms() + 1000;
    let _node = fleet.provide_as(|instance| instance.id = "echo/a".into(), Echo::plain());
    let rule =
        format!(r#"{{"instances":[{{"instance":"echo/a","disabled":true,"expires_unix_ms":{soon}}}]}}"#);
    fleet.service_policy(1, &rule);
    let peer = fleet.consumer();
    assert_eq!(peer.get(note("")).await.unwrap_err().reason(), Reason::NoInstance);
    peer.connected(1).await;
    assert!(now_unix_ms() >= soon);
    peer.get(note("")).await.unwrap();
}

/// Fails while it is told to.
fn sick() -> (Arc<Echo>, Arc<AtomicBool>) {
    let failing = Arc::new(AtomicBool::new(true));
    let echo = Echo::with({
        let failing = failing.clone();
        move |_, request| {
            let fails = failing.load(Ordering::Relaxed);
            std::future::ready(match fails {
                true => Err(Status::unavailable("sick")),
                false => Ok(Response::new(request.into_inner())),
            })
        }
    });
    (echo, failing)
}

fn breaker_of(peer: &Peer, node: &Node) -> &'static str {
    let view = peer.channel.view();
    let mut instances = view.instances.iter();
    instances
        .find(|i| i.instance == *node.instance.id)
        .map_or("absent", |i| i.breaker)
}

#[tokio::test(start_paused = true)]
async fn a_failing_instance_is_ejected_and_comes_back_among_healthy_ones() {
    for others in [2, 20] {
        let fleet = Fleet::in_test();
        fleet.service_policy(1, r#"{"call":{"retry":{"budget_per_second":10000}}}"#);
        let (echo, failing) = sick();
        let sick = fleet.provide(echo.clone());
        let (_echoes, _nodes) = weighted(&fleet, &vec![100; others]);
        let peer = fleet.consumer();
        while breaker_of(&peer, &sick) != "open" {
            peer.get(note("")).await.unwrap();
            assert!(echo.counts().began < 20);
        }
        assert_eq!(echo.counts().began, 5);
        assert_eq!(counted(&peer.registry, "rsf_node_breaker_opened_total", ECHO), 1);
        for _ in 0..100 {
            peer.get(note("")).await.unwrap();
        }
        assert_eq!(echo.counts().began, 5, "ejected instances get no calls");
        // Its time is over, it still fails: one trial, and it is left alone for longer.
        tokio::time::sleep(ms(6_500)).await;
        let mut calls = 0;
        while echo.counts().began == 5 {
            peer.get(note("")).await.unwrap();
            calls += 1;
            assert!(calls < 2000, "no trial among {others} healthy instances");
        }
        for _ in 0..100 {
            peer.get(note("")).await.unwrap();
        }
        assert_eq!(echo.counts().began, 6);
        // It has recovered: one good trial, and it takes its share again.
        failing.store(false, Ordering::Relaxed);
        tokio::time::sleep(ms(13_000)).await;
        for _ in 0..3000 {
            peer.get(note("")).await.unwrap();
        }
        assert_eq!(breaker_of(&peer, &sick), "closed");
        assert!(echo.counts().began > 70, "{} calls", echo.counts().began);
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_the_share_is_ejected_and_the_rest_serves() {
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        r#"{"call":{"node_breaker":{"max_ejected_percent":50},"retry":{"attempts":1}}}"#,
    );
    let sicks: Vec<_> = (0..4).map(|_| sick()).collect();
    let _nodes: Vec<_> = sicks
        .iter()
        .map(|(echo, _)| fleet.provide(echo.clone()))
        .collect();
    let peer = fleet.consumer();
    peer.connected(4).await;
    for _ in 0..200 {
        peer.get(note("")).await.unwrap_err();
    }
    let open = || {
        peer.channel
            .view()
            .instances
            .iter()
            .filter(|i| i.breaker == "open")
            .count()
    };
    assert_eq!(open(), 2);
    let all: u32 = sicks.iter().map(|(echo, _)| echo.counts().began).sum();
    assert_eq!(all, 200, "each call was tried");
}

#[tokio::test(start_paused = true)]
async fn switching_the_breaker_off_lets_everybody_back_at_once() {
    let fleet = Fleet::in_test();
    let (echo, failing) = sick();
    let sick = fleet.provide(echo.clone());
    let _well = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    peer.connected(2).await;
    while breaker_of(&peer, &sick) != "open" {
        peer.get(note("")).await.unwrap();
    }
    failing.store(false, Ordering::Relaxed);
    fleet.service_policy(1, r#"{"call":{"node_breaker":{"enabled":false}}}"#);
    peer.governed(|policy| !policy.call.node_breaker.enabled).await;
    let before = echo.counts().began;
    // What it failed before still takes a part of its share: about a quarter of the calls are left at first.
    for _ in 0..400 {
        peer.get(note("")).await.unwrap();
    }
    assert!(echo.counts().began > before + 50);
}

async fn a_killed_server_is_avoided_and_used_again_after_its_restart(kind: Kind) {
    let fleet = Fleet::new(kind);
    let (echoes, mut nodes) = weighted(&fleet, &[100, 100]);
    let peer = fleet.consumer();
    peer.connected(2).await;
    nodes[0].kill();
    eventually("the death is noticed", || {
        peer.channel.view().instances.iter().any(|i| !i.connected)
    })
    .await;
    let before = echoes[0].counts().began;
    for _ in 0..100 {
        peer.put(note("")).await.unwrap();
    }
    assert_eq!(echoes[0].counts().began, before);
    nodes[0].restart();
    peer.connected(2).await;
    for _ in 0..100 {
        peer.put(note("")).await.unwrap();
    }
    assert!(echoes[0].counts().began > before + 20, "{:?}", began(&echoes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_over_http2() {
    a_killed_server_is_avoided_and_used_again_after_its_restart(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_in_process() {
    a_killed_server_is_avoided_and_used_again_after_its_restart(Kind::InProcess).await;
}

async fn a_draining_server_costs_no_call(kind: Kind) {
    let fleet = Fleet::new(kind);
    let echoes = [Echo::slow(ms(3)), Echo::slow(ms(3))];
    let nodes = echoes.clone().map(|echo| fleet.provide(echo));
    let peer = fleet.consumer();
    peer.connected(2).await;
    let stop = AtomicBool::new(false);
    let callers = (0..16).map(|_| async {
        let mut made = 0;
        while !stop.load(Ordering::Relaxed) {
            // Not idempotent: nothing may be lost, nothing may run twice.
            peer.put(note("")).await.unwrap();
            made += 1;
        }
        made
    });
    let drain = async {
        tokio::time::sleep(ms(100)).await;
        nodes[0].drain();
        tokio::time::sleep(ms(200)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (made, ()) = tokio::join!(futures_util::future::join_all(callers), drain);
    let made: u32 = made.iter().sum();
    assert_eq!(made, echoes.iter().map(|echo| echo.counts().ended).sum::<u32>());
    assert_eq!(echoes[0].counts().dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_over_http2() {
    a_draining_server_costs_no_call(Kind::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_in_process() {
    a_draining_server_costs_no_call(Kind::InProcess).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_timeout_and_weight_hold_without_restart_and_are_acknowledged() {
    let fleet = Fleet::in_test();
    let (echoes, nodes) = weighted(&fleet, &[100, 100]);
    let silent = Echo::silent();
    let peer = fleet.consumer();
    peer.connected(2).await;
    let scope = format!("service/{ECHO}");
    let id = &nodes[0].instance.id;
    fleet.service_policy(
        7,
        &format!(r#"{{"instances":[{{"instance":"{id}","weight":0}}]}}"#),
    );
    eventually("the weight holds", || peer.channel.view().instances.len() == 1).await;
    for _ in 0..50 {
        peer.get(note("")).await.unwrap();
    }
    assert_eq!(began(&echoes), [0, 50]);
    assert_eq!(fleet.acknowledged(&scope), Some((7, None)));
    fleet.list(|instances| instances.clear());
    let _silent = fleet.provide(silent);
    for (revision, timeout) in [(8, 40), (9, 400), (10, 100)] {
        fleet.service_policy(
            revision,
            &format!(r#"{{"methods":{{"Get":{{"timeout_ms":{timeout}}}}}}}"#),
        );
        peer.governed(|policy| policy.call.timeout_ms == timeout).await;
        peer.connected(1).await;
        let begun = tokio::time::Instant::now();
        let error = peer.get(note("")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Deadline);
        assert!(
            error.message().contains(&format!(
                "within {timeout} ms (timeout set by service/{ECHO}@{revision}"
            )),
            "{error}"
        );
        assert!(begun.elapsed() < ms(timeout + 5), "{:?}", begun.elapsed());
        assert_eq!(fleet.acknowledged(&scope), Some((revision, None)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_policy_is_refused_and_the_last_good_one_stays() {
    let fleet = Fleet::in_test();
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    fleet.service_policy(1, r#"{"call":{"timeout_ms":150}}"#);
    peer.governed(|policy| policy.call.timeout_ms == 150).await;
    let scope = format!("service/{ECHO}");
    let too_large = format!(r#"{{"call":{{"timeout_ms":{}1}}}}"#, " ".repeat(300_000));
    let bad = [
        (r#"{"call":{"timeout_ms":"fast"}}"#, "call.timeout_ms"),
        (r#"{"call":{"tiemout_ms":100}}"#, "unknown field"),
        (r#"{"call":"#, "no valid JSON"),
        (&too_large, "at most 262144"),
    ];
    for (revision, (document, problem)) in (2..).zip(bad) {
        fleet.service_policy(revision, document);
        let answered = || {
            fleet
                .acknowledged(&scope)
                .is_some_and(|(acknowledged, _)| acknowledged == revision)
        };
        eventually("the refusal is acknowledged", answered).await;
        let refusal = fleet.acknowledged(&scope).unwrap().1.unwrap();
        assert!(refusal.contains(problem), "{refusal}");
        assert_eq!(peer.metrics.policies_refused.get(), revision - 1);
        assert_eq!(peer.channel.view().policies["Get"].call.timeout_ms, 150);
        peer.get(note("")).await.unwrap();
    }
    // Deleting it is a revision, too.
    fleet.service_policy(9, "");
    peer.governed(|policy| policy.call.timeout_ms == 3000).await;
    assert_eq!(fleet.acknowledged(&scope), Some((9, None)));
}

#[tokio::test(start_paused = true)]
async fn the_balance_changes_live() {
    let fleet = Fleet::in_test();
    let (fast, slow) = (Echo::slow(ms(10)), Echo::slow(ms(90)));
    let _nodes = [fleet.provide(fast.clone()), fleet.provide(slow.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let share = |calls: u32| {
        let (peer, slow) = (&peer, &slow);
        async move {
            let before = slow.counts().began;
            let callers = (0..20).map(|_| async {
                for _ in 0..calls / 20 {
                    peer.get(note("")).await.unwrap();
                }
            });
            futures_util::future::join_all(callers).await;
            f64::from(slow.counts().began - before) / f64::from(calls)
        }
    };
    assert!(share(1000).await < 0.25);
    fleet.service_policy(1, r#"{"call":{"balance":"random"}}"#);
    peer.governed(|policy| policy.call.balance == rsf_core::policy::Balance::Random)
        .await;
    let random = share(2000).await;
    assert!((random - 0.5).abs() < 0.06, "{random}");
}

#[tokio::test(start_paused = true)]
async fn an_applications_policy_reaches_the_consumers_of_its_services() {
    let fleet = Fleet::in_test();
    let peer = fleet.consumer();
    fleet.policy("application/late", 1, r#"{"call":{"timeout_ms":77}}"#);
    let _node = fleet.provide_as(|instance| instance.application = "late".into(), Echo::plain());
    peer.governed(|policy| policy.call.timeout_ms == 77).await;
    let scope = Scope::Application("late".to_owned());
    fleet.control.set_policy(
        &scope,
        2,
        r#"{"call":{"timeout_ms":78},"consumers":{"tester":{"timeout_ms":79}}}"#,
    );
    peer.governed(|policy| policy.call.timeout_ms == 79).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_threads_change_live() {
    let fleet = Fleet::new(Kind::InProcess);
    let _node = fleet.provide(Echo::plain());
    let peer = fleet.consumer();
    let running = Arc::new(tokio::sync::Semaphore::new(0));
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(std::sync::Mutex::new(blocked));
    let begun = Arc::new(std::sync::atomic::AtomicU32::new(0));
    for _ in 0..6 {
        let (blocked, begun, running) = (blocked.clone(), begun.clone(), running.clone());
        peer.get(note("")).on_complete(move |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            // Each callback takes one token; they stand in a row at the lock.
            let _ = blocked.lock().unwrap().recv();
            running.add_permits(1);
        });
    }
    eventually("four callbacks run by default", || {
        begun.load(Ordering::SeqCst) == 4
    })
    .await;
    fleet.policy("fleet", 1, r#"{"callback_threads":6}"#);
    eventually("six callbacks run", || begun.load(Ordering::SeqCst) == 6).await;
    drop(release);
    let _all = running.acquire_many(6).await.unwrap();
}
