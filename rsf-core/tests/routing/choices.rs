//! Tags, percentages and expressions, and what they add up to.

use super::*;

#[tokio::test(start_paused = true)]
async fn tags_choose_and_rules_add_up() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "1", "east", &[("disk", "a"), ("tier", "gold")]),
        serve(&fleet, "2", "east", &[("disk", "b")]),
        serve(&fleet, "3", "west", &[("disk", "a")]),
    ];
    let peer = consumer(&fleet, "tester", "east");
    peer.connected(3).await;
    rules(&fleet, &peer, 1, json!([{"tags": {"require": {"disk": "a"}}}])).await;
    assert_eq!(who(&peer, 100).await, ["1", "3"]);
    rules(
        &fleet,
        &peer,
        2,
        json!([{"tags": {"require": {"disk": "a"}}}, {"same_zone": {}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["1"]);
    rules(
        &fleet,
        &peer,
        3,
        json!([{"tags": {"require": {"disk": "a", "tier": "gold"}}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["1"]);
    // The zone is a preference, the disk is not: with no such disk in the zone, the other zone serves.
    rules(
        &fleet,
        &peer,
        4,
        json!([{"same_zone": {}}, {"tags": {"require": {"disk": "b"}}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["2"]);
    let west = consumer(&fleet, "tester", "west");
    west.connected(3).await;
    assert_eq!(who(&west, 100).await, ["2"]);
    rules(
        &fleet,
        &peer,
        5,
        json!([{"tags": {"require": {"disk": "a"}}}, {"tags": {"require": {"disk": "b"}}}]),
    )
    .await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    let told = "routing rule 2 (tags → tags disk=b) left none of 2 instances: 2 are tagged disk=a; rule 1 (tags → tags disk=a) had removed 1";
    assert!(error.message().contains(told), "{error}");
}

#[tokio::test(start_paused = true)]
async fn consumers_may_have_rules_of_their_own() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let (peer, bank) = (consumer(&fleet, "tester", ""), consumer(&fleet, "bank", ""));
    let policy = json!({"call": {"routing": {"rules": by_number(json!({}))}},
        "consumers": {"bank": {"routing": {"rules": [{"primary_zone": {"zone": "west"}}]}}}});
    fleet.service_policy(1, &policy.to_string());
    for peer in [&peer, &bank] {
        peer.connected(2).await;
        peer.governed(|policy| policy.origins.contains_key("routing.rules"))
            .await;
    }
    assert_eq!(answer(&peer, number(1)).await.unwrap(), "e");
    // Its provider knows that shards are not for this consumer.
    assert_eq!(answer(&bank, number(1)).await.unwrap(), "w");
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_goes_to_the_canary() {
    let fleet = Fleet::in_test();
    let _stable = [serve(&fleet, "1", "", &[]), serve(&fleet, "2", "", &[])];
    let canary = serve(&fleet, "c", "", &[("stage", "canary")]);
    let peer = consumer(&fleet, "tester", "");
    peer.connected(3).await;
    let percent = |percent: f64| json!([{"percent": {"percent": percent, "tags": {"stage": "canary"}}}]);
    fastrand::seed(11);
    let mut revision = 0;
    for share in [0.0, 5.0, 50.0, 100.0] {
        revision += 1;
        rules(&fleet, &peer, revision, percent(share)).await;
        let got = f64::from(shares(&peer, 1500).await.get("c").copied().unwrap_or(0)) / 15.0;
        assert!((got - share).abs() < 3.0, "{got} % instead of {share} %");
        assert!(share > 0.0 || got == 0.0);
        assert!(share < 100.0 || got == 100.0);
    }
    // With a key the same calls each time, and those that were in a smaller share are in the larger one.
    let mut before = Vec::new();
    for share in [10.0, 10.0, 30.0] {
        revision += 1;
        let policy = json!({"key": "number", "rules": percent(share)});
        routing(&fleet, &peer, revision, policy).await;
        let mut within = Vec::new();
        for key in 0..1000 {
            if answer(&peer, number(key)).await.unwrap() == "c" {
                within.push(key);
            }
        }
        let got = within.len() as f64 / 10.0;
        assert!((got - share).abs() < 4.0, "{got} % instead of {share} %");
        assert!(before.iter().all(|key| within.contains(key)));
        assert!(share > 10.0 || before.is_empty() || before == within);
        before = within;
    }
    // No canary runs: nobody misses it.
    let gone = canary.instance.id.clone();
    fleet.list(|instances| instances.retain(|instance| instance.id != gone));
    peer.connected(2).await;
    assert_eq!(who(&peer, 200).await, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_canary_keeps_its_share_while_a_zone_is_ill() {
    let fleet = Fleet::in_test();
    let canary = serve(&fleet, "c", "east", &[("stage", "canary")]);
    let mut stable = serve(&fleet, "e", "east", &[]);
    let _west = serve(&fleet, "w", "west", &[]);
    let peer = consumer(&fleet, "tester", "east");
    peer.connected(3).await;
    let both = json!([{"percent": {"percent": 20, "tags": {"stage": "canary"}}}, {"same_zone": {}}]);
    rules(&fleet, &peer, 1, both).await;
    stable.kill();
    unreachable(&peer, 1).await;
    fastrand::seed(12);
    let shares = shares(&peer, 2000).await;
    let got = f64::from(shares["c"]) / 20.0;
    assert!((got - 20.0).abs() < 4.0, "{got} % instead of 20 %: {shares:?}");
    drop(canary);
}

#[tokio::test(start_paused = true)]
async fn an_expression_chooses_by_the_request() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e", "east", &[("disk", "a")]),
        serve(&fleet, "w", "west", &[("disk", "b")]),
    ];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    let zone = |text: &str| json!([{"expression": {"text": text}}]);
    rules(
        &fleet,
        &peer,
        1,
        zone(r#"request.number % 2 == 0 ? "east" : metadata["vip"] == "yes" ? "west" : """#),
    )
    .await;
    assert_eq!(answer(&peer, number(4)).await.unwrap(), "e");
    let vip = peer.get(number(5)).metadata(with(&[("vip", "yes")]));
    assert_eq!(vip.await.unwrap().get_ref().text, "w");
    let mut anybody = Vec::new();
    for _ in 0..50 {
        anybody.push(answer(&peer, number(5)).await.unwrap());
    }
    assert!(anybody.contains(&"e".to_owned()) && anybody.contains(&"w".to_owned()));
    rules(
        &fleet,
        &peer,
        2,
        json!([{"expression": {"text": "request.text", "tag": "disk"}}]),
    )
    .await;
    assert_eq!(answer(&peer, note("a")).await.unwrap(), "e");
    assert_eq!(answer(&peer, note("b")).await.unwrap(), "w");
    let error = answer(&peer, note("c")).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("(expression → tag disk=c, by the expression) left none of 2"),
        "{error}"
    );
    rules(&fleet, &peer, 3, zone(r#"method == "Get" ? "west" : """#)).await;
    assert_eq!(who(&peer, 50).await, ["w"]);
    // What fails for one call fails that call alone, before it is sent.
    rules(
        &fleet,
        &peer,
        4,
        zone(r#"10 / request.number > 1 ? "east" : "west""#),
    )
    .await;
    assert_eq!(answer(&peer, number(1)).await.unwrap(), "e");
    let error = answer(&peer, number(0)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::NoInstance, false)
    );
    assert!(error.message().contains("division by zero"), "{error}");
}
