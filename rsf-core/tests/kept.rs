//! Instances that fall out of the list without a word are called for as long as they answer, within a bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use rsf_core::control::{Instance, InstanceList, ListOrigin};
use rsf_core::server::Provider;
use support::{ECHO, Echo, Fleet, Node, Peer, counted, eventually, note};
use tokio::time::{Instant, sleep};

/// Longer than an instance is kept.
const BEYOND: Duration = Duration::from_secs(620);

/// A published list of `nodes`; `gone` are ids that left for certain, with their last incarnation.
fn publish<'a>(
    fleet: &Fleet,
    sequence: u64,
    nodes: impl IntoIterator<Item = &'a Node>,
    gone: &[(&Node, u64)],
) {
    let gone = gone.iter().map(|(node, last)| (node.instance.id.clone(), *last));
    let list = InstanceList {
        version: (1, sequence),
        origin: ListOrigin::Directory,
        instances: nodes.into_iter().map(|node| node.instance.clone()).collect(),
        gone: gone.collect::<HashMap<_, _>>(),
    };
    fleet.control.set_list(ECHO, list);
}

/// Three instances that are listed, and a consumer that is connected to all of them and lets no connection idle.
async fn connected() -> (Fleet, Vec<Node>, Peer) {
    let fleet = Fleet::in_test();
    let first_start = |instance: &mut Instance| instance.incarnation = 1;
    let nodes: Vec<_> = (0..3)
        .map(|_| fleet.provide_as(first_start, Echo::plain()))
        .collect();
    fleet.service_policy(1, r#"{"call":{"connections":{"floor":3,"idle_close_ms":0}}}"#);
    publish(&fleet, 1, &nodes, &[]);
    let peer = fleet.consumer();
    peer.connected(3).await;
    (fleet, nodes, peer)
}

fn listed(peer: &Peer) -> Vec<String> {
    let mut ids: Vec<_> = peer
        .channel
        .view()
        .instances
        .into_iter()
        .map(|one| one.instance)
        .collect();
    ids.sort();
    ids
}

fn kept(peer: &Peer) -> u64 {
    let gauge = counted(&peer.registry, "rsf_instances_kept", ECHO);
    assert_eq!(gauge, peer.channel.view().kept.len() as u64);
    gauge
}

#[tokio::test(start_paused = true)]
async fn one_that_expired_is_called_while_it_answers() {
    let (fleet, mut nodes, peer) = connected().await;
    publish(&fleet, 2, &nodes[..1], &[]);
    eventually("two are kept", || kept(&peer) == 2).await;
    assert_eq!(listed(&peer).len(), 3);
    for _ in 0..20 {
        peer.get(note("")).await.unwrap();
    }
    nodes[1].kill();
    let died = Instant::now();
    eventually("the dead one goes", || kept(&peer) == 1).await;
    assert!(
        died.elapsed() <= Duration::from_millis(1_100),
        "{:?}",
        died.elapsed()
    );
    assert!(!listed(&peer).contains(&nodes[1].instance.id.to_string()));
    for _ in 0..20 {
        peer.get(note("")).await.unwrap();
    }
    // Back in the list, it is one of them again.
    publish(&fleet, 3, [&nodes[0], &nodes[2]], &[]);
    eventually("none is kept", || kept(&peer) == 0).await;
    assert_eq!(listed(&peer).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_said_so_or_was_replaced_leaves_at_once() {
    let (fleet, nodes, peer) = connected().await;
    publish(&fleet, 2, &nodes[..1], &[(&nodes[1], 1), (&nodes[2], 7)]);
    eventually("only one is left", || listed(&peer).len() == 1).await;
    assert_eq!(kept(&peer), 0);
    // What an earlier start said does not speak for this one.
    publish(&fleet, 3, &nodes, &[]);
    peer.connected(3).await;
    publish(&fleet, 4, &nodes[..2], &[(&nodes[2], 0)]);
    eventually("this start is kept", || kept(&peer) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_start_takes_the_old_ones_place() {
    let (fleet, mut nodes, peer) = connected().await;
    nodes[2].instance.incarnation = 2;
    publish(&fleet, 2, &nodes, &[]);
    eventually("the new start is listed", || {
        peer.channel.view().version == (1, 2)
    })
    .await;
    assert_eq!((listed(&peer).len(), kept(&peer)), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_ever() {
    let (fleet, nodes, peer) = connected().await;
    let begun = Instant::now();
    publish(&fleet, 2, &nodes[..2], &[]);
    eventually("one is kept", || kept(&peer) == 1).await;
    while kept(&peer) == 1 && begun.elapsed() < BEYOND {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(kept(&peer), 0);
    assert!(
        begun.elapsed() > Duration::from_secs(590),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(listed(&peer).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_without_a_connection_proves_nothing() {
    let (fleet, nodes, peer) = connected().await;
    let builder = Provider::builder().service("", Echo::plain());
    let stranger = fleet.start(builder, |instance| instance.incarnation = 1);
    fleet.service_policy(2, r#"{"call":{"connections":{"floor":0,"idle_close_ms":0}}}"#);
    peer.governed_by(2).await;
    publish(&fleet, 2, nodes.iter().chain([&stranger]), &[]);
    eventually("four are listed", || listed(&peer).len() == 4).await;
    publish(&fleet, 3, &nodes, &[]);
    eventually("it leaves", || listed(&peer).len() == 3).await;
    assert_eq!(kept(&peer), 0);
}

#[tokio::test(start_paused = true)]
async fn an_operators_list_means_what_it_says() {
    let (fleet, nodes, peer) = connected().await;
    fleet.control.set_instances(ECHO, vec![nodes[0].instance.clone()]);
    eventually("only one is left", || listed(&peer).len() == 1).await;
    assert_eq!(kept(&peer), 0);
}
