//! Lists: from the directory, from disk, from an operator; and what never replaces a good one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsf_core::control::{ControlPlane, Discovery, Instance, ListOrigin};
use rsf_registry::record::ServiceList;
use rsf_registry::snapshot::SnapshotFolder;
use rsf_registry::{
    AgentOptions, Backend, Directory, DirectoryWriter, Observed, RegistryAgent, StoreError, Watch,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::server::Server;
use crate::{Pump, SERVICE, agent, agent_with, eventually, list, options, ready, seen};

#[tokio::test]
async fn follows_the_directory() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut instances = agent.instances(SERVICE);
    let reason = not_ready(&mut instances, "registered").await;
    assert!(
        reason.contains(SERVICE) && reason.contains("RSF_NAMESPACE"),
        "{reason}"
    );
    let mut pump = Pump::of(&server).await;
    let version = pump.write(&["a", "b"], &[]).await;
    let list = ready(&mut instances, "two", |list| list.instances.len() == 2).await;
    assert_eq!((list.version, list.origin), (version, ListOrigin::Directory));
    let mut expected = Instance::at("member", "127.0.0.1:7000");
    (expected.id, expected.zone, expected.incarnation) = ("member/a".into(), "east".into(), 10);
    assert_eq!(list.instances[0], expected);
    pump.write(&["a"], &[]).await;
    ready(&mut instances, "one", |list| list.instances.len() == 1).await;
    assert!(
        agent.instances(SERVICE).same_channel(&instances),
        "a service is watched once"
    );
}

#[tokio::test]
async fn starts_from_disk_and_goes_on_with_the_directory() {
    let server = Server::started().await;
    let mut pump = Pump::of(&server).await;
    let version = pump.write(&["a", "b"], &[]).await;
    let first = agent(&server);
    let mut instances = first.instances(SERVICE);
    ready(&mut instances, "the list", |_| true).await;
    saved(&server, version).await;
    server.stop().await;
    ready(&mut instances, "what is known stays", |list| {
        list.version == version
    })
    .await;
    drop(first);

    let begun = Instant::now();
    let second = agent(&server);
    let mut instances = second.instances(SERVICE);
    let list = ready(&mut instances, "the disk's copy", |_| true).await;
    assert_eq!(
        (list.origin, list.version, list.instances.len()),
        (ListOrigin::Disk, version, 2)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "a refused connection is known at once"
    );
    server.start().await;
    let list = ready(&mut instances, "the directory's", |list| {
        list.origin == ListOrigin::Directory
    })
    .await;
    assert_eq!(list.version, version);
}

#[tokio::test]
async fn a_silent_registry_is_not_waited_for() {
    let server = Server::stopped().await;
    let folder = SnapshotFolder::new(server.folder(), "default");
    folder.save(&list((5, 1), &["a"], &[])).expect("save");
    // It accepts, by its backlog, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = silent.local_addr().expect("address").to_string();
    let registry = rsf_registry::embedded::EmbeddedRegistry::new(&address, "default").expect("client");
    let agent =
        RegistryAgent::new(Backend::from(registry), options(&address, server.folder())).expect("agent");
    let begun = Instant::now();
    let mut instances = agent.instances(SERVICE);
    let list = ready(&mut instances, "the disk's copy", |_| true).await;
    assert_eq!(list.origin, ListOrigin::Disk);
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "the directory had its second: {:?}",
        begun.elapsed()
    );
    let mut unknown = agent.instances("shop.v1.StockService");
    not_ready(&mut unknown, "no answer").await;
}

#[tokio::test]
async fn with_neither_it_says_what_to_do() {
    let server = Server::stopped().await;
    let agent = agent(&server);
    let mut instances = agent.instances(SERVICE);
    let reason = not_ready(&mut instances, "refused").await;
    let file = format!("{}/snapshots/default/lists", server.folder().display());
    for part in [&server.address(), &file, SERVICE, "`default`", "RSF_REGISTRY"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    server.start().await;
    let mut pump = Pump::of(&server).await;
    pump.write(&["a"], &[]).await;
    ready(&mut instances, "it comes by itself", |_| true).await;
}

#[tokio::test]
async fn a_name_that_no_service_has_is_told() {
    let server = Server::stopped().await;
    let agent = agent(&server);
    for (name, why) in [("", "empty"), (&*"x".repeat(201), "longer than 200")] {
        not_ready(&mut agent.instances(name), why).await;
    }
}

#[tokio::test]
async fn an_unknown_namespace_is_named() {
    let server = Server::started().await;
    let registry = server.client("nowhere");
    let agent = RegistryAgent::new(
        Backend::from(registry),
        options(&server.address(), server.folder()),
    );
    let agent = agent.expect("agent");
    let mut instances = agent.instances(SERVICE);
    let reason = not_ready(&mut instances, "`nowhere`").await;
    assert!(reason.contains("`default`"), "{reason}");
}

#[tokio::test]
async fn accidents_never_replace_a_good_list() {
    let states = Arc::new(watch::Sender::new(Observed::Unknown));
    let server = Server::stopped().await;
    let mut backend = Backend::from(server.client("default"));
    backend.directory = Arc::new(Scripted(states.clone()));
    let agent = RegistryAgent::new(backend, AgentOptions::new("default", "scripted")).expect("agent");
    let mut instances = agent.instances(SERVICE);
    settle().await;
    let present = |list: ServiceList| Observed::Present(Arc::new(list));
    states.send_replace(present(list((5, 5), &["a", "b"], &[])));
    let good = ready(&mut instances, "the good one", |_| true).await;
    let mut heavy = list((5, 6), &["a", "b"], &[]);
    heavy.instances[1].weight = 10_001;
    let mut stray = list((5, 6), &["a", "b"], &[]);
    stray.service = "shop.v1.OrderService".into();
    let accidents = [
        ("lost", Observed::Absent),
        ("forgotten", Observed::Unknown),
        ("emptied", present(list((5, 6), &[], &[]))),
        ("emptied, half explained", present(list((5, 6), &[], &["a"]))),
        ("emptied by a new epoch", present(list((6, 1), &[], &[]))),
        ("older sequence", present(list((5, 4), &["a"], &[]))),
        ("older epoch", present(list((4, 9), &["a"], &[]))),
        ("invalid", present(heavy)),
        ("of another service", present(stray)),
    ];
    for (what, accident) in accidents {
        states.send_replace(accident);
        settle().await;
        let Discovery::Ready(kept) = &*instances.borrow() else {
            panic!("{what}: nothing is left")
        };
        assert_eq!(**kept, *good, "{what}");
    }
    states.send_replace(present(list((5, 6), &[], &["a", "b"])));
    let empty = ready(&mut instances, "each said why", |list| list.version == (5, 6)).await;
    assert!(empty.instances.is_empty());
}

/// A directory that says what the test wants.
struct Scripted(Arc<watch::Sender<Observed<ServiceList>>>);

#[async_trait]
impl Directory for Scripted {
    fn watch(&self, _service: &str) -> Watch<ServiceList> {
        Watch::new(self.0.subscribe(), None)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

/// Lets every task of this test's one thread run until it waits; nothing here waits for the network.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_registry_that_comes_back_empty_takes_nothing_away() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut instances = agent.instances(SERVICE);
    let mut pump = Pump::of(&server).await;
    let good = pump.write(&["a", "b"], &[]).await;
    ready(&mut instances, "two", |list| list.version == good).await;
    saved(&server, good).await;
    server.stop().await;
    std::fs::remove_file(server.file()).expect("the registry's file is lost");
    server.start().await;
    // One that starts only now has the disk's copy against an empty directory.
    let late = agent_with(&server, |_| {});
    let mut late = late.instances(SERVICE);
    let list = ready(&mut late, "the disk's copy", |_| true).await;
    assert_eq!((list.origin, list.version), (ListOrigin::Disk, good));
    let mut stale = Pump::of(&server).await;
    stale.term = stale.writer.lead("pump", good.0 + 100).await.expect("lead");
    let older = crate::list((good.0 - 1, 9), &["z"], &[]);
    stale
        .writer
        .write(&stale.term, &[older])
        .await
        .expect("an old list is restored from somewhere");
    let newer = stale.write(&["a", "c"], &[]).await;
    let list = ready(&mut instances, "the new epoch's", |list| list.version == newer).await;
    assert_eq!(list.instances.len(), 2);
    assert!(!list.instances.iter().any(|instance| &*instance.id == "member/z"));
}

#[tokio::test]
async fn an_older_list_is_refused() {
    let server = Server::started().await;
    let folder = SnapshotFolder::new(server.folder(), "default");
    let far = (1 << 50, 1);
    folder.save(&list(far, &["kept"], &[])).expect("save");
    let mut pump = Pump::of(&server).await;
    pump.write(&["a", "b"], &[]).await;
    let agent = agent(&server);
    let mut instances = agent.instances(SERVICE);
    let list = ready(&mut instances, "the newer one of the disk", |_| true).await;
    assert_eq!((list.origin, list.version), (ListOrigin::Disk, far));
    pump.term = pump.writer.lead("pump", far.0 + 1).await.expect("lead");
    let newest = pump.write(&["a", "b"], &[]).await;
    let list = ready(&mut instances, "a newer one", |list| {
        list.origin == ListOrigin::Directory
    })
    .await;
    assert_eq!(list.version, newest);
}

#[tokio::test]
async fn a_damaged_snapshot_yields_its_predecessor() {
    let server = Server::stopped().await;
    let folder = SnapshotFolder::new(server.folder(), "default");
    folder.save(&list((5, 1), &["a"], &[])).expect("save");
    folder.save(&list((5, 2), &["a", "b"], &[])).expect("save");
    let path = folder.path(rsf_registry::snapshot::Kind::List, SERVICE);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).expect("damage");
    let agent = agent(&server);
    let list = ready(&mut agent.instances(SERVICE), "the predecessor", |_| true).await;
    assert_eq!(list.version, (5, 1));
}

#[tokio::test]
async fn static_instances_take_precedence() {
    let server = Server::started().await;
    let mut pump = Pump::of(&server).await;
    pump.write(&["a"], &[]).await;
    let file = server.folder().join("static.json");
    std::fs::write(
        &file,
        format!(r#"{{"{SERVICE}": ["127.0.0.1:9", "127.0.0.1:10"]}}"#),
    )
    .expect("write");
    let agent = agent_with(&server, |options| options.static_instances = Some(file.clone()));
    let list = ready(&mut agent.instances(SERVICE), "static", |_| true).await;
    assert_eq!(list.origin, ListOrigin::Static);
    assert_eq!(&*list.instances[1].address, "127.0.0.1:10");
    std::fs::write(&file, "{").expect("write");
    let mut options = options(&server.address(), server.folder());
    options.static_instances = Some(file);
    let error = RegistryAgent::new(Backend::from(server.client("default")), options)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("static.json"), "{error}");
}

pub(crate) async fn not_ready(instances: &mut watch::Receiver<Discovery>, why: &str) -> String {
    seen(
        instances,
        &format!("not ready: {why}"),
        |discovery| match discovery {
            Discovery::NotReady { reason } if reason.to_lowercase().contains(why) => Some(reason.to_string()),
            _ => None,
        },
    )
    .await
}

/// Waits until the disk has a version.
async fn saved(server: &Server, version: (u64, u64)) {
    let folder = SnapshotFolder::new(server.folder(), "default");
    eventually("the list is on disk", async || {
        let stored = folder.load::<ServiceList>(SERVICE).ok().flatten()?;
        (stored.version?.order() == version).then_some(())
    })
    .await;
}
