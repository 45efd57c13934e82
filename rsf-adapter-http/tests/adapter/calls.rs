//! Calls that succeed, and errors that a provider means: what goes in, what comes out.

use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rsf_adapter_http::AdapterSettings;
use serde_json::{Value, json};
use std::io::Write as _;

use crate::support::{Answer, World};

#[tokio::test]
async fn json_follows_protobufs_mapping() {
    let world = World::start(AdapterSettings::default()).await;
    let cases = [
        // Numbers of 64 bits go out as strings and come in as both.
        (
            r#"{"big":"-9223372036854775808","huge":18446744073709551615}"#,
            json!({"big": "-9223372036854775808", "huge": "18446744073709551615"}),
        ),
        (
            r#"{"raw":"AAH_","color":"COLOR_RED"}"#,
            json!({"raw": "AAH/", "color": "COLOR_RED"}),
        ),
        (
            r#"{"color":1,"small":1e2}"#,
            json!({"color": "COLOR_RED", "small": 100}),
        ),
        (
            r#"{"at":"2026-01-02T03:04:05+01:00","takes":"1.500s"}"#,
            json!({"at": "2026-01-02T02:04:05Z", "takes": "1.500s"}),
        ),
        // Both spellings of a name come in; defaults and null go out as nothing.
        (
            r#"{"any_value":null,"text":"","child":null,"children_by_name":{"a":{}}}"#,
            json!({"anyValue": null, "childrenByName": {"a": {}}}),
        ),
        // PHP's empty array, where an object belongs, and a real one where a list does.
        (
            r#"{"labels":[],"child":[],"childrenByName":{"a":[ ]},"list":[[],{"extra":[]}],"words":[]}"#,
            json!({"child": {}, "childrenByName": {"a": {}}, "list": [{}, {"extra": {}}]}),
        ),
        (
            r#"{"anyValue":[],"extra":{"x":[]}}"#,
            json!({"anyValue": [], "extra": {"x": []}}),
        ),
        ("[]", json!({})),
        (r#"{"text":"[]\"[]{"}"#, json!({"text": "[]\"[]{"})),
    ];
    for (sent, expected) in cases {
        let answer = world.post("/test.v1.Probe/Echo", sent).await;
        assert_eq!(answer.status, 200, "{sent}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json(), expected, "{sent}");
    }
}

#[tokio::test]
async fn options_change_unknown_fields_and_defaults() {
    let settings = AdapterSettings {
        ignore_unknown_fields: true,
        write_defaults: true,
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    let answer = world
        .post("/test.v1.Probe/Echo", r#"{"nobody":{"knows":[1]},"small":7}"#)
        .await
        .json();
    assert_eq!(
        (&answer["small"], &answer["text"], &answer["big"]),
        (&json!(7), &json!(""), &json!("0"))
    );
}

#[tokio::test]
async fn binary_messages_pass_and_broken_ones_do_not() {
    let world = World::start(AdapterSettings::default()).await;
    // Field 1, "hi"; and field 99, which the schema does not know and the provider may.
    let sent = b"\x0a\x02hi\x9a\x06\x01x".to_vec();
    let post = |body: Vec<u8>| {
        let request = world
            .http
            .post(world.url("/test.v1.Probe/Echo"))
            .header("content-type", "application/proto");
        Answer::of(request.body(body))
    };
    let answer = post(sent.clone()).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/proto")
    );
    assert_eq!(answer.body, sent);
    assert_eq!(
        post(Vec::new()).await.status,
        200,
        "an empty body is an empty message"
    );
    let message = post(b"\x0a\xff".to_vec()).await.error(400, "invalid_argument");
    assert!(message.contains("test.v1.Everything"), "{message}");
}

#[tokio::test]
async fn headers_become_metadata_and_metadata_headers() {
    let world = World::start(AdapterSettings::default()).await;
    let request = world
        .http
        .post(world.url("/test.v1.Probe/Inspect"))
        .header("content-type", "application/json; charset=utf-8")
        .header("connect-protocol-version", "1")
        .header("connect-timeout-ms", "5000")
        .header("idempotency-key", "\"order-17\"")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("tenant", "north")
        .header("token-bin", "AAH/+w==")
        .header("cookie", "secret=1")
        .header("rsf-caller", "root")
        .header("rsf-request-id", "forged")
        .body("{}");
    let answer = Answer::of(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        (answer.header("shelf"), answer.header("digest-bin")),
        ("upper", "AAEC/w")
    );
    let seen = answer.json();
    assert_eq!(seen["requestId"], "order-17");
    assert_eq!(seen["caller"], "adapter");
    let trace = seen["trace"].as_str().unwrap();
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace.ends_with("-01"),
        "{trace}"
    );
    let remaining: i64 = seen["remainingMs"].as_str().unwrap().parse().unwrap();
    assert!((1..=5_000).contains(&remaining), "{remaining}");
    let metadata = seen["metadata"].as_object().unwrap();
    assert_eq!(
        (&metadata["tenant"], &metadata["token-bin"]),
        (&json!("north"), &json!("AAH/+w"))
    );
    assert!(
        !metadata.contains_key("cookie") && !metadata.contains_key("accept"),
        "{metadata:?}"
    );
}

#[tokio::test]
async fn a_providers_error_keeps_code_message_and_details() {
    let world = World::start(AdapterSettings::default()).await;
    for (code, name, status) in [
        (5, "not_found", 404),
        (9, "failed_precondition", 400),
        (16, "unauthenticated", 401),
    ] {
        let sent = format!(r#"{{"code":{code},"message":"no Ü","reasons":[{{"why":"sold"}}]}}"#);
        let answer = world.post("/test.v1.Probe/Fail", &sent).await;
        assert_eq!(answer.error(status, name), "no Ü");
        assert_eq!(answer.header("rsf-reason"), "handler");
        let value = base64::engine::general_purpose::STANDARD_NO_PAD.encode(b"\x0a\x04sold");
        let detail = json!([{"type": "test.v1.Reason", "value": value, "debug": {"why": "sold"}}]);
        assert_eq!(answer.json()["details"], detail);
    }
}

#[tokio::test]
async fn gzip_goes_both_ways() {
    let world = World::start(AdapterSettings::default()).await;
    let text = "x".repeat(100_000);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(json!({ "text": text }).to_string().as_bytes())
        .unwrap();
    let request = world
        .http
        .post(world.url("/test.v1.Probe/Echo"))
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .header("accept-encoding", "br, gzip")
        .body(gzip.finish().unwrap());
    let answer = Answer::of(request).await;
    assert_eq!(
        (
            answer.status,
            answer.header("content-encoding"),
            answer.header("vary")
        ),
        (200, "gzip", "accept-encoding")
    );
    let mut plain = String::new();
    std::io::Read::read_to_string(
        &mut flate2::read::GzDecoder::new(answer.body.as_ref()),
        &mut plain,
    )
    .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&plain).unwrap()["text"], text);
}

#[tokio::test]
async fn methods_without_side_effects_answer_get() {
    let world = World::start(AdapterSettings::default()).await;
    for query in [
        "message=%7B%22small%22%3A7%7D&connect=v1&encoding=json&cache=1",
        "connect=v1&encoding=json&base64=1&message=eyJzbWFsbCI6N30",
    ] {
        let answer = world.get(&format!("/test.v1.Probe/Look?{query}")).await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"small": 7})),
            "{answer:?}"
        );
    }
    let answer = world
        .get("/test.v1.Probe/Echo?connect=v1&encoding=json&message={}")
        .await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
}

#[tokio::test]
async fn http2_without_tls_is_spoken_too() {
    let world = World::start(AdapterSettings::default()).await;
    let socket = TokioIo::new(tokio::net::TcpStream::connect(world.address).await.unwrap());
    let (mut http2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(world.url("/test.v1.Probe/Echo"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(br#"{"small":1}"#)))
        .unwrap();
    let response = http2.send_request(request).await.unwrap();
    assert_eq!(
        (response.version(), response.status().as_u16()),
        (http::Version::HTTP_2, 200)
    );
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        r#"{"small":1}"#
    );
    connection.abort();
}

#[tokio::test]
async fn pages_list_methods_with_a_curl_that_works() {
    let settings = AdapterSettings {
        prefix: "/rpc".to_owned(),
        ..AdapterSettings::default()
    };
    let mut world = World::empty(settings).await;
    let address = world
        .provide(&crate::support::compile(include_str!("../proto/probe.proto")))
        .await;
    world.list(&[(address, "one")]);
    world.until_callable("/rpc/test.v1.Probe/Echo").await;

    let index = world.get("/rpc/").await.json();
    let methods = index["services"][0]["methods"].as_array().unwrap();
    assert_eq!(methods[0]["path"], "/rpc/test.v1.Probe/Echo");
    assert_eq!(methods[1]["verbs"], json!(["POST", "GET"]));
    assert_eq!(methods[5]["curl"], Value::Null, "streaming methods have none");
    let curl = methods[0]["curl"].as_str().unwrap();
    let sample = curl.split(" -d '").nth(1).unwrap().trim_end_matches('\'');
    let answer = world.post("/rpc/test.v1.Probe/Echo", sample).await;
    assert_eq!(answer.status, 200, "{sample}: {answer:?}");
    assert!(curl.contains(&world.url("/rpc/test.v1.Probe/Echo")), "{curl}");

    let html = Answer::of(
        world
            .http
            .get(world.url("/rpc"))
            .header("accept", "text/html,*/*"),
    )
    .await;
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    assert!(String::from_utf8_lossy(&html.body).contains("test.v1.Probe"));

    let openapi = world.get("/rpc/openapi.json").await.json();
    assert_eq!(openapi["openapi"], "3.1.0");
    let post = &openapi["paths"]["/rpc/test.v1.Probe/Echo"]["post"];
    let reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        .as_str()
        .unwrap();
    let message = openapi.pointer(reference.trim_start_matches('#')).unwrap();
    assert_eq!(
        message["properties"]["big"],
        json!({"type": "string", "format": "int64"})
    );
}
