//! What a consumer tells the control plane of instances that the registry may be wrong about, by its own connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use rsf_core::control::{Instance, InstanceList, ListOrigin, Seen};
use support::{ECHO, Echo, Fleet, Node, Peer, eventually, note};
use tokio::time::sleep;

fn publish<'a>(fleet: &Fleet, sequence: u64, nodes: impl IntoIterator<Item = &'a Node>) {
    let list = InstanceList {
        version: (1, sequence),
        origin: ListOrigin::Directory,
        instances: nodes.into_iter().map(|node| node.instance.clone()).collect(),
        gone: HashMap::new(),
    };
    fleet.control.set_list(ECHO, list);
}

/// So many listed instances, and a consumer that is connected to all.
async fn connected(count: usize) -> (Fleet, Vec<Node>, Peer) {
    let fleet = Fleet::in_test();
    let first_start = |instance: &mut Instance| instance.incarnation = 7;
    let nodes: Vec<_> = (0..count)
        .map(|_| fleet.provide_as(first_start, Echo::plain()))
        .collect();
    fleet.service_policy(
        1,
        r#"{"call":{"balance":"round_robin","connections":{"floor":20,"idle_close_ms":0}}}"#,
    );
    publish(&fleet, 1, &nodes);
    let peer = fleet.consumer();
    peer.connected(count).await;
    (fleet, nodes, peer)
}

/// Each instance answers once at least.
async fn called(peer: &Peer, instances: usize) {
    for _ in 0..instances * 2 {
        peer.get(note("")).await.unwrap();
    }
}

/// Who is said to answer, and who to refuse and for how long at least.
fn told(fleet: &Fleet) -> (Vec<String>, Vec<(String, Duration)>) {
    let (mut answers, mut refuses) = (Vec::new(), Vec::new());
    for sighting in fleet.control.sightings() {
        assert_eq!(sighting.incarnation, 7);
        match sighting.seen {
            Seen::Answers => answers.push(sighting.instance.to_string()),
            Seen::Refuses { lasting } => refuses.push((sighting.instance.to_string(), lasting)),
        }
    }
    (answers, refuses)
}

fn ids<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<String> {
    let mut ids: Vec<_> = nodes
        .into_iter()
        .map(|node| node.instance.id.to_string())
        .collect();
    ids.sort();
    ids
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_listed_instances_that_are_well() {
    let (fleet, _nodes, peer) = connected(3).await;
    called(&peer, 3).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.control.sightings(), []);
}

#[tokio::test(start_paused = true)]
async fn where_one_fell_out_and_answers_all_are_named_that_have_answered() {
    let (fleet, nodes, peer) = connected(3).await;
    publish(&fleet, 2, &nodes[1..]);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        fleet.control.sightings(),
        [],
        "a connection alone has proven nothing"
    );
    called(&peer, 3).await;
    eventually("all three answer", || told(&fleet).0 == ids(&nodes)).await;
    assert_eq!(told(&fleet).1, []);
    publish(&fleet, 3, &nodes);
    eventually("no doubt is left", || fleet.control.sightings().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_listed_one_that_answered_and_refuses_is_named_and_for_how_long() {
    let (fleet, mut nodes, peer) = connected(3).await;
    called(&peer, 3).await;
    nodes[0].kill();
    let dead = nodes[0].instance.id.to_string();
    sleep(Duration::from_secs(40)).await;
    let (answers, refuses) = told(&fleet);
    assert_eq!((answers.len(), refuses.len()), (0, 1), "{refuses:?}");
    let (id, lasting) = &refuses[0];
    assert!(*id == dead && *lasting >= Duration::from_secs(30), "{refuses:?}");
    // Off the list, it is nobody's concern.
    publish(&fleet, 2, &nodes[1..]);
    eventually("nothing is said", || fleet.control.sightings().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_never_answered_may_be_out_of_reach_from_here() {
    let (fleet, mut nodes, _peer) = connected(3).await;
    nodes[0].kill();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.control.sightings(), []);
}

#[tokio::test(start_paused = true)]
async fn who_sees_more_refuse_than_answer_is_cut_off_and_says_nothing_of_them() {
    let (fleet, mut nodes, peer) = connected(4).await;
    called(&peer, 4).await;
    for node in &mut nodes[..3] {
        node.kill();
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(fleet.control.sightings(), []);
    // Half of them is not too many.
    let (fleet, mut nodes, peer) = connected(4).await;
    called(&peer, 4).await;
    for node in &mut nodes[..2] {
        node.kill();
    }
    eventually("two refuse", || told(&fleet).1.len() == 2).await;
}
