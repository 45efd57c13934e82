//! A fleet's worth of leases, acknowledgements and lists; the times are printed, the bounds are generous.

use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::{StreamExt, stream};
use rsf_registry::Renewal;
use rsf_registry::record::{Acknowledgement, ServiceList};
use rsf_testkit::{RedisServer, ZooKeeper};
use tokio::time::Instant;

use crate::{TTL, lease, list, with_redis, with_zookeeper};

const LEASES: usize = 20_000;
const SERVICES: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_sees_every_lease_among_many_other_keys() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let begun = Instant::now();
    stream::iter(0..LEASES)
        .for_each_concurrent(500, |n| {
            let leases = cluster.leases.clone();
            async move { leases.put(&lease(&format!("member/{n}"), 1), TTL).await.unwrap() }
        })
        .await;
    println!("{LEASES} leases put in {:?}", begun.elapsed());
    let begun = Instant::now();
    stream::iter(0..LEASES)
        .for_each_concurrent(500, |n| {
            let leases = cluster.leases.clone();
            async move {
                assert_eq!(
                    leases.renew(&format!("member/{n}"), 7, TTL).await.unwrap(),
                    Renewal::Renewed
                )
            }
        })
        .await;
    println!("{LEASES} leases renewed in {:?}", begun.elapsed());
    let begun = Instant::now();
    stream::iter(0..LEASES)
        .for_each_concurrent(500, |n| {
            let acknowledgements = cluster.acknowledgements.clone();
            let (instance, scope) = (format!("member/{n}"), "fleet".to_owned());
            let acknowledgement = Acknowledgement {
                instance,
                scope,
                revision: 1,
                ..Default::default()
            };
            async move {
                acknowledgements
                    .acknowledge(&[acknowledgement], TTL)
                    .await
                    .unwrap()
            }
        })
        .await;
    println!("{LEASES} acknowledgements written in {:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(
        cluster
            .acknowledgements
            .acknowledged("fleet")
            .await
            .unwrap()
            .len(),
        LEASES
    );
    println!("{LEASES} acknowledgements read in {:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(cluster.sources[0].sweep().await.unwrap().leases.len(), LEASES);
    println!("{LEASES} leases swept in {:?}", begun.elapsed());
    let ids: Vec<String> = (0..LEASES).map(|n| format!("member/{n}")).collect();
    let read = cluster.sources[0].read(&ids).await.unwrap();
    assert!(
        read.iter()
            .zip(&ids)
            .all(|(live, id)| live.as_ref().is_some_and(|live| live.lease.instance == *id))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_directory_is_written_and_read_in_batches() {
    let zookeeper = ZooKeeper::start().await;
    let cluster = with_zookeeper(&zookeeper);
    let term = cluster.writer.lead("pump", 0).await.unwrap();
    let lists = |sequence| -> Vec<ServiceList> {
        let mut lists: Vec<_> = (0..SERVICES)
            .map(|n| list(&format!("shop.v1.S{n}"), term.epoch, sequence))
            .collect();
        // Some that leave room for few others in one request.
        for large in lists.iter_mut().step_by(100) {
            large.instances = (0..2_000)
                .map(|n| {
                    let mut instance = large.instances[0].clone();
                    instance.instance = format!("member/{n}");
                    instance.zone = std::iter::repeat_with(fastrand::alphanumeric).take(150).collect();
                    instance
                })
                .collect();
        }
        lists
    };
    for sequence in 1..=3 {
        let lists = lists(sequence);
        let begun = Instant::now();
        cluster.writer.write(&term, &lists).await.unwrap();
        println!("{SERVICES} lists written in {:?}", begun.elapsed());
        let begun = Instant::now();
        let mut stored = cluster.writer.lists().await.unwrap();
        println!("{SERVICES} lists read in {:?}", begun.elapsed());
        // Neither lists nor the instances of one that stands in shards have an order.
        let sort = |lists: &mut Vec<ServiceList>| {
            lists.sort_by(|a, b| a.service.cmp(&b.service));
            let instances = lists.iter_mut().map(|list| &mut list.instances);
            instances.for_each(|instances| instances.sort_by(|a, b| a.instance.cmp(&b.instance)));
        };
        let mut expected = lists;
        sort(&mut stored);
        sort(&mut expected);
        assert!(stored == expected, "a list is missing or differs");
    }
    // A pump that does not know what exists.
    let other = with_zookeeper(&zookeeper);
    term.lost.cancel();
    let next = other.writer.lead("other", 0).await.unwrap();
    let lists: Vec<_> = (0..SERVICES + 10)
        .map(|n| list(&format!("shop.v1.S{n}"), next.epoch, 1))
        .collect();
    other.writer.write(&next, &lists).await.unwrap();
    assert_eq!(other.directory.services().await.unwrap().len(), SERVICES + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_see_a_change_within_a_second() {
    let zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let consumers: Vec<_> = (0..10).map(|_| with_zookeeper(&zookeeper)).collect();
    pump.writer
        .write(&term, &[list("shop.v1.S", term.epoch, 1)])
        .await
        .unwrap();
    let mut watches: Vec<_> = consumers
        .iter()
        .flat_map(|consumer| (0..100).map(|_| consumer.directory.watch("shop.v1.S")))
        .collect();
    for watch in &mut watches {
        crate::observe_version(watch, term.epoch, 1).await;
    }
    let begun = Instant::now();
    pump.writer
        .write(&term, &[list("shop.v1.S", term.epoch, 2)])
        .await
        .unwrap();
    for watch in &mut watches {
        crate::observe_version(watch, term.epoch, 2).await;
    }
    println!("{} watches told in {:?}", watches.len(), begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let again = try_join_all(consumers.iter().map(|consumer| consumer.directory.services()))
        .await
        .unwrap();
    assert!(again.iter().all(|services| services == &["shop.v1.S"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_follows_two_thousand_services_over_a_restart() {
    let mut zookeeper = ZooKeeper::start().await;
    let (pump, consumer) = (with_zookeeper(&zookeeper), with_zookeeper(&zookeeper));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let lists = |epoch, sequence| -> Vec<ServiceList> {
        (0..SERVICES)
            .map(|n| list(&format!("shop.v1.S{n}"), epoch, sequence))
            .collect()
    };
    pump.writer.write(&term, &lists(term.epoch, 1)).await.unwrap();
    let begun = Instant::now();
    let mut watches: Vec<_> = (0..SERVICES)
        .map(|n| consumer.directory.watch(&format!("shop.v1.S{n}")))
        .collect();
    for watch in &mut watches {
        crate::observe_version(watch, term.epoch, 1).await;
    }
    println!(
        "{SERVICES} services resolved over one session in {:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    pump.writer.write(&term, &lists(term.epoch, 2)).await.unwrap();
    for watch in &mut watches {
        crate::observe_version(watch, term.epoch, 2).await;
    }
    println!(
        "{SERVICES} changes written and seen over one session in {:?}",
        begun.elapsed()
    );
    zookeeper.restart().await;
    let begun = Instant::now();
    let next = pump.writer.lead("pump", 0).await.unwrap();
    pump.writer.write(&next, &lists(next.epoch, 1)).await.unwrap();
    for watch in &mut watches {
        crate::observe_version(watch, next.epoch, 1).await;
    }
    println!(
        "{SERVICES} services seen anew {:?} after a restart",
        begun.elapsed()
    );
}
