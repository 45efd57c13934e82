//! Who calls: bearer tokens become applications, to whom the provider's authorization speaks; and answers of policy are
//! marked.

use rsf_adapter_http::AdapterSettings;
use rsf_core::control::Scope;
use rsf_core::identity::token::unix_seconds;
use rsf_core::identity::{Claims, SigningKey, TokenVerifier, TrustedKeys};

use crate::support::{Answer, PROBE, World, compile};

fn key() -> SigningKey {
    SigningKey::from_random(&[7; 32])
}

fn verifier(application: &str) -> TokenVerifier {
    let keys = TrustedKeys::from_pem(&key().public_pem().unwrap()).unwrap();
    TokenVerifier::new("test", application, keys)
}

fn claims(application: &str) -> Claims {
    Claims {
        application: application.to_owned(),
        namespace: "test".to_owned(),
        not_before: 0,
        expires: unix_seconds() + 600,
        audience: Vec::new(),
    }
}

fn token(application: &str) -> String {
    claims(application).sign(&key()).unwrap()
}

/// An adapter and a provider that trust the same key; the shop alone may call.
async fn world(require_token: bool) -> World {
    let settings = AdapterSettings {
        require_token,
        ..AdapterSettings::default()
    };
    let mut world = World::trusting(settings, Some(verifier("adapter"))).await;
    let schema = compile(include_str!("../proto/probe.proto"));
    let address = world.provide_checked(&schema, Some(verifier("probe"))).await;
    world.list(&[(address, "one")]);
    world.until_callable("/test.v1.Probe/Echo").await;
    let rules = r#"{"provider":{"authorization":{"mode":"enforce","default":"deny","identity":"proven","callers":{"shop":{"methods":["*"]}}}}}"#;
    let scope: Scope = format!("service/{PROBE}").parse().unwrap();
    world.control.set_policy(&scope, 1, rules);
    let closed = async {
        while call(&world, Some(&format!("Bearer {}", token("nobody"))))
            .await
            .status
            != 403
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), closed)
        .await
        .expect("the policy never came into force");
    world
}

async fn call(world: &World, authorization: Option<&str>) -> Answer {
    let mut request = world
        .http
        .post(world.url("/test.v1.Probe/Inspect"))
        .header("content-type", "application/json");
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    Answer::of(request.body("{}")).await
}

#[tokio::test]
async fn a_bearer_token_is_the_application_that_calls() {
    let world = world(false).await;
    for scheme in ["Bearer", "bearer"] {
        let answer = call(&world, Some(&format!("{scheme} {}", token("shop")))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = answer.json();
        assert_eq!(seen["caller"], "shop");
        assert_eq!(
            seen["metadata"]["authorization"],
            serde_json::Value::Null,
            "{seen}"
        );
    }
    // Authorization speaks of the application, as for everybody.
    let refused = call(&world, Some(&format!("Bearer {}", token("order")))).await;
    let message = refused.error(403, "permission_denied");
    assert!(message.contains("application `order` may not call"), "{message}");
    assert_eq!(refused.header("rsf-reason"), "denied");
    // Without one the adapter itself calls, which has no proof here.
    let own = call(&world, None).await;
    own.error(401, "unauthenticated");
}

#[tokio::test]
async fn tokens_that_are_not_good_go_no_further_than_the_adapter() {
    let world = world(false).await;
    let strange = claims("shop").sign(&SigningKey::from_random(&[8; 32])).unwrap();
    let expired = Claims {
        expires: 1000,
        ..claims("shop")
    };
    let elsewhere = Claims {
        namespace: "prod".to_owned(),
        ..claims("shop")
    };
    for (token, why) in [
        ("rubbish".to_owned(), "cannot be read"),
        (strange, "none of the trusted keys"),
        (expired.sign(&key()).unwrap(), "expired"),
        (elsewhere.sign(&key()).unwrap(), "namespace `prod`"),
    ] {
        let answer = call(&world, Some(&format!("Bearer {token}"))).await;
        let message = answer.error(401, "unauthenticated");
        assert!(message.contains(why), "{message}");
        assert_eq!(answer.header("rsf-reason"), "unauthenticated");
        assert_eq!(
            answer.header("www-authenticate"),
            "Bearer error=\"invalid_token\""
        );
    }
}

#[tokio::test]
async fn an_adapter_can_demand_a_token() {
    let world = world(true).await;
    for authorization in [None, Some("Basic c2hvcDpzaG9w")] {
        let answer = call(&world, authorization).await;
        let message = answer.error(401, "unauthenticated");
        assert!(message.contains("Authorization: Bearer"), "{message}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let answer = call(&world, Some(&format!("Bearer {}", token("shop")))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn without_trusted_keys_a_token_is_the_applications_own_business() {
    let world = World::start(AdapterSettings::default()).await;
    let answer = call(&world, Some("Bearer of-its-own")).await;
    let seen = answer.json();
    assert_eq!(seen["caller"], "adapter", "{seen}");
    assert_eq!(seen["metadata"]["authorization"], "Bearer of-its-own");
}

#[tokio::test]
async fn what_policy_answers_is_marked() {
    let world = World::start(AdapterSettings::default()).await;
    assert_eq!(
        world
            .post("/test.v1.Probe/Echo", "{}")
            .await
            .header("rsf-degraded"),
        ""
    );
    let scope: Scope = format!("service/{PROBE}").parse().unwrap();
    for (revision, answer, status) in [(1, r#""reply_base64":"""#, 200), (2, r#""code":"ABORTED""#, 409)] {
        let document = format!(r#"{{"call":{{"degrade":{{"when":"always",{answer}}}}}}}"#);
        world.control.set_policy(&scope, revision, &document);
        let marked = async {
            loop {
                let answer = world.post("/test.v1.Probe/Echo", "{}").await;
                if answer.header("rsf-degraded") == "policy" && answer.status == status {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), marked)
            .await
            .unwrap_or_else(|_| panic!("{answer}: no marked answer of status {status}"));
    }
}
