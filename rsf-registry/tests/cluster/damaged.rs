//! T31: lists that are corrupted, bombs, oversized, blank or impossible, as an agent meets them in a real ZooKeeper.

use rsf_core::control::{ControlPlane, Discovery};
use rsf_registry::directory::{ListSealer, Reason};
use rsf_registry::{AgentOptions, Backend, RegistryAgent};
use rsf_testkit::{ZooKeeper, eventually};

use crate::bad_lists::{MEMORY, bad_lists, peak_memory};
use crate::{PATIENCE, list, with_zookeeper};

const SERVICE: &str = "shop.v1.MemberService";
const NODE: &str = "/rsf/default/directory/shop.v1.MemberService";

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
    // What came before does not count.
    peak_memory();
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
    large.version.as_mut().unwrap().sequence = 3;
    let (shown, written) = tokio::join!(
        crate::sequences_until(watch, 3),
        pump.writer.write(&term, std::slice::from_ref(&large))
    );
    written.unwrap();
    assert_eq!(shown, [1, 3], "the damaged one was shown to nobody");
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
