//! ZooKeeper: wiped, away at first, holding what is no list.

use std::time::Duration;

use rsf_registry::record::PolicyRecord;
use rsf_registry::{Observed, StoreError, cluster};
use rsf_testkit::{ZooKeeper, eventually};
use zookeeper_client::{Acls, CreateMode};

use crate::{NOBODY, PATIENCE, list, observe_absent, observe_version, with_zookeeper};

const SERVICE: &str = "shop.v1.MemberService";
const NODE: &str = "/rsf/default/directory/shop.v1.MemberService";

#[tokio::test(flavor = "multi_thread")]
async fn wiped_it_is_absent_and_a_new_term_fills_it_again() {
    let mut zookeeper = ZooKeeper::start().await;
    let (pump, consumer) = (with_zookeeper(&zookeeper), with_zookeeper(&zookeeper));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let mut watch = consumer.directory.watch(SERVICE);
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 9)])
        .await
        .unwrap();
    observe_version(&mut watch, term.epoch, 9).await;
    zookeeper.wipe().await;
    assert!(
        matches!(watch.current(), Observed::Present(_)),
        "the last state stays while it is away"
    );
    zookeeper.restart().await;
    observe_absent(&mut watch).await;
    let lost = tokio::time::timeout(PATIENCE, term.lost.cancelled()).await;
    assert!(lost.is_ok(), "the term is in doubt");
    let refused = eventually(PATIENCE, async || {
        match pump.writer.write(&term, &[list(SERVICE, term.epoch, 10)]).await {
            Err(StoreError::Unavailable { reason, .. }) => Err(reason),
            answer => Ok(answer),
        }
    })
    .await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    let next = pump.writer.lead("pump", term.epoch + 1).await.unwrap();
    assert!(next.epoch > term.epoch);
    pump.writer
        .write(&next, &[list(SERVICE, next.epoch, 1)])
        .await
        .unwrap();
    observe_version(&mut watch, next.epoch, 1).await;
    pump.writer
        .write(&next, &[list(SERVICE, next.epoch, 2)])
        .await
        .unwrap();
    observe_version(&mut watch, next.epoch, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn away_at_first_it_is_picked_up_when_it_comes() {
    let mut zookeeper = ZooKeeper::start().await;
    zookeeper.kill9().await;
    let cluster = with_zookeeper(&zookeeper);
    let mut watch = cluster.directory.watch(SERVICE);
    let services = cluster.directory.services().await.unwrap_err();
    assert!(services.is_transient(), "{services:?}");
    assert!(matches!(watch.current(), Observed::Unknown));
    zookeeper.restart().await;
    observe_absent(&mut watch).await;
    let term = cluster.writer.lead("pump", 0).await.unwrap();
    cluster
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    observe_version(&mut watch, term.epoch, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_leaves_the_last_good_one() {
    let zookeeper = ZooKeeper::start().await;
    let cluster = with_zookeeper(&zookeeper);
    let term = cluster.writer.lead("pump", 0).await.unwrap();
    let mut watch = cluster.directory.watch(SERVICE);
    cluster
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    observe_version(&mut watch, term.epoch, 1).await;

    let vandal = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let (good, _) = vandal.get_data(NODE).await.unwrap();
    let mut flipped = good.clone();
    flipped[20] ^= 4;
    let other = "/rsf/default/directory/shop.v1.Other";
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    vandal.create(other, &good, &options).await.unwrap();
    let mut misplaced = cluster.directory.watch("shop.v1.Other");
    for bad in [b"".as_slice(), b"nonsense", &good[..good.len() - 1], &flipped] {
        vandal.set_data(NODE, bad, None).await.unwrap();
        assert_eq!(
            cluster.writer.lists().await.unwrap(),
            [],
            "neither the damaged nor the misplaced one"
        );
    }
    // Whatever the watch saw of it is before this one.
    cluster
        .writer
        .write(&term, &[list("shop.v1.Other", term.epoch, 1)])
        .await
        .unwrap();
    observe_version(&mut misplaced, term.epoch, 1).await;
    match watch.current() {
        Observed::Present(kept) => assert_eq!(*kept, list(SERVICE, term.epoch, 1)),
        state => panic!("{state:?}"),
    }
    cluster
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 2)])
        .await
        .unwrap();
    observe_version(&mut watch, term.epoch, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_come_and_go_take_nothing_from_the_one_that_stays() {
    let zookeeper = ZooKeeper::start().await;
    let cluster = with_zookeeper(&zookeeper);
    let term = cluster.writer.lead("pump", 0).await.unwrap();
    let mut staying = cluster.directory.watch(SERVICE);
    let mut passing: Vec<_> = (0..20).map(|_| cluster.directory.watch(SERVICE)).collect();
    for sequence in 1..=300 {
        cluster
            .writer
            .write(&term, &[list(SERVICE, term.epoch, sequence)])
            .await
            .unwrap();
        for _ in 0..5 {
            let place = fastrand::usize(..passing.len());
            passing[place] = cluster.directory.watch(SERVICE);
        }
        if sequence % 10 == 0 {
            // Well before the watch would be read again for insurance.
            let seen = observe_version(&mut staying, term.epoch, sequence);
            tokio::time::timeout(Duration::from_secs(5), seen)
                .await
                .expect("its watch is lost");
        }
    }
    passing.clear();
    cluster
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 301)])
        .await
        .unwrap();
    let seen = observe_version(&mut staying, term.epoch, 301);
    tokio::time::timeout(Duration::from_secs(5), seen)
        .await
        .expect("its watch is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_not_there_is_named_and_picked_up_when_it_comes() {
    let zookeeper = ZooKeeper::start().await;
    with_zookeeper(&zookeeper).writer.lead("pump", 0).await.unwrap();
    let redis = format!("redis://{NOBODY}");
    let stranger = cluster::open(&redis, &zookeeper.address().to_string(), "test").unwrap();
    let record = PolicyRecord {
        scope: "fleet".into(),
        revision: 1,
        document: "{}".into(),
        ..Default::default()
    };
    for error in [
        stranger.directory.services().await.unwrap_err(),
        stranger.writer.lists().await.unwrap_err(),
        stranger.policies.current().await.unwrap_err(),
        stranger.policies.publish(&record).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::UnknownNamespace { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("`test`") && text.contains("`default`"), "{text}");
    }
    let mut watch = stranger.directory.watch(SERVICE);
    observe_absent(&mut watch).await;
    let term = stranger.writer.lead("pump", 0).await.unwrap();
    stranger
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    observe_version(&mut watch, term.epoch, 1).await;
    stranger.policies.publish(&record).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_fit_is_named_and_keeps_no_other_from_being_written() {
    let zookeeper = ZooKeeper::start().await;
    let cluster = with_zookeeper(&zookeeper);
    let term = cluster.writer.lead("pump", 0).await.unwrap();
    let mut huge = list("shop.v1.Huge", term.epoch, 1);
    // One instance alone is more than a node may hold, so that cutting the list does not help.
    huge.instances[0].zone = std::iter::repeat_with(fastrand::alphanumeric)
        .take(900_000)
        .collect();
    let lists = [
        list("shop.v1.A", term.epoch, 1),
        huge,
        list("shop.v1.B", term.epoch, 1),
    ];
    let refused = cluster.writer.write(&term, &lists).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Invalid { key, .. } if key == "shop.v1.Huge"),
        "{refused:?}"
    );
    assert_eq!(
        cluster.directory.services().await.unwrap(),
        ["shop.v1.A", "shop.v1.B"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_beside_each_other_all_arrive_and_keep_their_predecessors() {
    let zookeeper = ZooKeeper::start().await;
    let consoles = [with_zookeeper(&zookeeper), with_zookeeper(&zookeeper)];
    let publishing = (1..=40u64).map(|revision| {
        let console = consoles[revision as usize % 2].policies.clone();
        let scope = format!("application/a{}", revision % 4);
        let record = PolicyRecord {
            scope,
            revision,
            document: format!("{revision}"),
            ..Default::default()
        };
        async move {
            match console.publish(&record).await {
                // A later revision of the same scope was faster.
                Ok(()) | Err(StoreError::Stale { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    futures_util::future::join_all(publishing).await;
    let current = consoles[0].policies.current().await.unwrap();
    let revisions: Vec<u64> = current.iter().map(|record| record.revision).collect();
    assert_eq!(revisions, [40, 37, 38, 39]);
    let reader = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let (revision, _) = reader.get_data("/rsf/default/policy/revision").await.unwrap();
    assert_eq!(revision, b"40");
    let huge = PolicyRecord {
        scope: "fleet".into(),
        revision: 41,
        document: "x".repeat(256 * 1024 + 1),
        ..Default::default()
    };
    let refused = consoles[0].policies.publish(&huge).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Invalid { key, .. } if key == "fleet"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_no_head_names_are_deleted_also_those_that_a_dead_leader_left() {
    let zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let large = |epoch, sequence| {
        let mut large = list("shop.v1.Large", epoch, sequence);
        let one = large.instances[0].clone();
        large.instances = (0..10_000)
            .map(|n| {
                let mut listed = one.clone();
                listed.instance = format!("member/{n}");
                listed.zone = std::iter::repeat_with(fastrand::alphanumeric).take(60).collect();
                listed
            })
            .collect();
        large
    };
    pump.writer.write(&term, &[large(term.epoch, 1)]).await.unwrap();
    let operator = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let leftover = "/rsf/default/shards/shop.v1.Large@0-1-1";
    operator
        .create(leftover, b"half a write", &options)
        .await
        .unwrap();
    let named = async || {
        let stored = pump.writer.stored().await.unwrap();
        let mut names: Vec<String> = stored.iter().flat_map(|list| list.names.clone()).collect();
        names.sort();
        names
    };
    let first = named().await;
    assert!(first.len() > 1, "{first:?}");
    pump.writer.write(&term, &[large(term.epoch, 2)]).await.unwrap();
    let mut sequence = 2;
    // Deleting rides on later writes, after the time that readers get.
    let left = eventually(PATIENCE, async || {
        sequence += 1;
        let small = list("shop.v1.Small", term.epoch, sequence);
        pump.writer.write(&term, &[small]).await.unwrap();
        let mut there = operator.list_children("/rsf/default/shards").await.unwrap();
        there.sort();
        match there.iter().any(|name| name.ends_with("@0-1-1")) || there.len() > first.len() {
            false => Ok(there),
            true => Err(format!("{there:?}")),
        }
    })
    .await;
    let current: Vec<String> = named()
        .await
        .iter()
        .map(|name| format!("shop.v1.Large@{name}"))
        .collect();
    assert_eq!(left, current);
}
