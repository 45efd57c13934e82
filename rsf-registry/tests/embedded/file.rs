//! The file: what a `kill -9` leaves, what a restart gives, what cannot be opened.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rsf_registry::embedded::EmbeddedStore;
use rsf_registry::record::{Lease, LeaseState, ListVersion, ListedInstance, PolicyRecord, ServiceList};
use rsf_registry::{
    DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter, Renewal, StoreError,
};

const FILE: &str = "RSF_TEST_REGISTRY_FILE";

/// What the killed process does: writes and says what was acknowledged to it, until it is killed.
#[test]
#[ignore = "it is the process that `what_was_acknowledged_survives_kill_9` starts and kills"]
fn writes_until_killed() {
    let path = PathBuf::from(std::env::var_os(FILE).expect("started by its parent"));
    runtime().block_on(async {
        let store = EmbeddedStore::open(&path, &["default"]).await.expect("open");
        let namespace = store.namespace("default").expect("served");
        let term = namespace.lead("pump", 0).await.expect("lead");
        println!("epoch {}", term.epoch);
        for sequence in 1.. {
            let lists = ["a.A", "b.B"].map(|service| list(service, term.epoch, sequence));
            namespace.write(&term, &lists).await.expect("write");
            let revision = namespace
                .current()
                .await
                .expect("current")
                .first()
                .map_or(1, |last| last.revision + 1);
            namespace.publish(&policy(revision)).await.expect("publish");
            // A start of its own: the lease of the one that was killed may still be in the file.
            let mut lease = lease("member/1", sequence);
            lease.incarnation = term.epoch;
            namespace.put(&lease, Duration::from_secs(60)).await.expect("put");
            println!("done {sequence} {revision}");
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("registry.redb");
    let mut random = fastrand::Rng::with_seed(11);
    let mut last_epoch = 0;
    for round in 0..8 {
        let (epoch, sequence, revision) = write_and_kill(&path, random.usize(5..150));
        assert!(epoch > last_epoch, "round {round}: {epoch} after {last_epoch}");
        last_epoch = epoch;
        runtime().block_on(async {
            let store = EmbeddedStore::open(&path, &["default"])
                .await
                .expect("opens after a kill");
            let namespace = store.namespace("default").expect("served");
            let lists = namespace.lists().await.expect("lists");
            let versions: Vec<_> = lists
                .iter()
                .map(|list| list.version.expect("versioned").order())
                .collect();
            assert_eq!(versions.len(), 2);
            assert_eq!(versions[0], versions[1], "written together, there together");
            assert!(
                versions[0] >= (epoch, sequence),
                "round {round}: {versions:?}, {sequence} was acknowledged"
            );
            let policies = namespace.current().await.expect("current");
            assert!(
                policies[0].revision >= revision,
                "round {round}: {policies:?}, {revision} was acknowledged"
            );
            assert_eq!(policies[0].document, policy(policies[0].revision).document);
            store.close().await;
        });
    }
}

#[tokio::test]
async fn a_restart_gives_leases_a_full_ttl_and_another_source() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("registry.redb");
    let ttl = Duration::from_secs(10);
    let store = EmbeddedStore::open(&path, &["default", "other"])
        .await
        .expect("open");
    let namespace = store.namespace("default").expect("served");
    for n in 0..50 {
        namespace
            .put(&lease(&format!("member/{n}"), 1), ttl)
            .await
            .expect("put");
    }
    let mut tombstone = lease("member/left", 2);
    tombstone.state = LeaseState::Deregistered.into();
    namespace.put(&tombstone, ttl).await.expect("put");
    store
        .namespace("other")
        .expect("served")
        .put(&lease("order/1", 1), ttl)
        .await
        .expect("put");
    let before = namespace.sweep().await.expect("sweep");
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.close().await;
    let closed = namespace.put(&lease("member/1", 2), ttl).await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable { .. })),
        "{closed:?}"
    );

    let store = EmbeddedStore::open(&path, &["default"]).await.expect("open");
    let namespace = store.namespace("default").expect("served");
    let after = namespace.sweep().await.expect("sweep");
    assert_ne!(
        after.source, before.source,
        "the pump must hold until renewals cover its last view"
    );
    assert_eq!(after.leases.len(), 51, "the other namespace's is not among them");
    for live in &after.leases {
        assert!(
            live.remaining > ttl - Duration::from_millis(250),
            "{:?} is less than a TTL",
            live.remaining
        );
    }
    assert_eq!(
        namespace.renew("member/1", 1, ttl).await.expect("renew"),
        Renewal::Renewed
    );
    assert_eq!(
        namespace.renew("member/left", 1, ttl).await.expect("renew"),
        Renewal::Unknown,
        "it left"
    );
}

#[tokio::test]
async fn what_ran_out_is_not_in_the_file() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("registry.redb");
    let store = EmbeddedStore::open(&path, &["default"]).await.expect("open");
    let namespace = store.namespace("default").expect("served");
    let mut hints = namespace.hints().await.expect("hints");
    namespace
        .put(&lease("member/1", 1), Duration::from_millis(100))
        .await
        .expect("put");
    for what in ["it came", "it ran out"] {
        let hint =
            tokio::time::timeout(Duration::from_secs(10), futures_util::StreamExt::next(&mut hints)).await;
        assert_eq!(
            hint.expect(what),
            Some(rsf_registry::Hint::Changed("member/1".into())),
            "{what}"
        );
    }
    store.close().await;
    let store = EmbeddedStore::open(&path, &["default"]).await.expect("open");
    assert!(
        store
            .namespace("default")
            .expect("served")
            .sweep()
            .await
            .expect("sweep")
            .leases
            .is_empty()
    );
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("registry.redb");
    let _open = EmbeddedStore::open(&path, &["default"]).await.expect("open");
    let text = folder.path().join("text");
    std::fs::write(&text, "not a registry\n".repeat(1000)).expect("write");
    let cases: [(&Path, &[&str], &str); 6] = [
        (&path, &["default"], "another process"),
        (&text, &["default"], "registry's"),
        (
            &folder.path().join("no/folder/x.redb"),
            &["default"],
            "folder exists",
        ),
        (folder.path(), &["default"], "cannot open"),
        (&path, &[], "no namespace"),
        (&path, &["../x"], "RSF_NAMESPACE"),
    ];
    for (path, namespaces, reason) in cases {
        let error = EmbeddedStore::open(path, namespaces)
            .await
            .expect_err(reason)
            .to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

/// Starts the writer, kills it after some acknowledgements, and returns the epoch and the last acknowledged ones.
fn write_and_kill(path: &Path, rounds: usize) -> (u64, u64, u64) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["file::writes_until_killed", "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map(|line| line.expect("a line"));
    let epoch = lines
        .find_map(|line| line.strip_prefix("epoch ").map(str::to_owned))
        .expect("it leads");
    let done = lines
        .by_ref()
        .filter_map(|line| line.strip_prefix("done ").map(str::to_owned))
        .nth(rounds);
    // SIGKILL: nothing in the process runs any more.
    child.kill().expect("kill");
    child.wait().expect("wait");
    // What it had said before it died counts too.
    let later = lines
        .filter_map(|line| line.strip_prefix("done ").map(str::to_owned))
        .last();
    let done = later.or(done).expect("it wrote");
    let numbers: Vec<u64> = done.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [sequence, revision] = numbers[..] else {
        panic!("torn line: {done}")
    };
    (epoch.parse().expect("a number"), sequence, revision)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

fn list(service: &str, epoch: u64, sequence: u64) -> ServiceList {
    let listed = ListedInstance {
        instance: "member/1".into(),
        address: "127.0.0.1:7001".into(),
        weight: 100,
        ..Default::default()
    };
    ServiceList {
        service: service.into(),
        version: Some(ListVersion { epoch, sequence }),
        instances: vec![listed],
        ..Default::default()
    }
}

fn policy(revision: u64) -> PolicyRecord {
    let document = format!("{{\"revision\":{revision}}}");
    PolicyRecord {
        scope: "fleet".into(),
        revision,
        document,
        written_unix_ms: 1,
        author: "ann".into(),
    }
}

fn lease(instance: &str, sequence: u64) -> Lease {
    Lease {
        namespace: "default".into(),
        application: "member".into(),
        instance: instance.into(),
        incarnation: 1,
        sequence,
        address: "127.0.0.1:7001".into(),
        weight: 100,
        state: LeaseState::Up.into(),
        ..Default::default()
    }
}
