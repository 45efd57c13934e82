//! How long a call waits, and which are refused because it would be too long.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_than_policy_allows() {
    let fleet = Fleet::in_test();
    let (echo, gate) = Echo::gated();
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
async fn a_handler_that_does_not_return_says_nothing_about_the_time_that_handlers_take() {
    let fleet = Fleet::in_test();
    let echo = Echo::with(|_, request| async move {
        let takes = u64::from(request.get_ref().number);
        assert!(takes > 0, "what this handler cannot do");
        tokio::time::sleep(ms(takes)).await;
        Ok(Response::new(request.into_inner()))
    });
    let (_node, peer) = alone(&fleet, &echo).await;
    provider(&fleet, INSTANCE, 1, r#"{"pool":1,"queue":100}"#).await;
    for _ in 0..5 {
        let pair = [peer.put(number(100)).start(), peer.put(number(100)).start()];
        for call in pair {
            call.await.unwrap();
        }
    }
    // One in eight is timed.
    for _ in 0..200 {
        let error = peer.put(number(0)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Panic);
    }
    let running = peer.put(number(100)).start();
    tokio::time::sleep(ms(10)).await;
    let error = peer.put(number(100)).timeout(ms(150)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::QueueTimeout, false)
    );
    running.await.unwrap();
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
