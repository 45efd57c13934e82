//! T32: bad policies (a wrong type, an unknown field, an endless expression, one that is too deep, weights that leave no
//! instance) at the console, and past it at every instance.

use rsf::Application;
use rsf_console::ClientError;
use rsf_console::model::PutPolicy;
use rsf_core::control::Scope;
use rsf_registry::ControlBackend;
use rsf_registry::record::PolicyRecord;
use rsf_suite::{Case, Kind, Lists, MEMBERS, SOON, Site, members};
use rsf_testkit::eventually;
use serde_json::{Value, json};
use shop::v1::{GetMemberRequest, MemberServiceClient};

/// A good policy that each bad one comes after.
fn good() -> Value {
    json!({"call": {"timeout_ms": 700}})
}

/// What each is called, and what must be said of it.
fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let expression = |text: String| json!({"call": {"timeout_ms": 1, "routing": {"rules": [{"expression": {"text": text}}]}}});
    vec![
        (
            "wrong type",
            json!({"call": {"timeout_ms": "soon"}}),
            "call.timeout_ms",
        ),
        (
            "unknown field",
            json!({"call": {"timeout_ms": 1, "colour": 1}}),
            "call.colour",
        ),
        (
            "endless expression",
            expression("while(true)".to_owned()),
            "unknown function `while`",
        ),
        (
            "comprehension",
            expression("[1, 2].map(x, x)".to_owned()),
            "unknown function `map`",
        ),
        (
            "deep expression",
            expression(format!("{}\"a\"{}", "(".repeat(2000), ")".repeat(2000))),
            "16 levels deep",
        ),
        (
            "wide expression",
            expression(format!("\"a\"{}", " + \"a\"".repeat(500))),
            "200 nodes",
        ),
        (
            "all weights 0",
            json!({"call": {"timeout_ms": 1}, "instances": [{"weight": 0}]}),
            "every instance",
        ),
        (
            "all drained",
            json!({"call": {"timeout_ms": 1}, "instances": [{"weight": 10}, {"drained": true}]}),
            "every instance",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t32_cluster() {
    bad_policies(Case::begin("T32"), bad()).await.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t32_control_with_a_policy_that_is_good() {
    // What the guard lets through is taken and comes into force: the case would see it.
    let taken = vec![("no mistake", json!({"call": {"timeout_ms": 1}}), "nothing")];
    bad_policies(Case::begin("T32-control"), taken).await.end_red();
}

async fn bad_policies(mut case: Case, policies: Vec<(&str, Value, &str)>) -> Case {
    let site = Site::start(Kind::Cluster).await;
    let _provider = site.provider("1", &[]).await;
    let consumer = site.consumer("customers").await;
    Lists::become_these(&consumer, &["shop/1"], SOON).await;
    let (console, scope) = (site.console(), Scope::Service(MEMBERS.to_owned()));
    let put = |document: Value| PutPolicy {
        document,
        expected_revision: None,
        author: None,
        comment: String::new(),
    };
    let mut revision = console
        .put(&scope, &put(good()))
        .await
        .expect("a good policy is taken")
        .revision
        .revision;
    in_force(&consumer, 700).await;
    let past = ControlBackend::open(&site.registry().parse().expect("a registry"), site.namespace())
        .expect("the store");
    case.figure("policies", policies.len());
    for (name, document, problem) in policies {
        match console.put(&scope, &put(document.clone())).await {
            Err(ClientError::Refused {
                status: 400, details, ..
            }) => {
                let said = details
                    .iter()
                    .any(|detail| format!("{}: {}", detail.path, detail.problem).contains(problem));
                case.hold(format!("{name}: the console says why: {details:?}"), said);
            }
            other => case.hold(format!("{name}: the console refuses: {other:?}"), false),
        }
        // Past the console, as a hand at the store would.
        revision += 10;
        let record = PolicyRecord {
            scope: scope.to_string(),
            revision,
            document: document.to_string(),
            written_unix_ms: 1,
            author: "a stray hand".to_owned(),
        };
        past.policies
            .publish(&record)
            .await
            .expect("the store takes anything");
        let refusal = acknowledged(&site, &scope, &consumer, revision).await;
        case.hold(
            format!("{name}: the instance says why: {refusal}"),
            refusal.contains(problem),
        );
        let timeout = members(&consumer).view().policies["Get"].call.timeout_ms;
        case.hold(
            format!("{name}: the last good one stays, not {timeout} ms"),
            timeout == 700,
        );
        let client: MemberServiceClient = consumer.client();
        let call = client.get(GetMemberRequest { id: 1 }).await;
        case.hold(
            format!("{name}: calls go on: {:?}", call.as_ref().err()),
            call.is_ok(),
        );
    }
    consumer.shutdown().await;
    site.stop().await;
    case
}

async fn in_force(consumer: &Application, milliseconds: u64) {
    eventually(SOON, async || {
        match members(consumer).view().policies["Get"].call.timeout_ms {
            seen if seen == milliseconds => Ok(()),
            seen => Err(seen.to_string()),
        }
    })
    .await;
}

/// What the consumer says of a revision; empty where it took it.
async fn acknowledged(site: &Site, scope: &Scope, consumer: &Application, revision: u64) -> String {
    let console = site.console();
    eventually(SOON, async || {
        let acknowledged = console
            .acknowledgements(scope)
            .await
            .map_err(|error| error.to_string())?;
        let own = acknowledged
            .instances
            .iter()
            .find(|one| one.instance == consumer.instance());
        match own {
            Some(own) if own.revision == revision => Ok(own.refusal.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
