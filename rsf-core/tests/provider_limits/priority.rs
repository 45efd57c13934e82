//! Who is served first and refused last.

use super::*;

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
