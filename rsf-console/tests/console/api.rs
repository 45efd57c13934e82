//! The API through its own client: what it takes, what it refuses, and how it says so.

use rsf_console::model::{AcknowledgedState, Change, PatchPolicy, Preview, PutPolicy, Rollback, Status};
use rsf_console::{ClientError, ConsoleClient};
use rsf_core::control::Scope;
use rsf_registry::record::RemovalCause;
use serde_json::{Value, json};

use crate::twin::{Fault, MEMBER, Served, lease, listed, removal, until};

fn scope() -> Scope {
    Scope::Service(MEMBER.to_owned())
}

fn whole(document: Value) -> PutPolicy {
    PutPolicy {
        document,
        author: Some("ann".to_owned()),
        comment: "because".to_owned(),
        ..PutPolicy::default()
    }
}

fn timeout(ms: u64) -> PutPolicy {
    whole(json!({"call": {"timeout_ms": ms}}))
}

/// The status, code and details of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String, Vec<(String, String)>) {
    match result.unwrap_err() {
        ClientError::Refused {
            status,
            code,
            details,
            ..
        } => {
            let details = details.into_iter().map(|detail| (detail.path, detail.problem));
            (status, code, details.collect())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_policy_is_written_read_and_published() {
    let served = Served::start().await;
    let client = &served.client;
    assert_eq!(client.policy(&scope()).await.unwrap(), None);
    let accepted = client.put(&scope(), &timeout(200)).await.unwrap();
    assert_eq!(
        (accepted.revision.revision, accepted.revision.status),
        (1, Status::Published)
    );
    assert_eq!(accepted.message, "");
    let read = client.policy(&scope()).await.unwrap().unwrap();
    assert_eq!(read.document, json!({"call": {"timeout_ms": 200}}));
    assert_eq!((read.author.as_str(), read.comment.as_str()), ("ann", "because"));
    let stored = served.twin.stored("service/shop.v1.MemberService").unwrap();
    assert_eq!(stored.document, r#"{"call":{"timeout_ms":200}}"#);
    assert_eq!(stored.author, "ann");
    client.put(&Scope::Fleet, &timeout(300)).await.unwrap();
    client
        .put(&Scope::Application("member".to_owned()), &timeout(400))
        .await
        .unwrap();
    let scopes: Vec<_> = client
        .policies()
        .await
        .unwrap()
        .into_iter()
        .map(|policy| policy.scope)
        .collect();
    assert_eq!(
        scopes,
        ["application/member", "fleet", "service/shop.v1.MemberService"]
    );
    let audit = client.audit(None, 500).await.unwrap();
    let steps: Vec<_> = audit
        .iter()
        .rev()
        .map(|entry| (entry.revision, entry.status))
        .collect();
    let expected = (1..=3).flat_map(|revision| [(revision, Status::Intent), (revision, Status::Published)]);
    assert_eq!(steps, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_invalid_policy_gets_all_its_errors() {
    let served = Served::start().await;
    let bad = json!({"call": {"timeout_ms": 0, "retry": {"attempts": 9}}, "colour": 1});
    for document in [bad.clone(), Value::String(bad.to_string())] {
        let (status, code, details) = refusal(served.client.put(&scope(), &whole(document)).await);
        assert_eq!((status, code.as_str()), (400, "invalid_policy"));
        let mut paths: Vec<_> = details.iter().map(|(path, _)| path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["call.retry.attempts", "call.timeout_ms", "colour"]);
    }
    let text = whole(Value::String("{\n  \"call\": {,}\n}".to_owned()));
    let (status, _, details) = refusal(served.client.put(&scope(), &text).await);
    assert_eq!(status, 400);
    assert!(details[0].1.contains("line 2 column"), "{details:?}");
    assert!(
        served.client.audit(None, 500).await.unwrap().is_empty(),
        "nothing invalid is recorded"
    );
}

#[tokio::test]
async fn an_outdated_edit_is_a_conflict_with_both_revisions() {
    let served = Served::start().await;
    served.client.put(&scope(), &timeout(1)).await.unwrap();
    served.client.put(&scope(), &timeout(2)).await.unwrap();
    let asked = PutPolicy {
        expected_revision: Some(1),
        ..timeout(3)
    };
    let (status, code, details) = refusal(served.client.put(&scope(), &asked).await);
    assert_eq!((status, code.as_str()), (409, "conflict"));
    let pair = |path: &str, revision: &str| (path.to_owned(), revision.to_owned());
    assert_eq!(
        details,
        [pair("expected_revision", "1"), pair("latest_revision", "2")]
    );
}

#[tokio::test]
async fn an_edit_changes_what_it_names_and_nothing_else() {
    let served = Served::start().await;
    served.client.put(&scope(), &timeout(1)).await.unwrap();
    let edits = ["call.timeout_ms=200", "instances[member/1].weight=0"]
        .map(str::to_owned)
        .to_vec();
    let preview = Preview {
        assignments: Some(edits.clone()),
        ..Preview::default()
    };
    let previewed = served.client.preview(&scope(), &preview).await.unwrap();
    let asked = PatchPolicy {
        assignments: edits,
        expected_revision: Some(previewed.revision),
        ..PatchPolicy::default()
    };
    let accepted = served.client.patch(&scope(), &asked).await.unwrap();
    let expected = json!({"call": {"timeout_ms": 200}, "instances": [{"instance": "member/1", "weight": 0}]});
    assert_eq!(accepted.revision.document, expected);
    assert_eq!(previewed.document, expected);
    assert!(
        previewed
            .lines
            .iter()
            .any(|line| line.change == Change::Removed && line.text.contains(": 1"))
    );
    let bad = PatchPolicy {
        assignments: vec!["call.timeout=1".to_owned(), "x".to_owned()],
        ..PatchPolicy::default()
    };
    let (status, code, details) = refusal(served.client.patch(&scope(), &bad).await);
    assert_eq!((status, code.as_str(), details.len()), (400, "invalid_edit", 2));
    let out_of_range = PatchPolicy {
        assignments: vec!["call.timeout_ms=0".to_owned()],
        ..PatchPolicy::default()
    };
    assert_eq!(
        refusal(served.client.patch(&scope(), &out_of_range).await).1,
        "invalid_policy"
    );
}

#[tokio::test]
async fn edits_at_once_are_all_kept_or_refused() {
    let served = Served::start().await;
    let edits = (1..=20).map(|number| {
        let client = served.client.clone();
        async move {
            let asked = PatchPolicy {
                assignments: vec![
                    format!("consumers[c{number}].timeout_ms={number}")
                        .replace("[c", "[\"c")
                        .replace("].t", "\"].t"),
                ],
                ..PatchPolicy::default()
            };
            (number, client.patch(&scope(), &asked).await)
        }
    });
    let results = futures_util::future::join_all(edits).await;
    let document = served.client.policy(&scope()).await.unwrap().unwrap().document;
    let kept = document["consumers"].as_object().unwrap();
    for (number, result) in &results {
        match result {
            Ok(_) => assert_eq!(kept[&format!("c{number}")]["timeout_ms"], *number),
            Err(ClientError::Refused { status: 409, .. }) => {
                assert!(!kept.contains_key(&format!("c{number}")))
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(
        kept.len(),
        results.iter().filter(|(_, result)| result.is_ok()).count()
    );
}

#[tokio::test]
async fn history_diff_rollback_and_deletion() {
    let served = Served::start().await;
    let client = &served.client;
    client.put(&scope(), &timeout(1)).await.unwrap();
    client.put(&scope(), &timeout(2)).await.unwrap();
    let diff = client.diff(&scope(), 1, 2).await.unwrap();
    let changed = diff
        .lines
        .iter()
        .filter(|line| line.change != Change::Same)
        .count();
    assert_eq!(changed, 2);
    assert!(
        client
            .diff(&scope(), 0, 1)
            .await
            .unwrap()
            .lines
            .iter()
            .all(|line| line.change == Change::Added)
    );
    assert_eq!(refusal(client.diff(&scope(), 1, 9).await).0, 404);
    let back = Rollback {
        revision: 1,
        ..Rollback::default()
    };
    let accepted = client.rollback(&scope(), &back).await.unwrap();
    assert_eq!(accepted.revision.revision, 3);
    assert_eq!(accepted.revision.document, json!({"call": {"timeout_ms": 1}}));
    assert_eq!(accepted.revision.comment, "back to revision 1");
    // A revision of another scope is none of this one's.
    client.put(&Scope::Fleet, &timeout(4)).await.unwrap();
    let foreign = Rollback {
        revision: 4,
        ..Rollback::default()
    };
    assert_eq!(refusal(client.rollback(&scope(), &foreign).await).0, 404);
    let deleted = client
        .delete(&scope(), Some(3), "bob", "done & gone")
        .await
        .unwrap();
    assert_eq!(
        (deleted.revision.document, deleted.revision.comment),
        (Value::Null, "done & gone".to_owned())
    );
    assert_eq!(client.policy(&scope()).await.unwrap(), None);
    assert_eq!(refusal(client.delete(&scope(), None, "bob", "").await).0, 404);
    let revisions: Vec<_> = client
        .history(&scope(), None, 500)
        .await
        .unwrap()
        .iter()
        .map(|r| r.revision)
        .collect();
    assert_eq!(revisions, [5, 3, 2, 1]);
    let page = client.history(&scope(), Some(3), 1).await.unwrap();
    assert_eq!(page.iter().map(|r| r.revision).collect::<Vec<_>>(), [2]);
    client.rollback(&scope(), &back).await.unwrap();
    assert!(client.policy(&scope()).await.unwrap().is_some());
}

#[tokio::test]
async fn while_the_store_is_down_edits_wait_and_say_so() {
    let served = Served::start().await;
    served.twin.set_fault(Fault::Before);
    let response = reqwest::Client::new()
        .put(served.url("/api/v1/policies/fleet"))
        .bearer_auth(crate::twin::TOKEN)
        .body(r#"{"document": {"call": {"timeout_ms": 5}}}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], "intent");
    assert!(
        body["message"].as_str().unwrap().contains("switched off"),
        "{body}"
    );
    let status = served.client.status().await.unwrap();
    assert_eq!(status.pending, 1);
    assert!(status.policy_store.contains("switched off"), "{status:?}");
    assert_eq!(
        refusal(served.client.acknowledgements(&Scope::Fleet).await).0,
        503
    );
    served.twin.set_fault(Fault::None);
    until("the edit is published", async || {
        served.client.policy(&Scope::Fleet).await.unwrap().unwrap().status == Status::Published
    })
    .await;
    assert_eq!(served.twin.stored("fleet").unwrap().revision, 1);
}

#[tokio::test]
async fn a_killed_console_finishes_after_its_restart() {
    let served = Served::start().await;
    served.twin.set_fault(Fault::Before);
    served.client.put(&scope(), &timeout(7)).await.unwrap();
    let (twin, folder) = served.kill().await;
    twin.set_fault(Fault::None);
    assert!(twin.stored(&scope().to_string()).is_none());
    let served = Served::over(twin, folder).await;
    until("the edit is published", async || {
        served.twin.stored(&scope().to_string()).is_some()
    })
    .await;
    let (twin, _folder) = served.stop().await;
    assert_eq!(
        twin.stored(&scope().to_string()).unwrap().document,
        r#"{"call":{"timeout_ms":7}}"#
    );
}

#[tokio::test]
async fn a_store_that_refuses_is_named() {
    let served = Served::start().await;
    served.twin.set_fault(Fault::Refuse);
    let (status, code, _) = refusal(served.client.put(&scope(), &timeout(7)).await);
    assert_eq!((status, code.as_str()), (502, "store_refused"));
    let audit = served.client.audit(None, 1).await.unwrap();
    assert_eq!(audit[0].status, Status::Refused);
}

#[tokio::test]
async fn services_instances_and_who_runs_what() {
    let served = Served::start().await;
    let (twin, client) = (&served.twin, &served.client);
    twin.list(
        MEMBER,
        vec![listed("member/1", "a", ""), listed("member/2", "b", "")],
        vec![
            removal("member/3", RemovalCause::Expired),
            removal("member/4", RemovalCause::Deregistered),
        ],
    );
    *twin.leases.lock() = vec![
        lease("order/1", "a", "", &[]),
        lease("member/1", "a", "", &[MEMBER]),
        lease("member/2", "b", "", &[MEMBER]),
    ];
    let edits = [
        "instances[member/1].weight=0",
        "instances[member/2].disabled=true",
    ];
    let asked = PatchPolicy {
        assignments: edits.map(str::to_owned).to_vec(),
        ..PatchPolicy::default()
    };
    client.patch(&scope(), &asked).await.unwrap();
    until("the fleet is read", async || {
        client.services().await.is_ok_and(|services| !services.is_empty())
            && client.instances().await.unwrap().len() == 3
    })
    .await;
    let services = client.services().await.unwrap();
    assert_eq!(
        (services[0].up, services[0].zones.as_slice()),
        (2, ["a".to_owned(), "b".to_owned()].as_slice())
    );
    let service = client.service(MEMBER).await.unwrap();
    assert_eq!(service.version, (3, 7));
    let weights: Vec<_> = service
        .instances
        .iter()
        .map(|i| (i.instance.weight, i.effective_weight, i.disabled))
        .collect();
    assert_eq!(weights, [(100, 0, false), (100, 100, true)]);
    let causes: Vec<_> = service
        .removed
        .iter()
        .map(|removed| removed.cause.as_str())
        .collect();
    assert_eq!(causes, ["deregistered", "expired"]);
    assert_eq!(refusal(client.service("no.such/Service").await).0, 404);

    twin.acknowledges("member/1", &scope().to_string(), 1, "");
    twin.acknowledges("order/1", &scope().to_string(), 1, "too wild");
    let acknowledged = client.acknowledgements(&scope()).await.unwrap();
    let states: Vec<_> = acknowledged
        .instances
        .iter()
        .map(|i| (i.instance.as_str(), i.state))
        .collect();
    let expected = [
        ("member/1", AcknowledgedState::Current),
        ("member/2", AcknowledgedState::Waiting),
        ("order/1", AcknowledgedState::Refused),
    ];
    assert_eq!(
        (acknowledged.revision, states.as_slice()),
        (1, expected.as_slice())
    );
    client.put(&scope(), &timeout(1)).await.unwrap();
    let acknowledged = client.acknowledgements(&scope()).await.unwrap();
    assert_eq!(acknowledged.instances[0].state, AcknowledgedState::Older);
    assert_eq!(
        client
            .acknowledgements(&Scope::Fleet)
            .await
            .unwrap()
            .instances
            .len(),
        3
    );
    let of_application = client
        .acknowledgements(&Scope::Application("member".to_owned()))
        .await
        .unwrap();
    assert_eq!(of_application.instances.len(), 2);
}

#[tokio::test]
async fn an_unknown_directory_is_no_empty_one() {
    let twin = std::sync::Arc::new(crate::twin::Twin::default());
    twin.set_fault(Fault::Before);
    let served = Served::over(twin, std::sync::Arc::new(tempfile::tempdir().unwrap())).await;
    assert_eq!(refusal(served.client.services().await).0, 503);
    assert_eq!(refusal(served.client.pump().await).0, 404);
    served.twin.set_fault(Fault::None);
    until("the directory is read", async || {
        served.client.services().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_field_table_is_served() {
    let served = Served::start().await;
    let fields = served.client.fields().await.unwrap();
    let call = fields
        .as_array()
        .unwrap()
        .iter()
        .find(|field| field["name"] == "call")
        .unwrap();
    let timeout = call["fields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|field| field["name"] == "timeout_ms")
        .unwrap();
    assert_eq!(
        (&timeout["kind"], &timeout["least"]),
        (&json!("integer"), &json!(1))
    );
}

#[tokio::test]
async fn the_client_says_what_is_wrong() {
    for address in ["", "console", "https://x", "ftp://x", "http://x/path"] {
        assert!(
            matches!(ConsoleClient::new(address, "t"), Err(ClientError::Address(_))),
            "{address}"
        );
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let nobody = ConsoleClient::new(&format!("http://{free}"), "t").unwrap();
    let error = nobody.status().await.unwrap_err().to_string();
    assert!(
        error.contains("no console answers") && error.contains("rsf dev"),
        "{error}"
    );
}
