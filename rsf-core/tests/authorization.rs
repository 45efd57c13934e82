//! Which applications may call what, by policy that changes while calls run, and how a caller proves who it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "support/counter.rs"]
mod counter;
#[path = "support/line.rs"]
mod line;
mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use rsf_core::context::Context;
use rsf_core::error::RpcError;
use rsf_core::identity::token::unix_seconds;
use rsf_core::identity::{
    ApplicationToken, Claims, Identity, Peer as ProvenPeer, SigningKey, TokenVerifier, TrustedKeys,
};
use rsf_core::message::{Request, Response};
use rsf_core::metadata::Metadata;
use rsf_core::outcome::Reason;
use rsf_core::server::{Provider, ProviderBuilder};
use rsf_core::status::Code;
use rsf_core::wire::{Dispatch, InboundRequest};

use counter::{Client, Counter};
use line::{connect, request, soon};
use support::{Echo, Fleet, Kind, Node, Note, Peer, counted, eventually, note};

const SERVICE: &str = "service/test.v1.Echo";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_random(&[seed; 32])
}

fn trusted(seeds: &[u8]) -> TrustedKeys {
    let pem: String = seeds
        .iter()
        .map(|seed| key(*seed).public_pem().unwrap())
        .collect();
    TrustedKeys::from_pem(&pem).unwrap()
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
    claims(application).sign(&key(1)).unwrap()
}

/// The caller and how it is known, as the last handler saw it.
type Noted = Arc<Mutex<Option<(Option<String>, Identity)>>>;

/// A provider whose handlers note who called.
fn noting() -> (Arc<Echo>, Noted) {
    let noted = Arc::new(Mutex::new(None));
    let note = noted.clone();
    let echo = Echo::with(move |_, request: Request<Note>| {
        let context = Context::current().unwrap();
        assert_eq!(
            context.metadata().get("rsf-token"),
            None,
            "a token goes no further than the door"
        );
        *note.lock() = Some((context.caller().map(str::to_owned), context.identity().clone()));
        async { Ok(Response::new(request.into_inner())) }
    });
    (echo, noted)
}

fn provider(echo: Arc<Echo>) -> ProviderBuilder {
    Provider::builder().service("", echo)
}

fn trusting(echo: Arc<Echo>) -> ProviderBuilder {
    provider(echo).tokens(Arc::new(TokenVerifier::new("test", "echo", trusted(&[1, 2]))))
}

fn called(fleet: &Fleet, application: &str, token: &str) -> Peer {
    fleet.consumer_as(|parts| {
        parts.application = application.to_owned();
        if !token.is_empty() {
            parts.token = ApplicationToken::new(token).unwrap();
        }
    })
}

/// Publishes what the providers of the service are to do about authorization, and waits until they do.
async fn govern(fleet: &Fleet, revision: u64, authorization: &str) {
    fleet.service_policy(
        revision,
        &format!(r#"{{"provider":{{"authorization":{authorization}}}}}"#),
    );
    let acknowledged = || fleet.acknowledged(SERVICE) == Some((revision, None));
    eventually("the policy is accepted", acknowledged).await;
}

/// Calls until the outcome is as wanted: a provider learns of a policy a moment after it is accepted.
async fn becomes(peer: &Peer, method: &str, wanted: Option<Reason>) -> Option<RpcError> {
    let call = async || match method {
        "Get" => peer.get(note("")).await,
        _ => peer.put(note("")).await,
    };
    let looking = async {
        loop {
            let error = call().await.err();
            if error.as_ref().map(RpcError::reason) == wanted {
                return error;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let found = tokio::time::timeout(support::SOON, looking).await;
    found.unwrap_or_else(|_| panic!("{method} does not become {wanted:?}"))
}

fn verdicts(node: &Node) -> [u64; 4] {
    ["allowed", "denied", "audited", "unauthenticated"]
        .map(|v| counted(&node.registry, "rsf_authorization_total", v))
}

#[test]
fn who_may_call_what_is_policy() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(async {
            let echo = Echo::plain();
            let node = fleet.provide_built(provider(echo.clone()));
            let [order, shop] = ["order", "shop"].map(|name| called(&fleet, name, ""));
            becomes(&order, "Get", None).await;
            assert_eq!(verdicts(&node), [0; 4], "without a policy nobody is asked");

            // Named callers have what their entry lists; the others what the default says.
            govern(&fleet, 1, r#"{"mode":"enforce","callers":{"order":{"methods":["Get"]}}}"#).await;
            let denied = becomes(&order, "Put", Some(Reason::Denied)).await.unwrap();
            assert_eq!(denied.code(), Code::PermissionDenied);
            assert!(!denied.may_have_run());
            assert_eq!(
                denied.message(),
                "application `order` may not call test.v1.Echo/Put \
                 (policy provider.authorization.callers.order of service/test.v1.Echo@1)"
            );
            assert_eq!(denied.attempts().len(), 1, "nobody else would let it in");
            order.get(note("")).await.unwrap();
            shop.put(note("")).await.unwrap();

            // Deny by default.
            govern(
                &fleet,
                2,
                r#"{"mode":"enforce","default":"deny","callers":{"order":{"methods":["*"]}}}"#,
            )
            .await;
            let denied = becomes(&shop, "Get", Some(Reason::Denied)).await.unwrap();
            assert!(denied.message().contains("authorization.default of service/test.v1.Echo@2"), "{denied}");
            order.put(note("")).await.unwrap();

            // An entry for everybody else.
            govern(
                &fleet,
                3,
                r#"{"mode":"enforce","default":"deny","callers":{"*":{"methods":["Get"]},"order":{"methods":[]}}}"#,
            )
            .await;
            becomes(&shop, "Get", None).await;
            becomes(&shop, "Put", Some(Reason::Denied)).await;
            becomes(&order, "Get", Some(Reason::Denied)).await;

            // What would be refused is let in and counted.
            let before = verdicts(&node);
            let began = echo.counts().began;
            govern(&fleet, 4, r#"{"mode":"audit","default":"deny"}"#).await;
            becomes(&order, "Get", None).await;
            assert_eq!(echo.counts().began, began + 1);
            assert_eq!(verdicts(&node)[2], before[2] + 1);
            govern(&fleet, 5, r#"{"mode":"off","default":"deny"}"#).await;
            let audited = verdicts(&node)[2];
            let off = async {
                loop {
                    order.get(note("")).await.unwrap();
                    let now = verdicts(&node)[2];
                    shop.get(note("")).await.unwrap();
                    if verdicts(&node)[2] == now {
                        return;
                    }
                }
            };
            tokio::time::timeout(support::SOON, off).await.expect("audit ends");
            assert!(verdicts(&node)[2] <= audited + 4);
        });
    }
}

#[test]
fn documents_add_up_and_the_last_one_names_itself() {
    let fleet = Fleet::new(Kind::InProcess);
    fleet.runtime.clone().handle().block_on(async {
        fleet.policy(
            "fleet",
            1,
            r#"{"provider":{"authorization":{"mode":"enforce","default":"deny","callers":{"rsf-cli":{"methods":["*"]},"order":{"methods":["Get"]}}}}}"#,
        );
        fleet.policy("application/echo", 2, r#"{"provider":{"authorization":{"callers":{"shop":{"methods":["Put"]}}}}}"#);
        let _node = fleet.provide_built(provider(Echo::plain()));
        govern(&fleet, 3, r#"{"callers":{"order":{"methods":["Put"]}}}"#).await;
        for (application, method, origin) in [
            ("rsf-cli", "Put", None),
            ("shop", "Put", None),
            ("shop", "Get", Some("callers.shop of application/echo@2")),
            ("order", "Put", None),
            ("order", "Get", Some("callers.order of service/test.v1.Echo@3")),
            ("other", "Get", Some("default of fleet@1")),
        ] {
            let peer = called(&fleet, application, "");
            let error = becomes(&peer, method, origin.map(|_| Reason::Denied)).await;
            let text = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains(origin.unwrap_or_default()), "{application} {method}: {text}");
        }
    });
}

#[test]
fn a_provider_that_must_not_be_open_waits_for_its_policy() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        // A policy about other things opens nothing.
        fleet.service_policy(1, r#"{"call":{"timeout_ms":2000}}"#);
        let builder = provider(Echo::plain())
            .tonic_service(Counter)
            .require_authorization(true);
        let node = fleet.provide_built(builder);
        fleet
            .control
            .set_instances("test.v1.Counter", vec![node.instance.clone()]);
        let order = called(&fleet, "order", "");
        let denied = becomes(&order, "Get", Some(Reason::Denied)).await.unwrap();
        assert!(
            denied.message().contains("RSF_AUTHORIZATION_REQUIRED"),
            "{denied}"
        );
        let mut counter = Client::new(order.consumer.tonic_channel("test.v1.Counter"));
        let next = tonic::Request::new(support::number(1));
        let refused = counter.unary("/test.v1.Counter/Next", next).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        govern(&fleet, 2, r#"{"mode":"audit"}"#).await;
        becomes(&order, "Get", None).await;
        // A policy that opens on purpose is one; no policy any more is none.
        govern(&fleet, 3, r#"{"mode":"off"}"#).await;
        becomes(&order, "Get", None).await;
        fleet.policy(SERVICE, 4, "");
        becomes(&order, "Get", Some(Reason::Denied)).await;
    });
}

#[test]
fn hosted_tonic_services_are_guarded_and_health_stays_open() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let node = fleet.provide_built(trusting(Echo::plain()).tonic_service(Counter));
        for service in ["test.v1.Counter", "grpc.health.v1.Health"] {
            fleet.control.set_instances(service, vec![node.instance.clone()]);
        }
        let scope = "service/test.v1.Counter";
        let document = r#"{"provider":{"authorization":{"mode":"enforce","default":"deny","identity":"proven",
            "callers":{"order":{"methods":["Next"]}}}}}"#;
        fleet.policy(scope, 1, document);
        eventually("the policy is accepted", || fleet.acknowledged(scope).is_some()).await;
        let cases = [
            ("order", token("order"), "/test.v1.Counter/Next", None),
            (
                "order",
                String::new(),
                "/test.v1.Counter/Next",
                Some(tonic::Code::Unauthenticated),
            ),
            (
                "shop",
                token("order"),
                "/test.v1.Counter/Next",
                Some(tonic::Code::Unauthenticated),
            ),
            (
                "shop",
                token("shop"),
                "/test.v1.Counter/Next",
                Some(tonic::Code::PermissionDenied),
            ),
            (
                "order",
                token("order"),
                "/test.v1.Counter/Count",
                Some(tonic::Code::PermissionDenied),
            ),
        ];
        for (application, token, path, refused) in cases {
            let peer = called(&fleet, application, &token);
            let mut counter = Client::new(peer.consumer.tonic_channel("test.v1.Counter"));
            let next = tonic::Request::new(support::number(1));
            let result = counter.unary(path, next).await;
            assert_eq!(
                result.err().map(|status| status.code()),
                refused,
                "{application} {path}"
            );
        }
        let anybody = called(&fleet, "anybody", "");
        let health = anybody.consumer.tonic_channel("grpc.health.v1.Health");
        let mut health = tonic_health::pb::health_client::HealthClient::new(health);
        let check = tonic_health::pb::HealthCheckRequest::default();
        health.check(check).await.expect("health is open to everybody");
    });
}

/// Whoever may not call is told so by the headers alone: no body is waited for, and none is judged first.
#[test]
fn strangers_are_refused_before_their_body() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(async {
            let (echo, _) = noting();
            let node = fleet.provide_built(trusting(echo.clone()));
            let [order, shop] = ["order", "shop"].map(|name| called(&fleet, name, ""));
            let rules = r#"{"mode":"enforce","default":"deny","callers":{"order":{"methods":["*"]}}}"#;
            govern(&fleet, 1, rules).await;
            becomes(&shop, "Get", Some(Reason::Denied)).await;
            let (before, refused) = (verdicts(&node), errors(&node, "denied"));
            let connection = connect(&fleet, &node).await;
            // Too large, which the headers do not tell.
            let large = Note {
                data: vec![0; rsf_core::wire::MAX_MESSAGE_BYTES + 1].into(),
                ..Note::default()
            };
            let mut request = request("Get", &large);
            request.caller = Some("shop".parse().unwrap());
            let status = soon(request.over(&connection)).await;
            let status = status.unwrap().result.unwrap_err();
            assert_eq!(status.metadata().get("rsf-reason"), Some("denied"), "{kind:?}");
            let mut expected = 1;
            if kind == Kind::Http2 {
                // A body that never comes: with a timeout of a minute nothing else would end the wait.
                for (caller, token, reason) in [
                    ("shop", String::new(), "denied"),
                    ("order", "no.token.atall".to_owned(), "unauthenticated"),
                ] {
                    let mut request = http::Request::new(tonic::body::Body::new(
                        http_body_util::StreamBody::new(futures_util::stream::pending::<
                            Result<http_body::Frame<bytes::Bytes>, tonic::Status>,
                        >()),
                    ));
                    *request.method_mut() = http::Method::POST;
                    *request.uri_mut() = "http://echo/test.v1.Echo/Get".parse().unwrap();
                    let headers = request.headers_mut();
                    headers.insert("content-type", "application/grpc".parse().unwrap());
                    headers.insert("grpc-timeout", "60S".parse().unwrap());
                    headers.insert("rsf-caller", caller.parse().unwrap());
                    if !token.is_empty() {
                        headers.insert("rsf-token", token.parse().unwrap());
                    }
                    let response = soon(connection.http(request)).await.unwrap();
                    assert_eq!(response.headers()["rsf-reason"], reason);
                }
                expected += 1;
            }
            let after = verdicts(&node);
            assert_eq!(after[1] - before[1], expected, "each refusal is counted once");
            assert_eq!(after[3] - before[3], expected - 1);
            assert_eq!(
                errors(&node, "denied") - refused,
                expected,
                "and measured like all calls"
            );
            assert_eq!(echo.counts().began, 0);
            // Who may call is asked once, and counted once.
            let before = verdicts(&node)[0];
            order.get(note("")).await.unwrap();
            assert_eq!(verdicts(&node)[0] - before, 1);
        });
    }
}

fn errors(node: &Node, reason: &str) -> u64 {
    counted(&node.registry, "rsf_call_errors_total", reason)
}

#[test]
fn proof_of_identity_is_policy() {
    for kind in [Kind::Http2, Kind::InProcess] {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(async {
            let (echo, noted) = noting();
            let node = fleet.provide_built(trusting(echo));
            let proven = called(&fleet, "order", &token("order"));
            let asserted = called(&fleet, "order", "");
            proven.get(note("")).await.unwrap();
            let who = noted.lock().take().unwrap();
            assert_eq!(who, (Some("order".to_owned()), Identity::Proven("order".into())));
            asserted.get(note("")).await.unwrap();
            let who = noted.lock().take().unwrap();
            assert_eq!(who, (Some("order".to_owned()), Identity::Asserted));

            govern(&fleet, 1, r#"{"mode":"enforce","identity":"proven","default":"deny","callers":{"order":{"methods":["*"]}}}"#).await;
            let refused = becomes(&asserted, "Get", Some(Reason::Unauthenticated)).await.unwrap();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert!(!refused.may_have_run());
            assert!(refused.message().contains("RSF_TOKEN_FILE"), "{refused}");
            proven.get(note("")).await.unwrap();
            let other = called(&fleet, "shop", &token("shop"));
            assert_eq!(other.get(note("")).await.unwrap_err().reason(), Reason::Denied);

            govern(&fleet, 2, r#"{"mode":"audit","identity":"proven"}"#).await;
            becomes(&asserted, "Get", None).await;
            assert!(verdicts(&node)[2] >= 1);
            govern(&fleet, 3, r#"{"mode":"enforce","identity":"asserted"}"#).await;
            becomes(&asserted, "Get", None).await;
        });
    }
}

/// Header, claims and a signature by `seed`, whatever they say.
fn forged(header: &str, claims: &str, seed: u8) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use ed25519_dalek::Signer as _;
    let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    format!(
        "{signed}.{}",
        BASE64.encode(key.sign(signed.as_bytes()).to_bytes())
    )
}

#[test]
fn tokens_that_are_not_good_let_nobody_in() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let echo = Echo::plain();
        let node = fleet.provide_built(trusting(echo.clone()));
        let now = unix_seconds();
        let good = r#"{"sub":"order","namespace":"test","exp":99999999999}"#;
        let eddsa = r#"{"alg":"EdDSA"}"#;
        let tampered = {
            let token = token("order");
            let (head, signature) = token.rsplit_once('.').unwrap();
            let (head, _) = head.split_once('.').unwrap();
            let other = forged("{}", good, 1);
            format!("{head}.{}.{signature}", other.split('.').nth(1).unwrap())
        };
        let bad = [
            (forged(r#"{"alg":"none"}"#, good, 1), "algorithm `none`"),
            (
                format!(
                    "{}.",
                    forged(r#"{"alg":"none"}"#, good, 1).rsplit_once('.').unwrap().0
                ),
                "algorithm `none`",
            ),
            (forged(r#"{"alg":"HS256"}"#, good, 1), "algorithm `HS256`"),
            (forged(eddsa, good, 3), "none of the trusted keys"),
            (
                forged(&format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, key(2).id()), good, 1),
                "none of the trusted keys",
            ),
            (
                forged(r#"{"alg":"EdDSA","kid":"0000"}"#, good, 1),
                "none of the trusted keys",
            ),
            (tampered, "none of the trusted keys"),
            (forged(r#"{"alg":"EdDSA","crit":["b64"]}"#, good, 1), "`crit`"),
            (forged("[]", good, 1), "header"),
            (
                forged(eddsa, r#"{"sub":"order","namespace":"test"}"#, 1),
                "claims",
            ),
            (
                forged(eddsa, r#"{"sub":"order","namespace":"test","exp":"never"}"#, 1),
                "claims",
            ),
            (
                Claims {
                    expires: now - 60,
                    ..claims("order")
                }
                .sign(&key(1))
                .unwrap(),
                "expired",
            ),
            (
                Claims {
                    not_before: now + 120,
                    ..claims("order")
                }
                .sign(&key(1))
                .unwrap(),
                "not valid before",
            ),
            (
                Claims {
                    namespace: "prod".into(),
                    ..claims("order")
                }
                .sign(&key(1))
                .unwrap(),
                "namespace `prod`",
            ),
            (
                Claims {
                    audience: vec!["stock".into()],
                    ..claims("order")
                }
                .sign(&key(1))
                .unwrap(),
                "calls to stock",
            ),
            (
                token("shop"),
                "is application `shop`'s, the caller says that it is `order`",
            ),
            ("a.b".to_owned(), "three parts"),
            ("....".to_owned(), "three parts"),
            ("x".repeat(5000), "longer than 4096"),
            (String::new(), "three parts"),
        ];
        for (place, (token, why)) in bad.iter().enumerate() {
            // A consumer would not send most of these: straight to the provider.
            let status = ask(&node, token, "order", None).await.expect_err(why);
            assert_eq!(status.code(), Code::Unauthenticated, "{place}: {status}");
            assert_eq!(status.metadata().get("rsf-reason"), Some("unauthenticated"));
            assert!(status.message().contains(why), "{place} `{why}`: {status}");
        }
        assert_eq!(echo.counts().began, 0, "none reached the handler");
        assert_eq!(verdicts(&node)[3], bad.len() as u64);
        // And these are good.
        let signed = |claims: Claims| claims.sign(&key(2)).unwrap();
        for token in [
            forged(
                eddsa,
                r#"{"sub":"order","namespace":"test","exp":99999999999,"aud":"echo"}"#,
                1,
            ),
            signed(Claims {
                audience: vec!["stock".into(), "echo".into()],
                ..claims("order")
            }),
            signed(Claims {
                expires: now - 20,
                ..claims("order")
            }),
            signed(Claims {
                not_before: now + 20,
                ..claims("order")
            }),
        ] {
            ask(&node, &token, "order", None).await.unwrap();
        }
    });
}

/// A call that comes straight to the provider, as a wire would hand it over.
async fn ask(
    node: &Node,
    token: &str,
    caller: &str,
    peer: Option<ProvenPeer>,
) -> Result<(), rsf_core::status::Status> {
    let mut headers = http::HeaderMap::new();
    headers.insert("rsf-caller", caller.parse().unwrap());
    headers.insert("rsf-token", token.parse().unwrap());
    if token.is_empty() && peer.is_some() {
        headers.remove("rsf-token");
    }
    let method = node.provider.method("/test.v1.Echo/Get", "").unwrap();
    let request = InboundRequest {
        message: Ok(bytes::Bytes::new()),
        timeout: None,
        metadata: tonic_metadata(headers),
        peer,
    };
    node.provider.unary(method, request).await.map(drop)
}

/// Metadata as it comes from a wire, RSF's own keys included.
fn tonic_metadata(headers: http::HeaderMap) -> Metadata {
    let status = tonic::Status::with_metadata(
        tonic::Code::Ok,
        "",
        tonic::metadata::MetadataMap::from_headers(headers),
    );
    rsf_core::status::Status::from(status).metadata().clone()
}

#[test]
fn a_peer_that_the_wire_has_proven_needs_no_token() {
    let fleet = Fleet::new(Kind::InProcess);
    fleet.runtime.clone().handle().block_on(async {
        let (echo, noted) = noting();
        let node = fleet.provide_built(provider(echo));
        govern(&fleet, 1, r#"{"mode":"enforce","identity":"proven"}"#).await;
        becomes(&called(&fleet, "order", ""), "Get", Some(Reason::Unauthenticated)).await;
        let peer = || Some(ProvenPeer("order".into()));
        ask(&node, "", "order", peer()).await.unwrap();
        let who = noted.lock().take().unwrap();
        assert_eq!(who, (Some("order".to_owned()), Identity::Proven("order".into())));
        let status = ask(&node, "", "shop", peer()).await.unwrap_err();
        assert!(
            status
                .message()
                .contains("the connection is application `order`'s"),
            "{status}"
        );
    });
}

#[test]
fn keys_and_tokens_are_replaced_while_calls_run() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let verifier = Arc::new(TokenVerifier::new("test", "echo", trusted(&[1])));
        let _node = fleet.provide_built(provider(Echo::plain()).tokens(verifier.clone()));
        let sent = ApplicationToken::new(&token("order")).unwrap();
        let peer = fleet.consumer_as(|parts| {
            parts.application = "order".to_owned();
            parts.token = sent.clone();
        });
        peer.get(note("")).await.unwrap();
        peer.get(note("")).await.unwrap();
        // A token that was good is not any more, once its key is not.
        verifier.replace_keys(trusted(&[2]));
        let error = peer.get(note("")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Unauthenticated, "{error}");
        sent.replace(&claims("order").sign(&key(2)).unwrap()).unwrap();
        peer.get(note("")).await.unwrap();
        assert!(sent.replace("rubbish").is_err());
        peer.get(note("")).await.unwrap();
    });
}

#[test]
fn a_remembered_token_still_expires() {
    let verifier = TokenVerifier::new("test", "echo", trusted(&[1]));
    let token = Claims {
        expires: 1000,
        not_before: 500,
        ..claims("order")
    }
    .sign(&key(1))
    .unwrap();
    for (now, good) in [
        (600, true),
        (1030, true),
        (1031, false),
        (470, true),
        (469, false),
        (999, true),
    ] {
        assert_eq!(
            verifier.verify_at(&token, Some("order"), now).is_ok(),
            good,
            "{now}"
        );
    }
    assert!(verifier.verify_at(&token, Some("shop"), 600).is_err());
    assert_eq!(&*verifier.verify_at(&token, None, 600).unwrap(), "order");
}

#[test]
fn keys_come_in_pem_and_bad_ones_say_why() {
    let pem = key(1).to_pem().unwrap();
    assert_eq!(SigningKey::from_pem(&pem).unwrap().id(), key(1).id());
    let public = key(1).public_pem().unwrap();
    assert_eq!(
        trusted(&[1, 2]).ids().collect::<Vec<_>>(),
        [key(1).id(), key(2).id()]
    );
    let cut = public.replace("-----END", "-----DNE");
    let weak = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    for (text, why) in [
        ("", "no key"),
        (pem.as_str(), "no key"),
        (cut.as_str(), "no end"),
        (weak, "weak"),
        (
            &format!("{public}-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
            "key 2",
        ),
        (&public.repeat(65), "at most 64"),
    ] {
        let error = TrustedKeys::from_pem(text).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(SigningKey::from_pem(&public).is_err());
}

#[test]
fn the_guides_example_is_a_policy() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authorization.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let scope = "service/shop.v1.StockService".parse().unwrap();
    let document = rsf_core::policy::PolicyDocument::parse(&scope, example).unwrap();
    assert_eq!(document.provider.authorization.callers.len(), 3);
    let wrong = r#"{"provider":{"authorization":{"mode":"on","callers":{"order":{"method":["Get"]},"shop":["Get"]}}}}"#;
    let errors = rsf_core::policy::PolicyDocument::parse(&scope, wrong).unwrap_err();
    let mut paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    paths.sort_unstable();
    let at = "provider.authorization";
    let expected = [".callers.order.method", ".callers.shop", ".mode"].map(|path| format!("{at}{path}"));
    assert_eq!(paths, expected);
}
