//! Namespaces that are not there, consoles without their token, policies that are invalid.

use std::fs;

use rsf::{Application, Settings};
use rsf_console::ClientError;
use rsf_console::model::{AcknowledgedState, PatchPolicy, PutPolicy};
use rsf_core::control::Scope;
use rsf_registry::ControlBackend;
use rsf_registry::record::PolicyRecord;
use rsf_suite::{Kind, MEMBERS, SOON, Site, members};
use rsf_testkit::eventually;
use serde_json::Value;
use shop::v1::{GetMemberRequest, MemberServiceClient};

use crate::{COMMAND, all_is_well, open_site, told};

#[tokio::test]
async fn a_wrong_namespace_is_answered_with_those_that_are_served() {
    for kind in [Kind::Embedded, Kind::Cluster] {
        let (site, _provider, consumer) = open_site(kind).await;
        let call = site.rsf("cli").args(["call", "shop.v1.MemberService/Get"]);
        let call = call.args(["--namespace", "prod"]).output(COMMAND).await;
        told(&call, 1, &["`prod`", "`suite`", "RSF_NAMESPACE"]);
        // An application starts, calls fail with the names, and a provider says it in its log.
        let settings = Settings {
            namespace: Some("prod".to_owned()),
            ..site.settings("stray")
        };
        let stray = Application::builder("stray")
            .settings(settings)
            .start()
            .await
            .unwrap();
        let client: MemberServiceClient = stray.client();
        eventually(SOON, async || {
            match client.get(GetMemberRequest { id: 7 }).await {
                Ok(_) => panic!("a call left its namespace"),
                Err(error)
                    if ["`prod`", "`suite`"]
                        .iter()
                        .all(|name| error.message().contains(name)) =>
                {
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
        .await;
        all_is_well(&site, &consumer).await.unwrap();
        drop(stray);
        consumer.shutdown().await;
        site.stop().await;
    }
}

#[tokio::test]
async fn the_console_wants_its_token() {
    let site = Site::start(Kind::Embedded).await;
    let url = format!("{}/api/v1/policies", site.console_url());
    let http = reqwest::Client::new();
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Basic dXNlcjpwYXNz"),
        Some("nonsense"),
    ] {
        let request = header.iter().fold(http.get(&url), |request, value| {
            request.header("authorization", *value)
        });
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{header:?}");
        let body: Value = answer.json().await.unwrap();
        let message = body["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("send `Authorization: Bearer <token>`"),
            "{message}"
        );
    }
    let wrong = site.state("cli").join("token");
    fs::create_dir_all(site.state("cli")).unwrap();
    fs::write(&wrong, "0123456789abcdef0123456789abcdef").unwrap();
    let policy = |token_file: &str| {
        let program = site
            .rsf("cli")
            .args(["policy", "set", "fleet", "call.timeout_ms=500"]);
        program.args(["--console", &site.console_url(), "--token-file", token_file])
    };
    told(
        &policy(wrong.to_str().unwrap()).output(COMMAND).await,
        1,
        &["token is missing or wrong"],
    );
    told(
        &policy("/nowhere").output(COMMAND).await,
        1,
        &["cannot read /nowhere"],
    );
    assert!(
        site.console().policies().await.unwrap().is_empty(),
        "nothing was changed"
    );
    let right = policy(site.token_file().to_str().unwrap()).output(COMMAND).await;
    assert!(right.status.success(), "{right:?}");
    assert_eq!(site.console().policies().await.unwrap().len(), 1);
    site.stop().await;
}

/// Milliseconds that the consumer's calls to the members' service get.
fn timeout_of(consumer: &Application) -> u64 {
    members(consumer).view().policies["Get"].call.timeout_ms
}

fn refused(consumer: &Application) -> f64 {
    let families = consumer.metrics().gather();
    let family = families
        .iter()
        .find(|family| family.name() == "rsf_policies_refused_total");
    family.map_or(0.0, |family| family.get_metric()[0].get_counter().get_value())
}

#[tokio::test]
async fn an_invalid_policy_is_refused_at_the_console_and_again_at_the_consumer() {
    let (site, _provider, consumer) = open_site(Kind::Cluster).await;
    let console = site.console();
    let scope = Scope::Service(MEMBERS.to_owned());
    let patch = |timeout_ms: u32| PatchPolicy {
        assignments: vec![format!("call.timeout_ms={timeout_ms}")],
        expected_revision: None,
        author: None,
        comment: String::new(),
    };
    let good = console
        .patch(&scope, &patch(700))
        .await
        .unwrap()
        .revision
        .revision;
    let in_force = async |milliseconds: u64| {
        eventually(SOON, async || match timeout_of(&consumer) {
            seen if seen == milliseconds => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
    };
    in_force(700).await;

    let document =
        serde_json::json!({"call": {"timeout_ms": 0, "colour": 1, "retry": {"attempts": 9}}, "pool": 1});
    let put = PutPolicy {
        document: document.clone(),
        expected_revision: None,
        author: None,
        comment: String::new(),
    };
    let Err(ClientError::Refused {
        status,
        code,
        details,
        ..
    }) = console.put(&scope, &put).await
    else {
        panic!("an invalid policy was taken");
    };
    assert_eq!((status, code.as_str()), (400, "invalid_policy"));
    let mut paths: Vec<_> = details.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        ["call.colour", "call.retry.attempts", "call.timeout_ms", "pool"]
    );
    let stored = console.policy(&scope).await.unwrap().unwrap();
    assert_eq!(stored.revision, good, "nothing was published");
    assert_eq!(refused(&consumer), 0.0);

    // Past the console, straight into the store: as an older console would, or a hand at ZooKeeper.
    let past = ControlBackend::open(&site.registry().parse().unwrap(), site.namespace()).unwrap();
    let record = PolicyRecord {
        scope: scope.to_string(),
        revision: good + 1,
        document: document.to_string(),
        written_unix_ms: 1,
        author: "a stray hand".to_owned(),
    };
    past.policies.publish(&record).await.unwrap();
    let refusal = eventually(SOON, async || {
        let acknowledged = console
            .acknowledgements(&scope)
            .await
            .map_err(|error| error.to_string())?;
        let own = acknowledged
            .instances
            .iter()
            .find(|one| one.instance == consumer.instance());
        match own {
            Some(own) if !own.refusal.is_empty() => Ok(own.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(refusal.revision, good + 1);
    for text in ["call.timeout_ms", "call.colour", "call.retry.attempts", "pool"] {
        assert!(refusal.refusal.contains(text), "no {text} in {}", refusal.refusal);
    }
    assert_eq!(refused(&consumer), 1.0, "rsf_policies_refused_total");
    assert_eq!(timeout_of(&consumer), 700, "the last good one stays");
    all_is_well(&site, &consumer).await.unwrap();

    // A good one is taken again, and everybody says so; so is its end.
    let put = PutPolicy {
        document: serde_json::json!({"call": {"timeout_ms": 900}}),
        ..put
    };
    eventually(SOON, async || console.put(&scope, &put).await).await;
    in_force(900).await;
    console.delete(&scope, None, "suite", "").await.unwrap();
    in_force(1000).await;
    eventually(SOON, async || {
        let acknowledged = console
            .acknowledgements(&scope)
            .await
            .map_err(|error| error.to_string())?;
        let own = acknowledged
            .instances
            .into_iter()
            .find(|one| one.instance == consumer.instance());
        match own {
            Some(own) if own.state == AcknowledgedState::Current => Ok(()),
            other => Err(format!("{other:?} of {}", acknowledged.revision)),
        }
    })
    .await;
    consumer.shutdown().await;
    site.stop().await;
}
