//! A service's first calls wait, for a bounded time, until the policies that govern them are known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::future::IntoFuture as _;
use std::time::Duration;

use rsf_core::control::Scope;
use rsf_core::outcome::Reason;
use support::{ECHO, Echo, Fleet, Node, note};
use tokio::time::{Instant, sleep};

/// Longer than a first call is to wait for a control plane that never speaks.
const FAR: Duration = Duration::from_secs(4);

/// Two instances of which policy takes one away.
fn fleet() -> (Fleet, [Node; 2]) {
    let fleet = Fleet::in_test();
    let nodes = [0, 1].map(|_| fleet.provide(Echo::plain()));
    (fleet, nodes)
}

fn disabling(node: &Node) -> String {
    let id = &node.instance.id;
    format!(r#"{{"instances":[{{"instance":"{id}","disabled":true}}]}}"#)
}

#[tokio::test(start_paused = true)]
async fn calls_made_before_a_policy_is_known_are_governed_by_it() {
    for scope in ["fleet", "application/echo", &format!("service/{ECHO}")] {
        let (fleet, nodes) = fleet();
        let withheld: Scope = scope.parse().unwrap();
        fleet.control.withhold_policy(&withheld);
        let peer = fleet.consumer();
        let calls: Vec<_> = (0..20)
            .map(|_| tokio::spawn(peer.get(note("")).into_future()))
            .collect();
        sleep(Duration::from_millis(500)).await;
        assert!(!calls.iter().any(|call| call.is_finished()), "{scope}: they wait");
        fleet.policy(scope, 1, &disabling(&nodes[0]));
        for call in calls {
            call.await.unwrap().unwrap();
        }
        let seen = peer.channel.view().instances;
        assert_eq!(seen.len(), 1, "{scope}: {seen:?}");
        assert_eq!(*seen[0].instance, *nodes[1].instance.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_never_speaks_is_not_waited_for() {
    let (fleet, _nodes) = fleet();
    fleet.control.withhold_policy(&Scope::Fleet);
    let peer = fleet.consumer();
    let begun = Instant::now();
    peer.get(note("")).await.unwrap();
    assert!(begun.elapsed() < FAR, "{:?}", begun.elapsed());
    let begun = Instant::now();
    peer.get(note("")).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "nothing waits twice"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_instances_bring_the_policy_of_their_application() {
    let (fleet, nodes) = fleet();
    let mut listed = Vec::new();
    fleet.list(|instances| std::mem::swap(&mut listed, instances));
    fleet
        .control
        .withhold_policy(&Scope::Application("echo".to_owned()));
    let peer = fleet.consumer();
    let error = peer.get(note("")).await.unwrap_err();
    assert_eq!(
        error.reason(),
        Reason::NoInstance,
        "an empty list is known: {error}"
    );
    fleet.list(|instances| instances.append(&mut listed));
    sleep(Duration::from_millis(500)).await;
    assert!(peer.channel.view().instances.is_empty(), "they are not shown yet");
    fleet.policy("application/echo", 1, &disabling(&nodes[1]));
    peer.channel.ready(FAR).await.unwrap();
    peer.get(note("")).await.unwrap();
    let seen = peer.channel.view().instances;
    assert_eq!(*seen[0].instance, *nodes[0].instance.id);
    // From now on nothing waits: an application that joins is not held back.
    fleet
        .control
        .withhold_policy(&Scope::Application("late".to_owned()));
    let _late = fleet.provide_as(|instance| instance.application = "late".into(), Echo::plain());
    peer.connected(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_refused_is_not_waited_for() {
    let (fleet, _nodes) = fleet();
    fleet.control.withhold_policy(&Scope::Fleet);
    let peer = fleet.consumer();
    fleet.policy("fleet", 1, r#"{"no_such_field":1}"#);
    let begun = Instant::now();
    peer.get(note("")).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    let (revision, refusal) = fleet.acknowledged("fleet").unwrap();
    assert_eq!(revision, 1);
    assert!(refusal.unwrap().contains("no_such_field"));
}
