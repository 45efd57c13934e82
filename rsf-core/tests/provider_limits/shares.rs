//! Groups, and shares of pool and queue.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_group_is_one_limit_for_its_methods() {
    let fleet = Fleet::in_test();
    let (echo, gate) = Echo::gated();
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
    let (echo, gate) = Echo::gated();
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
    let (echo, gate) = Echo::gated();
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
    let (echo, gate) = Echo::gated();
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
