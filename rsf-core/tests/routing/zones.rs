//! Zones: the own one first, a primary one, and when calls leave them.

use super::*;

#[tokio::test(start_paused = true)]
async fn calls_stay_in_their_zone_and_spill_by_its_health() {
    let fleet = Fleet::in_test();
    let mut east = Vec::new();
    for id in ["e/1", "e/2", "e/3", "e/4"] {
        east.push(serve(&fleet, id, "east", &[]));
    }
    let _west = [
        serve(&fleet, "w/1", "west", &[]),
        serve(&fleet, "w/2", "west", &[]),
    ];
    let peer = consumer(&fleet, "tester", "east");
    peer.connected(6).await;
    assert_eq!(who(&peer, 200).await.len(), 6, "without rules all take calls");
    rules(&fleet, &peer, 1, json!([{"same_zone": {}}])).await;
    assert_eq!(who(&peer, 200).await, ["e/1", "e/2", "e/3", "e/4"]);

    // Half of the zone is gone: 50 % of 70 % stay, the rest spills.
    for node in &mut east[..2] {
        node.kill();
    }
    unreachable(&peer, 2).await;
    let spilt =
        |shares: &BTreeMap<String, u32>| shares.get("w/1").unwrap_or(&0) + shares.get("w/2").unwrap_or(&0);
    let share = spilt(&shares(&peer, 2000).await);
    assert!((480..680).contains(&share), "{share} of 2000 spilt, 571 are due");
    rules(
        &fleet,
        &peer,
        2,
        json!([{"same_zone": {"spill_below_percent": 50}}]),
    )
    .await;
    assert_eq!(who(&peer, 200).await, ["e/3", "e/4"]);

    // The whole zone is lost: from then on no call fails, and none goes there.
    rules(&fleet, &peer, 3, json!([{"same_zone": {}}])).await;
    for node in &mut east[2..] {
        node.kill();
    }
    unreachable(&peer, 4).await;
    assert_eq!(who(&peer, 500).await, ["w/1", "w/2"]);
    rules(
        &fleet,
        &peer,
        4,
        json!([{"same_zone": {"spill_below_percent": 0}}]),
    )
    .await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Connect, "{error}");

    // It comes back, and so do the calls.
    rules(&fleet, &peer, 5, json!([{"same_zone": {}}])).await;
    for node in &mut east {
        node.restart();
    }
    peer.connected(6).await;
    let home = |peer: &Peer| {
        let view = peer.channel.view();
        view.instances
            .iter()
            .all(|instance| instance.breaker == "closed" || instance.instance.starts_with('w'))
    };
    for _ in 0..200 {
        if home(&peer) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = shares(&peer, 20).await;
    }
    assert_eq!(who(&peer, 400).await, ["e/1", "e/2", "e/3", "e/4"]);

    // Nobody is left in the zone's list: all calls go elsewhere at once.
    fleet.list(|instances| instances.retain(|instance| &*instance.zone == "west"));
    peer.connected(2).await;
    assert_eq!(who(&peer, 100).await, ["w/1", "w/2"]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_zone_prefers_none() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, json!([{"same_zone": {}}])).await;
    assert_eq!(who(&peer, 100).await, ["e", "w"]);
}

#[tokio::test(start_paused = true)]
async fn one_zone_serves_all_until_its_standby_must() {
    let fleet = Fleet::in_test();
    let mut east = serve(&fleet, "e", "east", &[]);
    let _others = [serve(&fleet, "w", "west", &[]), serve(&fleet, "n", "north", &[])];
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(3).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"primary_zone": {"zone": "east", "standby": ["north"]}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["e"]);
    rules(
        &fleet,
        &peer,
        2,
        json!([{"primary_zone": {"zone": "west", "standby": ["north"]}}]),
    )
    .await;
    assert_eq!(who(&peer, 100).await, ["w"]);
    rules(
        &fleet,
        &peer,
        3,
        json!([{"primary_zone": {"zone": "east", "standby": ["north"]}}]),
    )
    .await;
    east.kill();
    unreachable(&peer, 1).await;
    assert_eq!(who(&peer, 100).await, ["n"]);
    rules(&fleet, &peer, 4, json!([{"primary_zone": {"zone": "east"}}])).await;
    assert_eq!(who(&peer, 100).await, ["n", "w"]);
    rules(
        &fleet,
        &peer,
        5,
        json!([{"primary_zone": {"zone": "east", "spill_below_percent": 0}}]),
    )
    .await;
    assert_eq!(
        answer(&peer, number(1)).await.unwrap_err().reason(),
        Reason::Connect
    );
}
