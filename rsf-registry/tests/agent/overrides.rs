//! An operator's word on a service's instances: a file that is followed, and pushes that end.

use std::path::Path;
use std::time::Duration;

use rsf_core::control::{ControlPlane, InstanceList, ListOrigin};
use rsf_registry::RegistryAgent;
use rsf_registry::agent::{OverrideSource, ServiceOverride, StaticInstance};

use crate::server::Server;
use crate::{Pump, SERVICE, agent_with, eventually, ready};

fn ids(list: &InstanceList) -> Vec<&str> {
    let mut ids: Vec<&str> = list.instances.iter().map(|instance| &*instance.id).collect();
    ids.sort_unstable();
    ids
}

/// Takes the file's place whole, as an editor does.
fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).expect("write");
    std::fs::rename(new, file).expect("rename");
}

async fn refused(agent: &RegistryAgent, why: &str) {
    eventually(&format!("refused: {why}"), async || {
        agent
            .overrides()
            .file_refused
            .filter(|reason| reason.contains(why))
    })
    .await;
}

#[tokio::test]
async fn the_file_is_followed_and_a_bad_one_leaves_the_last_good_in_force() {
    let server = Server::started().await;
    let mut pump = Pump::of(&server).await;
    pump.write(&["a", "b"], &[]).await;
    let file = server.folder().join("static.json");
    write(&file, "{}");
    let agent = agent_with(&server, |options| options.static_instances = Some(file.clone()));
    let mut instances = agent.instances(SERVICE);
    ready(&mut instances, "the directory's", |list| {
        list.origin == ListOrigin::Directory
    })
    .await;

    write(&file, &format!(r#"{{"{SERVICE}": ["127.0.0.1:9"]}}"#));
    let pinned = |list: &InstanceList| ids(list) == ["static/127.0.0.1:9"];
    ready(&mut instances, "the pinned one", pinned).await;
    write(&file, &format!(r#"{{"{SERVICE}": ["nowhere"]}}"#));
    refused(&agent, "nowhere").await;
    std::fs::remove_file(&file).expect("remove");
    refused(&agent, "No such file").await;
    assert!(agent.overrides().active.len() == 1, "what it said last holds");
    ready(&mut instances, "still pinned", pinned).await;

    let merged = r#"{"add": [{"address": "127.0.0.1:9", "zone": "west"}], "remove": ["member/a"]}"#;
    write(&file, &format!(r#"{{"{SERVICE}": {merged}}}"#));
    let list = ready(&mut instances, "one removed, one added", |list| {
        ids(list) == ["member/b", "static/127.0.0.1:9"]
    })
    .await;
    assert_eq!(list.origin, ListOrigin::Static);
    assert_eq!(agent.overrides().file_refused, None);
    pump.write(&["a", "b", "c"], &[]).await;
    ready(&mut instances, "what the directory says counts beside", |list| {
        ids(list) == ["member/b", "member/c", "static/127.0.0.1:9"]
    })
    .await;
    write(&file, "{}");
    let list = ready(&mut instances, "the directory's again", |list| {
        list.origin == ListOrigin::Directory
    })
    .await;
    assert_eq!(ids(&list), ["member/a", "member/b", "member/c"]);
}

#[tokio::test]
async fn a_push_beats_the_file_and_ends_by_itself() {
    // With no registry at all: an operator's word is for such days.
    let server = Server::stopped().await;
    let file = server.folder().join("static.json");
    write(&file, &format!(r#"{{"{SERVICE}": ["127.0.0.1:9"]}}"#));
    let agent = agent_with(&server, |options| options.static_instances = Some(file));
    let mut instances = agent.instances(SERVICE);
    let file = |list: &InstanceList| ids(list) == ["static/127.0.0.1:9"];
    ready(&mut instances, "the file's", file).await;
    let pin = |address: &str| ServiceOverride::pin(vec![StaticInstance::at(address)]);
    let day = Duration::from_secs(24 * 3600);
    agent
        .push_override(SERVICE, pin("127.0.0.1:8"), day)
        .expect("taken");
    ready(&mut instances, "the pushed one", |list| {
        ids(list) == ["static/127.0.0.1:8"]
    })
    .await;
    let status = agent.overrides();
    assert_eq!(
        (status.active.len(), status.active[0].source),
        (1, OverrideSource::Push)
    );
    assert!(
        status.active[0]
            .expires_in_ms
            .is_some_and(|left| left > 86_000_000)
    );
    assert!(agent.clear_override(SERVICE));
    assert!(
        !agent.clear_override(SERVICE),
        "it is gone, and the file is not pushed"
    );
    ready(&mut instances, "the file's again", file).await;

    let second = Duration::from_secs(1);
    agent
        .push_override(SERVICE, pin("127.0.0.1:8"), second)
        .expect("taken");
    ready(&mut instances, "the pushed one", |list| {
        ids(list) == ["static/127.0.0.1:8"]
    })
    .await;
    ready(&mut instances, "the file's, by itself", file).await;
    assert_eq!(agent.overrides().active[0].source, OverrideSource::File);

    let wrong = [
        (SERVICE, pin("127.0.0.1:8"), second / 2, "TTL"),
        (SERVICE, pin("127.0.0.1:8"), day + second, "TTL"),
        (SERVICE, pin("nowhere"), second, "host:port"),
        (SERVICE, ServiceOverride::default(), second, "says nothing"),
        ("", pin("127.0.0.1:8"), second, "empty"),
    ];
    for (service, what, ttl, why) in wrong {
        let error = agent
            .push_override(service, what, ttl)
            .expect_err(why)
            .to_string();
        assert!(error.contains(why), "{error}");
    }
}
