//! The provider's limits under load: groups, shares, a queue that knows deadlines and priorities, a learned pool, and
//! goodput at twice the capacity. All in virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use support::{Echo, Fleet, GET, Node, Note, PUT, Peer, counted, eventually, note, number};
use tokio::sync::Semaphore;
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Answers when it gets a permit.
fn gated() -> (Arc<Echo>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let echo = Echo::with({
        let gate = gate.clone();
        move |_, request| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Response::new(request.into_inner()))
            }
        }
    });
    (echo, gate)
}

const ONE_ATTEMPT: &str = r#""call":{"timeout_ms":60000,"retry":{"attempts":1},"node_breaker":{"enabled":false}},"provider":{"watchdog_ms":0}"#;

/// One provider with one consumer whose calls have a minute and one attempt.
async fn alone(fleet: &Fleet, echo: &Arc<Echo>) -> (Node, Peer) {
    fleet.policy("fleet", 1, &format!("{{{ONE_ATTEMPT}}}"));
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    (node, peer)
}

/// Publishes what holds at the provider and waits until it does.
async fn provider(fleet: &Fleet, scope: &str, revision: u64, provider: &str) {
    fleet.policy(scope, revision, &format!(r#"{{"provider":{provider}}}"#));
    let acknowledged = || fleet.acknowledged(scope) == Some((revision, None));
    eventually("the policy is acknowledged", acknowledged).await;
    tokio::time::sleep(ms(5)).await;
}

const SERVICE: &str = "service/test.v1.Echo";
const INSTANCE: &str = "application/echo";

async fn began(echo: &Echo, count: u32) {
    let what = format!("{count} have begun");
    echo.seen().until(&what, |counts| counts.began == count).await;
    // And no further one.
    tokio::time::sleep(ms(2)).await;
    assert_eq!(echo.counts().began, count);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_one_limit_for_its_methods() {
    let fleet = Fleet::in_test();
    let (echo, gate) = gated();
    let (node, peer) = alone(&fleet, &echo).await;
    let group = r#"{"groups":{"all":{"methods":["Get","Put"],"concurrency":3}}}"#;
    provider(&fleet, SERVICE, 1, group).await;
    let mut calls = vec![
        peer.get(note("")).start(),
        peer.get(note("")).start(),
        peer.put(note("")).start(),
    ];
    began(&echo, 3).await;
    for call in [peer.get(note("")), peer.put(note(""))] {
        let error = call.await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason(), error.may_have_run()),
            (Code::ResourceExhausted, Reason::ProviderLimit, false)
        );
        assert!(
            error.message().contains("provider.groups.all.concurrency"),
            "{error}"
        );
    }
    // Live: a larger number, then other methods. Calls under way keep their places.
    let group = r#"{"groups":{"all":{"methods":["Get","Put"],"concurrency":4}}}"#;
    provider(&fleet, SERVICE, 2, group).await;
    calls.push(peer.put(note("")).start());
    began(&echo, 4).await;
    let group = r#"{"groups":{"all":{"methods":["Get"],"concurrency":4}}}"#;
    provider(&fleet, SERVICE, 3, group).await;
    calls.push(peer.put(note("")).start());
    began(&echo, 5).await;
    assert_eq!(
        peer.get(note("")).await.unwrap_err().reason(),
        Reason::ProviderLimit
    );
    gate.add_permits(100);
    for call in calls {
        call.await.unwrap();
    }
    // Every place came back.
    let calls: Vec<_> = (0..4).map(|_| peer.get(note("")).start()).collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(
        counted(&node.registry, "rsf_server_refused_total", "provider_limit"),
        3
    );
    assert_eq!(
        counted(&node.registry, "rsf_server_refused_total", "test.v1.Echo/Put"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_pool_leaves_the_rest_to_the_others() {
    let fleet = Fleet::in_test();
    let (echo, gate) = gated();
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":4,"queue":10}"#).await;
    provider(&fleet, SERVICE, 1, r#"{"pool_share":{"Put":50}}"#).await;
    let mut calls: Vec<_> = (0..4).map(|_| peer.put(note("")).start()).collect();
    began(&echo, 2).await;
    // Those of the other method overtake what waits for a place of its share.
    calls.extend((0..2).map(|_| peer.get(note("")).start()));
    began(&echo, 4).await;
    // One of the share's returns, and the next of the share runs.
    gate.add_permits(1);
    began(&echo, 5).await;
    // Live: the whole pool for all.
    gate.add_permits(4);
    for call in calls {
        if echo.counts().ended < 5 {
            call.await.unwrap();
        } else {
            gate.add_permits(1);
            call.await.unwrap();
        }
    }
    provider(&fleet, SERVICE, 2, r#"{"pool_share":{}}"#).await;
    let calls: Vec<_> = (0..4).map(|_| peer.put(note("")).start()).collect();
    began(&echo, 10).await;
    gate.add_permits(4);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_queue_leaves_the_rest_to_the_others() {
    let fleet = Fleet::in_test();
    let (echo, gate) = gated();
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":4}"#).await;
    let shares = r#"{"queue_share":{"Put":25},"groups":{"g":{"methods":["Get","Put"],"queue_share":75}}}"#;
    provider(&fleet, SERVICE, 1, shares).await;
    let mut calls = vec![peer.get(note("")).start()];
    began(&echo, 1).await;
    calls.push(peer.put(note("")).start());
    tokio::time::sleep(ms(2)).await;
    let error = peer.put(note("")).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::QueueFull, false));
    assert!(error.message().contains("provider.queue_share"), "{error}");
    calls.extend((0..2).map(|_| peer.get(note("")).start()));
    tokio::time::sleep(ms(2)).await;
    assert_eq!(
        peer.get(note("")).await.unwrap_err().reason(),
        Reason::QueueFull,
        "the group's share"
    );
    provider(
        &fleet,
        SERVICE,
        2,
        r#"{"queue_share":{"Put":50},"groups":{"g":{"methods":["Get"],"queue_share":100}}}"#,
    )
    .await;
    calls.push(peer.put(note("")).start());
    tokio::time::sleep(ms(2)).await;
    gate.add_permits(100);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_has_a_share_of_the_pool() {
    let fleet = Fleet::in_test();
    let (echo, gate) = gated();
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":4,"queue":10}"#).await;
    let shares =
        |percent| format!(r#"{{"groups":{{"g":{{"methods":["Get","Put"],"pool_share":{percent}}}}}}}"#);
    provider(&fleet, SERVICE, 1, &shares(50)).await;
    let calls: Vec<_> = (0..2)
        .flat_map(|_| [peer.put(note("")).start(), peer.get(note("")).start()])
        .collect();
    began(&echo, 2).await;
    // Waiting calls go by the share that holds when a place returns.
    provider(&fleet, SERVICE, 2, &shares(75)).await;
    gate.add_permits(1);
    began(&echo, 4).await;
    gate.add_permits(3);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_than_policy_allows() {
    let fleet = Fleet::in_test();
    let (echo, gate) = gated();
    let (node, peer) = alone(&fleet, &echo).await;
    provider(
        &fleet,
        INSTANCE,
        1,
        r#"{"pool":1,"queue":10,"queue_timeout_ms":50}"#,
    )
    .await;
    let running = peer.put(note("")).start();
    began(&echo, 1).await;
    for (revision, timeout) in [(2, 50), (3, 200)] {
        let document = format!(r#"{{"pool":1,"queue":10,"queue_timeout_ms":{timeout}}}"#);
        provider(&fleet, INSTANCE, revision, &document).await;
        let begun = Instant::now();
        let error = peer.put(note("")).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.may_have_run()),
            (Reason::QueueTimeout, false)
        );
        assert!(error.message().contains("provider.queue_timeout_ms"), "{error}");
        let waited = begun.elapsed();
        assert!(waited >= ms(timeout) && waited < ms(timeout + 10), "{waited:?}");
    }
    gate.add_permits(2);
    running.await.unwrap();
    peer.put(note("")).await.unwrap();
    assert_eq!(
        counted(&node.registry, "rsf_server_refused_total", "queue_timeout"),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_too_late_is_refused_and_takes_no_place() {
    let fleet = Fleet::in_test();
    let echo = Echo::slow(ms(100));
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":100}"#).await;
    // Two calls at a time, so that each is timed: one that waits, one that another waits for.
    for _ in 0..5 {
        let pair = [peer.put(note("")).start(), peer.put(note("")).start()];
        for call in pair {
            call.await.unwrap();
        }
    }
    let before = echo.counts().began;
    let running = peer.put(note("")).start();
    tokio::time::sleep(ms(10)).await;
    // 90 ms until the place is free and 100 for the handler: 150 cannot do, and that is told at once.
    let begun = Instant::now();
    let error = peer.put(note("")).timeout(ms(150)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::QueueTimeout, false)
    );
    assert!(begun.elapsed() < ms(5), "told at once: {:?}", begun.elapsed());
    assert!(error.message().contains("call.timeout_ms"), "{error}");
    running.await.unwrap();
    assert_eq!(echo.counts().began, before + 1, "the refused one never ran");
    peer.put(note("")).timeout(ms(150)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_becomes_too_late_while_it_waits_leaves_before_its_deadline() {
    let fleet = Fleet::in_test();
    // The handler is as slow as it is told.
    let echo = Echo::with(|_, request| async move {
        tokio::time::sleep(ms(u64::from(request.get_ref().number))).await;
        Ok(Response::new(request.into_inner()))
    });
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":100}"#).await;
    for _ in 0..5 {
        let pair = [peer.put(number(20)).start(), peer.put(number(20)).start()];
        for call in pair {
            call.await.unwrap();
        }
    }
    let running = peer.put(number(1000)).start();
    tokio::time::sleep(ms(5)).await;
    let ran = echo.counts().began;
    let begun = Instant::now();
    let error = peer.put(number(20)).timeout(ms(300)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::QueueTimeout, false)
    );
    let waited = begun.elapsed();
    assert!(
        waited > ms(200) && waited < ms(295),
        "while the caller still waits: {waited:?}"
    );
    running.await.unwrap();
    assert_eq!(echo.counts().began, ran);
}

/// Who was handled, in order.
fn orderly() -> (Arc<Echo>, Arc<Semaphore>, Arc<parking_lot::Mutex<Vec<u32>>>) {
    let (gate, order) = (Arc::new(Semaphore::new(0)), Arc::default());
    let echo = Echo::with({
        let (gate, order): (Arc<Semaphore>, Arc<parking_lot::Mutex<Vec<u32>>>) =
            (gate.clone(), Arc::clone(&order));
        move |_, request| {
            let (gate, order) = (gate.clone(), order.clone());
            async move {
                order.lock().push(request.get_ref().number);
                gate.acquire().await.unwrap().forget();
                Ok(Response::new(request.into_inner()))
            }
        }
    });
    (echo, gate, order)
}

/// A consumer called `tester` whose calls of Get are of low and of Put are of high priority.
async fn ranked(fleet: &Fleet, peer: &Peer) {
    fleet.service_policy(
        1,
        r#"{"methods":{"Get":{"priority":"low"},"Put":{"priority":"high"}}}"#,
    );
    peer.governed(|policy| policy.call.priority.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn high_priority_is_served_first_and_refused_last() {
    let fleet = Fleet::in_test();
    let (echo, gate, order) = orderly();
    let (node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":4}"#).await;
    ranked(&fleet, &peer).await;
    let running = peer.put(number(0)).start();
    began(&echo, 1).await;
    // Half of the queue for the low ones.
    let low: Vec<_> = (1..3).map(|place| peer.get(number(place)).start()).collect();
    tokio::time::sleep(ms(2)).await;
    let error = peer.get(number(9)).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::QueueFull, false));
    assert!(error.message().contains("low priority"), "{error}");
    // The high ones fill it and then push the low ones out, the newest first.
    let high: Vec<_> = (3..6).map(|place| peer.put(number(place)).start()).collect();
    tokio::time::sleep(ms(2)).await;
    let mut low = low.into_iter();
    let (first, second) = (low.next().unwrap(), low.next().unwrap());
    let error = second.await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::QueueFull, false));
    assert!(error.message().contains("higher priority"), "{error}");
    let last = peer.put(number(6)).start();
    assert!(first.await.is_err());
    tokio::time::sleep(ms(2)).await;
    assert_eq!(peer.put(number(7)).await.unwrap_err().reason(), Reason::QueueFull);
    gate.add_permits(100);
    for call in high.into_iter().chain([running, last]) {
        call.await.unwrap();
    }
    assert_eq!(*order.lock(), [0, 3, 4, 5, 6]);
    assert_eq!(
        counted(&node.registry, "rsf_server_refused_total", "queue_full"),
        4
    );
}

#[tokio::test(start_paused = true)]
async fn priority_changes_live_and_low_priority_is_not_starved() {
    let fleet = Fleet::in_test();
    let (echo, gate, order) = orderly();
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":100}"#).await;
    ranked(&fleet, &peer).await;
    let running = peer.put(number(0)).start();
    began(&echo, 1).await;
    let mut calls = vec![peer.get(number(1)).start()];
    calls.extend((100..120).map(|place| peer.put(number(place)).start()));
    tokio::time::sleep(ms(5)).await;
    gate.add_permits(100);
    for call in calls.into_iter().chain([running]) {
        call.await.unwrap();
    }
    let place = order.lock().iter().position(|number| *number == 1).unwrap();
    assert_eq!(
        place,
        8,
        "the eighth place goes to who waited longest: {:?}",
        order.lock()
    );
    // The other way round.
    fleet.service_policy(
        2,
        r#"{"methods":{"Get":{"priority":"high"},"Put":{"priority":"low"}}}"#,
    );
    peer.governed(|policy| policy.call.priority == Some(rsf_core::policy::Priority::High))
        .await;
    order.lock().clear();
    while let Ok(permit) = gate.try_acquire() {
        permit.forget();
    }
    let mut calls = vec![peer.put(number(0)).start()];
    tokio::time::sleep(ms(2)).await;
    calls.extend((1..4).map(|place| peer.put(number(place)).start()));
    calls.push(peer.get(number(10)).start());
    tokio::time::sleep(ms(2)).await;
    gate.add_permits(100);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(*order.lock(), [0, 10, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn policy_caps_what_callers_say_of_their_priority() {
    use rsf_core::context::Context;
    use rsf_core::policy::Priority::{High, Low, Normal};
    let fleet = Fleet::in_test();
    let gate = Arc::new(Semaphore::new(0));
    let ranks: Arc<parking_lot::Mutex<Vec<_>>> = Arc::default();
    let echo = Echo::with({
        let (gate, ranks) = (gate.clone(), ranks.clone());
        move |_, request| {
            let (gate, ranks) = (gate.clone(), ranks.clone());
            async move {
                let priority = Context::current().unwrap().priority();
                ranks.lock().push((request.get_ref().number, priority));
                gate.acquire().await.unwrap().forget();
                Ok(Response::new(request.into_inner()))
            }
        }
    });
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":10}"#).await;
    // Put is of high priority, Get says nothing.
    for (revision, most, expected) in [
        (1, "normal", [(0, Normal), (1, Normal), (2, Normal)]),
        (2, "high", [(0, Normal), (2, High), (1, Normal)]),
        (3, "low", [(0, Low), (1, Low), (2, Low)]),
    ] {
        let document = format!(
            r#"{{"methods":{{"Put":{{"priority":"high"}}}},"provider":{{"max_priority":"{most}"}}}}"#
        );
        fleet.service_policy(revision, &document);
        eventually("it is acknowledged", || {
            fleet.acknowledged(SERVICE) == Some((revision, None))
        })
        .await;
        tokio::time::sleep(ms(5)).await;
        ranks.lock().clear();
        let mut calls = vec![peer.get(number(0)).start()];
        tokio::time::sleep(ms(2)).await;
        calls.push(peer.get(number(1)).start());
        tokio::time::sleep(ms(2)).await;
        calls.push(peer.put(number(2)).start());
        tokio::time::sleep(ms(2)).await;
        gate.add_permits(3);
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(*ranks.lock(), expected, "{most}");
    }
}

#[tokio::test(start_paused = true)]
async fn priority_goes_down_the_chain_of_calls() {
    use rsf_core::context::Context;
    let fleet = Fleet::in_test();
    let seen: Arc<parking_lot::Mutex<Vec<_>>> = Arc::default();
    let last = Echo::with({
        let seen = seen.clone();
        move |_, request| {
            seen.lock().push(Context::current().unwrap().priority());
            std::future::ready(Ok(Response::new(request.into_inner())))
        }
    });
    let _last = fleet.provide(last);
    let inner = fleet.consumer();
    inner.connected(1).await;
    // What is called inside would be of high priority, were it not called for something of low priority.
    fleet.service_policy(1, r#"{"methods":{"Put":{"priority":"high"}}}"#);
    inner.connected(1).await;
    tokio::time::sleep(ms(5)).await;
    let front = Fleet::in_test();
    let channel = inner.channel.clone();
    let middle = Echo::with(move |method, _| {
        let channel = channel.clone();
        async move { Ok(channel.call::<Note>(method, note("").into()).await?) }
    });
    let _middle = front.provide(middle);
    let peer = front.consumer();
    peer.connected(1).await;
    use rsf_core::policy::Priority::{High, Low, Normal};
    for (revision, outer, expected) in [
        (1, "low", [Low, Low]),
        (2, "high", [High, High]),
        (3, "normal", [Normal, Normal]),
    ] {
        let wanted = serde_json::from_value(outer.into()).unwrap();
        front.service_policy(revision, &format!(r#"{{"call":{{"priority":"{outer}"}}}}"#));
        peer.governed(|policy| policy.call.priority == Some(wanted)).await;
        peer.channel.call::<Note>(GET, note("").into()).await.unwrap();
        peer.channel.call::<Note>(PUT, note("").into()).await.unwrap();
        assert_eq!(*seen.lock(), expected, "{outer}");
        seen.lock().clear();
    }
    front.service_policy(4, "{}");
    peer.governed(|policy| policy.call.priority.is_none()).await;
    peer.channel.call::<Note>(GET, note("").into()).await.unwrap();
    peer.channel.call::<Note>(PUT, note("").into()).await.unwrap();
    assert_eq!(*seen.lock(), [Normal, High], "without one outside, policy's own");
}

/// What became of an offered load.
#[derive(Debug, Default)]
struct Tally {
    good: AtomicU32,
    refused: AtomicU32,
    other: AtomicU32,
    /// Milliseconds that each refusal and each success took.
    refused_ms: parking_lot::Mutex<Vec<u64>>,
    good_ms: parking_lot::Mutex<Vec<u64>>,
}

impl Tally {
    fn p99(times: &parking_lot::Mutex<Vec<u64>>) -> u64 {
        let mut times = times.lock();
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().unwrap_or(0)
    }
}

/// Calls at a steady rate for a time, whatever becomes of them.
async fn offer(peer: &Peer, every: Duration, time: Duration, timeout: Duration) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let mut tick = tokio::time::interval(every);
    let end = Instant::now() + time;
    while Instant::now() < end {
        tick.tick().await;
        let (call, tally) = (peer.put(note("")).timeout(timeout).into_future(), tally.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            let result = call.await;
            let took = begun.elapsed().as_millis() as u64;
            match result.map_err(|error| error.reason()) {
                Ok(_) => {
                    tally.good.fetch_add(1, Ordering::Relaxed);
                    tally.good_ms.lock().push(took);
                }
                Err(Reason::QueueTimeout | Reason::QueueFull | Reason::ProviderLimit) => {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    tally.refused_ms.lock().push(took);
                }
                Err(_) => {
                    tally.other.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    tokio::time::sleep(timeout).await;
    tally
}

/// Takes 20 to 60 ms, 40 in the mean.
fn uneven() -> Arc<Echo> {
    Echo::with(|_, request| async move {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..60))).await;
        Ok(Response::new(request.into_inner()))
    })
}

#[tokio::test(start_paused = true)]
async fn goodput_stays_at_twice_the_capacity() {
    fastrand::seed(7);
    let fleet = Fleet::in_test();
    let echo = uneven();
    let (node, peer) = alone(&fleet, &echo).await;
    // Four at 40 ms: 100 a second. 200 are offered for a minute, each with 500 ms; a queue of 4096 would make each wait
    // forty seconds.
    provider(&fleet, INSTANCE, 1, r#"{"pool":4,"queue":4096}"#).await;
    let peak = offer(&peer, ms(10), Duration::from_secs(20), ms(4000)).await;
    let peak = f64::from(peak.good.load(Ordering::Relaxed)) / 20.0;
    let tally = offer(&peer, ms(5), Duration::from_secs(60), ms(500)).await;
    let goodput = f64::from(tally.good.load(Ordering::Relaxed)) / 60.0;
    let refused = tally.refused.load(Ordering::Relaxed);
    let other = tally.other.load(Ordering::Relaxed);
    let (refused_p99, good_p99) = (Tally::p99(&tally.refused_ms), Tally::p99(&tally.good_ms));
    println!(
        "peak {peak}/s, goodput {goodput}/s, refused {refused} (p99 {refused_p99} ms), other {other}, good p99 {good_p99} ms"
    );
    assert!(peak > 80.0, "{peak}");
    assert!(goodput >= 0.9 * peak, "{goodput} of {peak}");
    assert!(
        refused > 5_000 && other <= refused / 100,
        "{refused} refused, {other} others"
    );
    assert!(refused_p99 <= 5, "refused within {refused_p99} ms");
    assert_eq!(
        echo.counts().dropped,
        0,
        "no place was given to what could not end"
    );
    let waited = counted(&node.registry, "rsf_server_queue_wait_seconds", "");
    assert!(waited > 3_000, "{waited}");
    assert_eq!(counted(&node.registry, "rsf_server_pool_running", ""), 0);
    assert_eq!(counted(&node.registry, "rsf_server_pool_waiting", ""), 0);
}

/// Serves 16 at once in 80 ms each; with more in flight each takes longer.
fn backend() -> Arc<Echo> {
    let served = Arc::new(Semaphore::new(16));
    Echo::with(move |_, request| {
        let served = served.clone();
        async move {
            let _served = served.acquire().await.unwrap();
            tokio::time::sleep(ms(80)).await;
            Ok(Response::new(request.into_inner()))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limit_finds_the_capacity_and_protects_latency() {
    fastrand::seed(11);
    let fleet = Fleet::in_test();
    let (node, peer) = alone(&fleet, &backend()).await;
    let size = || counted(&node.registry, "rsf_server_pool_size", "");
    let adaptive = r#"{"pool":1000,"queue":4,"adaptive":{"enabled":true,"window_ms":800}}"#;
    provider(&fleet, INSTANCE, 1, adaptive).await;
    assert_eq!(size(), 20, "initial");
    // Half of the capacity for ten seconds: what the handlers take when nothing is wrong.
    offer(&peer, ms(10), Duration::from_secs(10), ms(4000)).await;
    // Twice the capacity, which is 200 a second, for a minute.
    let tally = offer(
        &peer,
        Duration::from_micros(2_500),
        Duration::from_secs(40),
        ms(4000),
    )
    .await;
    let goodput = f64::from(tally.good.load(Ordering::Relaxed)) / 40.0;
    let (limit, p99) = (size(), Tally::p99(&tally.good_ms));
    println!("limit {limit}, goodput {goodput}/s, p99 {p99} ms");
    assert!((16..=40).contains(&limit), "{limit}");
    assert!(goodput >= 180.0, "{goodput}");
    assert!(p99 <= 250, "{p99} ms, where 80 are usual");
    // Without it, the same load piles up in the backend until the callers give up.
    provider(&fleet, INSTANCE, 2, r#"{"pool":1000,"queue":4}"#).await;
    assert_eq!(size(), 1000);
    let tally = offer(
        &peer,
        Duration::from_micros(2_500),
        Duration::from_secs(15),
        ms(4000),
    )
    .await;
    let p99 = Tally::p99(&tally.good_ms);
    assert!(p99 > 1000, "the control: {p99} ms");
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limits_bounds_and_pace_change_live() {
    let fleet = Fleet::in_test();
    let (node, peer) = alone(&fleet, &backend()).await;
    let size = || counted(&node.registry, "rsf_server_pool_size", "");
    let set = |revision, fields: &str| {
        let document = format!(r#"{{"queue":0,"adaptive":{{"enabled":true,"window_ms":400{fields}}}}}"#);
        let fleet = &fleet;
        async move { provider(fleet, INSTANCE, revision, &document).await }
    };
    set(1, r#","initial":50"#).await;
    assert_eq!(size(), 50);
    set(2, r#","initial":50,"max":30"#).await;
    assert_eq!(size(), 30);
    set(3, r#","initial":50,"max":100,"min":60"#).await;
    assert_eq!(size(), 60);
    // A higher tolerance lets it grow where the default one would not; a slower pace grows less.
    let grown = |revision, fields: &'static str| {
        let (set, size, peer) = (&set, &size, &peer);
        async move {
            // Learned anew: switched off and on.
            set(revision, r#","enabled":false"#).await;
            set(revision + 1, fields).await;
            offer(peer, ms(10), Duration::from_secs(5), ms(4000)).await;
            offer(peer, ms(2), Duration::from_secs(12), ms(4000)).await;
            size()
        }
    };
    let usual = grown(4, r#","initial":20"#).await;
    let tolerant = grown(6, r#","initial":20,"tolerance":4.0"#).await;
    let slow = grown(8, r#","initial":20,"tolerance":4.0,"smoothing":0.02"#).await;
    let seldom = grown(10, r#","initial":20,"tolerance":4.0,"window_ms":10000"#).await;
    println!("usual {usual}, tolerant {tolerant}, slow {slow}, seldom {seldom}");
    assert!(usual < 40 && tolerant > usual + 10, "{usual}, {tolerant}");
    assert!(
        slow < tolerant - 10 && seldom < tolerant - 10,
        "{tolerant}, {slow}, {seldom}"
    );
}

#[test]
fn policies_that_contradict_themselves_are_refused() {
    use rsf_core::policy::PolicyDocument;
    let fleet = "fleet".parse().unwrap();
    let json = r#"{"provider":{"adaptive":{"min":50,"max":10},"groups":{
        "empty":{"concurrency":1},"idle":{"methods":["Get"]},"twice":{"methods":["Get","Get"],"pool_share":10}}}}"#;
    let errors = PolicyDocument::parse(&fleet, json).unwrap_err();
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "provider.groups.empty",
            "provider.groups.idle",
            "provider.groups.twice.methods[1]",
            "provider.adaptive.min"
        ]
    );
}
