//! Who may do what in ZooKeeper: the pump and the console write, those with the reader's password read, others nothing.

use rsf_registry::cluster::{self, Cluster};
use rsf_registry::record::PolicyRecord;
use rsf_registry::{Observed, StoreError};
use rsf_testkit::ZooKeeper;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Error, Permission};

use crate::{NOBODY, list, observe, observe_version};

const SERVICE: &str = "shop.v1.MemberService";
/// base64 of the SHA-1 of `user:password`, as docs/zookeeper.md says how to make it.
const PUMP: &str = "pump:kYts4ycDhhnrnZbh6wGaMlUD9W4=";
const READER: &str = "reader:aBcgBQpBNEW/r6J/gf+UFFu1YhU=";

fn open(zookeeper: &ZooKeeper, credentials: &str) -> Cluster {
    let place = format!("{credentials}{}/site", zookeeper.address());
    cluster::open(&format!("redis://{NOBODY}"), &place, "default").unwrap()
}

fn record(revision: u64) -> PolicyRecord {
    PolicyRecord {
        scope: "fleet".into(),
        revision,
        document: "{}".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_acl_of_rsf_says_holds_for_every_node_behind_a_chroot() {
    let zookeeper = ZooKeeper::start().await;
    let operator = Client::connect(&zookeeper.address().to_string()).await.unwrap();
    let open_to_all = CreateMode::Persistent.with_acls(Acls::anyone_all());
    operator.create("/site", b"", &open_to_all).await.unwrap();
    let acl = [
        Acl::new(Permission::ALL, AuthId::new("digest", PUMP)),
        Acl::new(Permission::READ, AuthId::new("digest", READER)),
    ];
    let guarded = CreateMode::Persistent.with_acls(Acls::new(&acl));
    operator.create("/site/rsf", b"", &guarded).await.unwrap();

    let pump = open(&zookeeper, "pump:write-secret@");
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let large = {
        let mut large = list("shop.v1.Large", term.epoch, 1);
        let one = large.instances[0].clone();
        large.instances = (0..20_000)
            .map(|n| {
                let mut listed = one.clone();
                listed.instance = format!("member/{n}");
                listed.zone = std::iter::repeat_with(fastrand::alphanumeric).take(50).collect();
                listed
            })
            .collect();
        large
    };
    let lists = [list(SERVICE, term.epoch, 1), large];
    pump.writer.write(&term, &lists).await.unwrap();
    pump.policies.publish(&record(1)).await.unwrap();

    let reader = open(&zookeeper, "reader:read-secret@");
    for service in [SERVICE, "shop.v1.Large"] {
        observe_version(&mut reader.directory.watch(service), term.epoch, 1).await;
    }
    let mut policy = reader.policies.watch("fleet");
    observe(&mut policy, "the policy", |state| {
        matches!(state, Observed::Present(_)).then_some(())
    })
    .await;
    for refused in [
        reader.writer.lead("impostor", 0).await.map(drop).unwrap_err(),
        reader.policies.publish(&record(2)).await.unwrap_err(),
    ] {
        let text = refused.to_string();
        assert!(matches!(refused, StoreError::Refused { .. }), "{text}");
        assert!(text.contains("setAcl") && !text.contains("secret"), "{text}");
    }

    for stranger in ["", "reader:wrong-secret@"] {
        let stranger = open(&zookeeper, stranger);
        let refused = stranger.directory.services().await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
        let mut watch = stranger.directory.watch(SERVICE);
        let seen = tokio::time::timeout(std::time::Duration::from_millis(500), watch.changed()).await;
        assert!(seen.is_err(), "{seen:?}");
    }
    // Every node, whoever made it: nobody without a password reads one.
    for node in [
        "/site/rsf/default/directory/shop.v1.MemberService",
        "/site/rsf/default/pump/epoch",
        "/site/rsf/default/policy/current/fleet",
    ] {
        assert_eq!(
            operator.get_data(node).await.map(drop),
            Err(Error::NoAuth),
            "{node}"
        );
    }
    assert_eq!(
        operator.check_stat("/rsf").await.unwrap().map(drop),
        None,
        "all is behind the chroot"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_acl_what_a_pump_with_a_password_makes_is_its_own() {
    let zookeeper = ZooKeeper::start().await;
    let pump = open(&zookeeper, "pump:write-secret@");
    let term = pump.writer.lead("pump", 0).await.unwrap();
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    let refused = open(&zookeeper, "").directory.services().await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused}");
    let console = open(&zookeeper, "pump:write-secret@");
    console.policies.publish(&record(1)).await.unwrap();
}
