//! T31: lists that are corrupted, bombs, oversized, blank or impossible, as an agent meets them in a real ZooKeeper.

use std::io::Read;
use std::time::Duration;

use prost::Message;
use rsf_core::control::{ControlPlane, Discovery};
use rsf_registry::directory::{ListSealer, Reason};
use rsf_registry::record::ServiceList;
use rsf_registry::{AgentOptions, Backend, RegistryAgent};
use rsf_testkit::{ZooKeeper, eventually};

use crate::{PATIENCE, list, with_zookeeper};

const SERVICE: &str = "shop.v1.MemberService";
const NODE: &str = "/rsf/default/directory/shop.v1.MemberService";
/// What refusing may cost in memory, in bytes.
const MEMORY: usize = 64 << 20;

/// A frame with a header that is right in itself.
fn sealed(format: u8, body: &[u8]) -> Vec<u8> {
    let mut stored = b"RSFZ".to_vec();
    stored.push(format);
    stored.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    stored.extend_from_slice(body);
    stored
}

fn record(list: &ServiceList) -> Vec<u8> {
    sealed(1, &zstd::encode_all(list.encode_to_vec().as_slice(), 3).unwrap())
}

/// The most memory that this process had since the last call, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kilobytes << 10
}

/// Every bad list with the reason that it is refused for.
fn bad_lists(good: &ServiceList, stored: &[u8]) -> Vec<(&'static str, Vec<u8>, Reason)> {
    let changed = |change: fn(&mut ServiceList)| {
        let mut list = good.clone();
        list.version.as_mut().unwrap().sequence += 1;
        change(&mut list);
        record(&list)
    };
    let mut flipped = stored.to_vec();
    flipped[20] ^= 4;
    let bomb = zstd::encode_all(std::io::repeat(0).take(256 << 20), 1).unwrap();
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(700_000)
        .collect();
    let many = |list: &mut ServiceList| {
        let one = list.instances[0].clone();
        list.instances = (0..20_001)
            .map(|n| {
                let mut listed = one.clone();
                listed.instance = format!("member/{n}");
                listed
            })
            .collect();
    };
    vec![
        ("blank", Vec::new(), Reason::Damaged),
        ("noise", noise[..500].to_vec(), Reason::Damaged),
        ("a flipped bit", flipped, Reason::Damaged),
        ("cut off", stored[..stored.len() - 3].to_vec(), Reason::Damaged),
        (
            "a good header over noise",
            sealed(1, &noise[..500]),
            Reason::Damaged,
        ),
        ("a bomb of 256 MiB", sealed(1, &bomb), Reason::Oversized),
        ("700 000 stored bytes", sealed(1, &noise), Reason::Oversized),
        ("20 001 instances", changed(many), Reason::Oversized),
        ("format 9", sealed(9, b"later"), Reason::Format),
        ("a newer kind", sealed(2, b"\x09\x00later"), Reason::Format),
        (
            "the weight of a NaN",
            changed(|list| list.instances[0].weight = f32::NAN.to_bits()),
            Reason::Invalid,
        ),
        (
            "another service's",
            changed(|list| list.service = "s.Other".into()),
            Reason::Invalid,
        ),
        (
            "no address",
            changed(|list| list.instances[0].address.clear()),
            Reason::Invalid,
        ),
        (
            "twice the same",
            changed(|list| list.instances.push(list.instances[0].clone())),
            Reason::Invalid,
        ),
        (
            "emptied without a word",
            changed(|list| list.instances.clear()),
            Reason::Emptied,
        ),
        (
            "older",
            changed(|list| list.version.as_mut().unwrap().epoch -= 1),
            Reason::Older,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_no_bad_list_replaces_a_good_one_or_costs_much_memory() {
    let zookeeper = ZooKeeper::start().await;
    let (pump, consumer) = (with_zookeeper(&zookeeper), with_zookeeper(&zookeeper));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let good = list(SERVICE, term.epoch, 5);
    pump.writer
        .write(&term, std::slice::from_ref(&good))
        .await
        .unwrap();
    let agent = RegistryAgent::new(Backend::from(consumer), AgentOptions::new("default", "a test")).unwrap();
    let mut instances = agent.instances(SERVICE);
    let ready = |state: &Discovery| matches!(state, Discovery::Ready(_));
    let first = tokio::time::timeout(PATIENCE, instances.wait_for(ready)).await;
    let Discovery::Ready(first) = first.unwrap().unwrap().clone() else {
        unreachable!()
    };

    let vandal = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let (stored, _) = vandal.get_data(NODE).await.unwrap();
    let bad = bad_lists(&good, &stored);
    let refused = agent.refused_lists();
    let before = peak_memory();
    for (what, bytes, reason) in bad {
        let count = refused.get(reason);
        vandal.set_data(NODE, &bytes, None).await.unwrap();
        eventually(PATIENCE, async || match refused.get(reason) {
            now if now > count => Ok(()),
            now => Err(format!("{what}: {now} refused as {}", reason.as_str())),
        })
        .await;
        let Discovery::Ready(now) = instances.borrow().clone() else {
            panic!("{what}: not ready")
        };
        assert!(std::sync::Arc::ptr_eq(&first, &now), "{what} was taken over");
    }
    let peak = peak_memory();
    let cost = peak.saturating_sub(before);
    println!("refusing them all took {} KiB more than before", cost >> 10);
    assert!(cost < MEMORY, "{cost} bytes");

    // And the next good one is taken.
    let next = list(SERVICE, term.epoch, 9);
    pump.writer.write(&term, &[next]).await.unwrap();
    let newer = |state: &Discovery| matches!(state, Discovery::Ready(list) if list.version.1 == 9);
    let seen = tokio::time::timeout(PATIENCE, instances.wait_for(newer)).await;
    seen.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_shard_leaves_the_last_good_list() {
    let zookeeper = ZooKeeper::start().await;
    let (pump, consumer) = (with_zookeeper(&zookeeper), with_zookeeper(&zookeeper));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let mut large = list(SERVICE, term.epoch, 1);
    let one = large.instances[0].clone();
    large.instances = (0..20_000)
        .map(|n| {
            let mut listed = one.clone();
            listed.instance = format!("member/{n}");
            listed.zone = std::iter::repeat_with(fastrand::alphanumeric).take(50).collect();
            listed
        })
        .collect();
    pump.writer
        .write(&term, std::slice::from_ref(&large))
        .await
        .unwrap();
    let mut watch = consumer.directory.watch(SERVICE);
    crate::observe_version(&mut watch, term.epoch, 1).await;
    // The next one's first shard is damaged before the head that names it comes.
    large.version.as_mut().unwrap().sequence = 2;
    let mut next = ListSealer::unsigned().seal(&large).unwrap();
    let shard = next.shards.values_mut().next().unwrap();
    let mut damaged = shard.to_vec();
    damaged[5000] ^= 1;
    *shard = damaged.into();
    pump.writer.store(&term, &[next]).await.unwrap();
    let refused = consumer.directory.opener().refusals().clone();
    eventually(PATIENCE, async || match refused.get(Reason::Damaged) {
        0 => Err("not refused"),
        _ => Ok(()),
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    crate::observe_version(&mut watch, term.epoch, 1).await;
    large.version.as_mut().unwrap().sequence = 3;
    pump.writer.write(&term, &[large]).await.unwrap();
    crate::observe_version(&mut watch, term.epoch, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shard_is_counted_once_and_the_next_list_is_taken() {
    let zookeeper = ZooKeeper::start().await;
    let (pump, consumer) = (with_zookeeper(&zookeeper), with_zookeeper(&zookeeper));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let mut large = list(SERVICE, term.epoch, 1);
    let one = large.instances[0].clone();
    let instance = |n: usize| {
        let mut listed = one.clone();
        listed.instance = format!("member/{n}");
        listed.zone = std::iter::repeat_with(fastrand::alphanumeric).take(50).collect();
        listed
    };
    large.instances = (0..20_000).map(instance).collect();
    let sealed = ListSealer::unsigned().seal(&large).unwrap();
    pump.writer
        .store(&term, std::slice::from_ref(&sealed))
        .await
        .unwrap();
    let operator = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let shard = format!("/rsf/default/shards/{SERVICE}@{}", sealed.names[1]);
    operator.delete(&shard, None).await.unwrap();

    let mut watch = consumer.directory.watch(SERVICE);
    let refused = consumer.directory.opener().refusals().clone();
    eventually(PATIENCE, async || {
        match refused.of(SERVICE).map(|refusal| refusal.to_string()) {
            Some(text) if text.contains("is missing") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    large.version.as_mut().unwrap().sequence = 2;
    pump.writer.write(&term, &[large]).await.unwrap();
    crate::observe_version(&mut watch, term.epoch, 2).await;
    assert_eq!(refused.get(Reason::Damaged), 1);
    assert!(refused.of(SERVICE).is_none(), "the new list is good");
}
