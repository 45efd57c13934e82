//! Signed lists: refused where the signature is missing or another's, taken while keys are replaced.

use rsf_core::control::{ControlPlane, Discovery};
use rsf_core::identity::{SigningKey, TrustedKeys};
use rsf_registry::cluster::{self, Cluster};
use rsf_registry::directory::{ListOpener, ListSealer, Reason};
use rsf_registry::{AgentOptions, Backend, RegistryAgent};
use rsf_testkit::{ZooKeeper, eventually};

use crate::{NOBODY, PATIENCE, list, observe_version, with_zookeeper};

const SERVICE: &str = "shop.v1.MemberService";

fn key(number: u8) -> SigningKey {
    SigningKey::from_random(&[number; 32])
}

fn trusting(zookeeper: &ZooKeeper, keys: &[u8]) -> Cluster {
    let pems: String = keys
        .iter()
        .map(|number| key(*number).public_pem().unwrap())
        .collect();
    let opener = ListOpener::trusting("default", TrustedKeys::from_pem(&pems).unwrap());
    let redis = format!("redis://{NOBODY}");
    cluster::open_with(&redis, &zookeeper.address().to_string(), "default", opener).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_lists_that_a_trusted_key_signed_are_taken_and_keys_are_replaced_without_a_gap() {
    let zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let (strict, replacing) = (trusting(&zookeeper, &[1]), trusting(&zookeeper, &[1, 2]));
    let (mut strictly, mut widely) = (
        strict.directory.watch(SERVICE),
        replacing.directory.watch(SERVICE),
    );
    let mut blindly = pump.directory.watch(SERVICE);
    let write = async |sealer: ListSealer, sequence| {
        let sealed = sealer.seal(&list(SERVICE, term.epoch, sequence)).unwrap();
        pump.writer.store(&term, &[sealed]).await.unwrap();
    };

    write(ListSealer::signing("default", key(1)), 1).await;
    observe_version(&mut strictly, term.epoch, 1).await;
    observe_version(&mut widely, term.epoch, 1).await;
    observe_version(&mut blindly, term.epoch, 1).await;

    let strictly = tokio::spawn(crate::sequences_until(strictly, 5));

    // The new key: who trusts it goes on, who does not keeps what was good.
    write(ListSealer::signing("default", key(2)), 2).await;
    observe_version(&mut widely, term.epoch, 2).await;
    observe_version(&mut blindly, term.epoch, 2).await;
    let refused = strict.directory.opener().refusals().clone();
    let refusals = async |count: u64| {
        eventually(PATIENCE, async || match refused.get(Reason::Signature) {
            now if now == count => Ok(()),
            now => Err(now.to_string()),
        })
        .await;
    };
    refusals(1).await;

    // No signature at all, and one for another namespace.
    write(ListSealer::unsigned(), 3).await;
    refusals(2).await;
    write(ListSealer::signing("test", key(1)), 4).await;
    refusals(3).await;
    observe_version(&mut blindly, term.epoch, 4).await;

    write(ListSealer::signing("default", key(1)), 5).await;
    observe_version(&mut widely, term.epoch, 5).await;
    assert_eq!(strictly.await.unwrap(), [1, 5], "and no other in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_finds_no_signed_list_says_so() {
    let zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    let consumer = Backend::from(trusting(&zookeeper, &[1]));
    let agent = RegistryAgent::new(consumer, AgentOptions::new("default", "a test")).unwrap();
    let mut instances = agent.instances(SERVICE);
    let told = |state: &Discovery| matches!(state, Discovery::NotReady { .. });
    let told = tokio::time::timeout(PATIENCE, instances.wait_for(told)).await;
    let Discovery::NotReady { reason } = told.unwrap().unwrap().clone() else {
        unreachable!()
    };
    assert!(reason.contains("not signed"), "{reason}");
    let signed = ListSealer::signing("default", key(1)).seal(&list(SERVICE, term.epoch, 2));
    pump.writer.store(&term, &[signed.unwrap()]).await.unwrap();
    let ready = |state: &Discovery| matches!(state, Discovery::Ready(_));
    let ready = tokio::time::timeout(PATIENCE, instances.wait_for(ready)).await;
    ready.unwrap().unwrap();
    assert!(agent.refused_lists().of(SERVICE).is_none());
}
