//! Snapshots of peers: what an agent with an empty disk starts from, and what it takes from nobody.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rsf_core::control::{ControlPlane, ListOrigin, PolicyState, Scope};
use rsf_core::identity::{SigningKey, TrustedKeys};
use rsf_registry::directory::{ListOpener, ListSealer};
use rsf_registry::embedded::EmbeddedRegistry;
use rsf_registry::record::{PolicyRecord, ServiceList};
use rsf_registry::snapshot::SnapshotFolder;
use rsf_registry::{AgentOptions, Backend, DirectoryWriter, PolicyWriter, RegistryAgent};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::lists::not_ready;
use crate::server::Server;
use crate::{Pump, SERVICE, agent, eventually, list, options, ready, seen};

const LIST: &str = "/snapshot?namespace=default&kind=list&key=shop%2Ev1%2EMemberService";

/// An admin port that answers each request by what `answer` makes of its target.
async fn peer(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    request.push(byte);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let target = request.split(' ').nth(1).unwrap_or_default();
                // Whoever asks may have gone by now.
                let _ = stream.write_all(&answer(target)).await;
            });
        }
    });
    address
}

fn http(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What an agent gives of `list` that has it from its disk.
async fn given(list: &ServiceList) -> Vec<u8> {
    let server = Server::stopped().await;
    SnapshotFolder::new(server.folder(), "default")
        .save(list)
        .expect("save");
    let agent = agent(&server);
    ready(&mut agent.instances(&list.service), "the disk's", |_| true).await;
    agent
        .snapshot("default", "list", &list.service)
        .expect("it uses it")
}

/// An agent whose registry is down and whose disk is empty.
fn newcomer(server: &Server, folder: &Path, peers: &[String]) -> RegistryAgent {
    let registry = EmbeddedRegistry::new(&server.address(), "default").expect("client");
    RegistryAgent::new(Backend::from(registry), with_peers(server, folder, peers)).expect("agent")
}

fn with_peers(server: &Server, folder: &Path, peers: &[String]) -> AgentOptions {
    let mut options = options(&server.address(), folder);
    options.peers = peers.to_vec();
    options
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

#[tokio::test]
async fn with_an_empty_disk_a_peers_list_and_policy_hold_until_the_registry_speaks() {
    let server = Server::started().await;
    let publisher = server.namespace();
    let policy = |revision: u64| PolicyRecord {
        scope: "fleet".into(),
        revision,
        document: format!("{{\"a\":{revision}}}"),
        written_unix_ms: 1,
        author: "ann".into(),
    };
    publisher.publish(&policy(7)).await.expect("publish");
    let mut pump = Pump::of(&server).await;
    let version = pump.write(&["a", "b"], &[]).await;
    let running = Arc::new(agent(&server));
    ready(&mut running.instances(SERVICE), "the list", |_| true).await;
    revision(&running, 7).await;
    server.stop().await;

    let asked = running.clone();
    let address = peer(move |target| {
        let bytes = match target {
            LIST => asked.snapshot("default", "list", SERVICE),
            "/snapshot?namespace=default&kind=policy&key=fleet" => {
                asked.snapshot("default", "policy", "fleet")
            }
            _ => None,
        };
        bytes.map_or_else(|| http("404 Not Found", b""), |bytes| http("200 OK", &bytes))
    })
    .await;
    let empty = folder();
    let peers = [address];
    let new = newcomer(&server, empty.path(), &peers);
    // Before the list: what would go to the disk would be there before the list is, or with it.
    revision(&new, 7).await;
    let mut instances = new.instances(SERVICE);
    let list = ready(&mut instances, "the peer's", |_| true).await;
    assert_eq!(
        (list.origin, list.version, list.instances.len()),
        (ListOrigin::Peer, version, 2)
    );
    let reason = not_ready(&mut new.instances("shop.v1.StockService"), "peers").await;
    assert!(reason.contains("does not have it"), "{reason}");
    assert_eq!(
        new.snapshot("other", "list", SERVICE),
        None,
        "of another environment"
    );
    assert_eq!(
        new.snapshot("default", "list", SERVICE),
        running.snapshot("default", "list", SERVICE),
        "it is passed on"
    );
    let disk = SnapshotFolder::new(empty.path(), "default");
    eventually("on disk", async || {
        disk.load::<ServiceList>(SERVICE).ok().flatten()
    })
    .await;
    let restarted = newcomer(&server, empty.path(), &peers);
    revision(&restarted, 7).await;
    let policies = async || disk.load::<PolicyRecord>("fleet").expect("readable");
    assert_eq!(policies().await, None, "a peer's policy is nothing to start from");

    // The registry begins anew: its list is newer, and its policy counts although its revision is not, after a restart too.
    std::fs::remove_file(server.file()).expect("the registry's file is lost");
    server.start().await;
    let mut pump = Pump::of(&server).await;
    pump.term = pump.writer.lead("pump", version.0 + 1).await.expect("lead");
    let newer = pump.write(&["c"], &[]).await;
    let list = ready(&mut instances, "the directory's", |list| list.version == newer).await;
    assert_eq!(list.origin, ListOrigin::Directory);
    server.namespace().publish(&policy(2)).await.expect("publish");
    revision(&new, 2).await;
    revision(&restarted, 2).await;
}

async fn revision(agent: &RegistryAgent, wanted: u64) {
    let mut policy = agent.policy(&Scope::Fleet);
    seen(&mut policy, &format!("revision {wanted}"), |state| match state {
        PolicyState::Present(text) if text.revision == wanted => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn what_is_not_whole_and_not_of_the_service_is_taken_from_nobody() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let good = given(&list((now, 2), &["a", "b"], &[])).await;
    let mut flipped = good.clone();
    flipped[40] ^= 4;
    let mut other = list((now, 9), &["z"], &[]);
    other.service = "shop.v1.OrderService".into();
    let endless = [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(),
        vec![7; 9 << 20],
    ];
    let hostile: [(&str, Vec<u8>); 9] = [
        ("checksum", http("200 OK", &flipped)),
        ("are there", http("200 OK", &good[..good.len() - 1])),
        ("fewer than its header", http("200 OK", b"")),
        ("orderservice", http("200 OK", &given(&other).await)),
        (
            "in the future",
            http("200 OK", &given(&list((now + 7200, 1), &["z"], &[])).await),
        ),
        ("503", http("503 Service Unavailable", b"busy")),
        ("length limit", endless.concat()),
        ("peers: 127.0.0.1", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        ("peers: 127.0.0.1", Vec::new()),
    ];
    let registry = Server::stopped().await;
    let older = http("200 OK", &given(&list((now, 1), &["a"], &[])).await);
    let older = peer(move |_| older.clone()).await;
    let whole = http("200 OK", &good);
    let whole = peer(move |_| whole.clone()).await;
    for (why, answer) in hostile {
        let bad = peer(move |_| answer.clone()).await;
        let alone = folder();
        let agent = newcomer(&registry, alone.path(), std::slice::from_ref(&bad));
        not_ready(&mut agent.instances(SERVICE), why).await;
        let among = folder();
        let peers = [bad, older.clone(), whole.clone()];
        let agent = newcomer(&registry, among.path(), &peers);
        let list = ready(&mut agent.instances(SERVICE), "the newest good one", |_| true).await;
        assert_eq!((list.origin, list.version), (ListOrigin::Peer, (now, 2)), "{why}");
    }
}

#[tokio::test]
async fn a_silent_peer_costs_a_second_and_one_that_comes_later_is_asked_again() {
    let good = http("200 OK", &given(&list((5, 1), &["a"], &[])).await);
    let up = Arc::new(AtomicBool::new(false));
    let later = {
        let up = up.clone();
        peer(move |_| match up.load(Ordering::Relaxed) {
            true => good.clone(),
            false => http("404 Not Found", b""),
        })
        .await
    };
    // It accepts, by its backlog, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let silent = silent.local_addr().map(|address| (silent, address.to_string()));
    let (_silent, silent) = silent.expect("address");
    let registry = Server::stopped().await;
    let empty = folder();
    let agent = newcomer(&registry, empty.path(), &[silent.clone(), later]);
    let mut instances = agent.instances(SERVICE);
    let begun = tokio::time::Instant::now();
    let reason = not_ready(&mut instances, "no whole answer").await;
    assert!(
        reason.contains(&silent) && reason.contains("does not have it"),
        "{reason}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    up.store(true, Ordering::Relaxed);
    let list = ready(&mut instances, "the peer's", |_| true).await;
    assert_eq!(list.origin, ListOrigin::Peer);
}

#[tokio::test]
async fn what_is_known_is_not_asked_for() {
    let newer = http("200 OK", &given(&list((5, 9), &["z"], &[])).await);
    let asked = Arc::new(AtomicBool::new(false));
    let address = {
        let asked = asked.clone();
        peer(move |_| {
            asked.store(true, Ordering::Relaxed);
            newer.clone()
        })
        .await
    };
    let registry = Server::stopped().await;
    let disk = SnapshotFolder::new(registry.folder(), "default");
    disk.save(&list((5, 1), &["a"], &[])).expect("save");
    let agent = newcomer(&registry, registry.folder(), std::slice::from_ref(&address));
    let found = ready(&mut agent.instances(SERVICE), "the disk's", |_| true).await;
    assert_eq!((found.origin, found.version), (ListOrigin::Disk, (5, 1)));
    assert!(!asked.load(Ordering::Relaxed));

    // A registry that answers says that there is none; nobody else is believed about it.
    let registry = Server::started().await;
    let empty = folder();
    let agent = newcomer(&registry, empty.path(), &[address]);
    not_ready(&mut agent.instances(SERVICE), "registered").await;
    assert!(!asked.load(Ordering::Relaxed));
}

#[tokio::test]
async fn where_lists_must_be_signed_a_peers_must_be_too() {
    let key = |seed: u8| SigningKey::from_random(&[seed; 32]);
    let trusting = |seed: u8| {
        let keys = TrustedKeys::from_pem(&key(seed).public_pem().expect("key")).expect("keys");
        ListOpener::trusting("default", keys)
    };
    let server = Server::started().await;
    let writer = server.namespace();
    let term = writer.lead("pump", 0).await.expect("lead");
    let signed = ListSealer::signing("default", key(1))
        .seal(&list((term.epoch, 1), &["a", "b"], &[]))
        .expect("seal");
    writer.store(&term, &[signed]).await.expect("store");
    let start = |trusted: u8, folder: &Path, peers: &[String]| {
        let registry = EmbeddedRegistry::with(&server.address(), "default", None, trusting(trusted));
        let backend = Backend::from(registry.expect("client"));
        RegistryAgent::new(backend, with_peers(&server, folder, peers)).expect("agent")
    };
    let first = folder();
    let running = start(1, first.path(), &[]);
    ready(&mut running.instances(SERVICE), "the list", |_| true).await;
    server.stop().await;
    let sealed = running
        .snapshot("default", "sealed", SERVICE)
        .expect("as it was signed");
    let plain = running.snapshot("default", "list", SERVICE).expect("in use");
    let answering = async |bytes: Vec<u8>| peer(move |_| http("200 OK", &bytes)).await;
    let (sealed_peer, plain_peer) = (answering(sealed.clone()).await, answering(plain).await);
    let mut forged = sealed.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = answering(forged).await;

    let cases = [
        (1, &plain_peer, "another kind"),
        (2, &sealed_peer, "sign"),
        (1, &forged, "checksum"),
    ];
    for (trusted, peer, why) in cases {
        let empty = folder();
        let agent = start(trusted, empty.path(), std::slice::from_ref(peer));
        not_ready(&mut agent.instances(SERVICE), why).await;
    }
    let empty = folder();
    let new = start(1, empty.path(), &[plain_peer, sealed_peer]);
    let list = ready(&mut new.instances(SERVICE), "the signed one", |_| true).await;
    assert_eq!((list.origin, list.instances.len()), (ListOrigin::Peer, 2));
    assert_eq!(
        new.snapshot("default", "sealed", SERVICE),
        Some(sealed),
        "it is passed on"
    );
}

#[tokio::test]
async fn a_peer_without_a_port_is_told_at_the_start() {
    let registry = Server::stopped().await;
    let start = |peers: Vec<String>| {
        let options = with_peers(&registry, registry.folder(), &peers);
        RegistryAgent::new(Backend::from(registry.client("default")), options)
            .err()
            .expect("refused")
            .to_string()
    };
    assert!(start(vec!["nowhere".into()]).contains("host:port"));
    assert!(start(vec!["127.0.0.1:1".into(); 65]).contains("at most 64"));
}
