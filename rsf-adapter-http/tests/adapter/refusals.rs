//! Requests that break a rule: each gets its status, its code and a sentence that says what to do.

use std::time::Duration;

use rsf_adapter_http::AdapterSettings;

use crate::support::{Answer, World};

#[tokio::test]
async fn wrong_paths_name_what_exists() {
    let world = World::start(AdapterSettings::default()).await;
    for (path, told) in [
        ("/test.v1.Nobody/Echo", "test.v1.Probe"),
        ("/test.v1.Probe/echo", "Echo, Look, Fail"),
        ("/test.v1.probe/Echo", "test.v1.Probe"),
        ("/test.v1.Probe", "/package.Service/Method"),
        ("/favicon.ico", "/package.Service/Method"),
    ] {
        let message = world.post(path, "{}").await.error(404, "unimplemented");
        assert!(message.contains(told), "{path}: {message}");
    }
    let message = world
        .post("/test.v1.Probe/Watch", "{}")
        .await
        .error(501, "unimplemented");
    assert!(message.contains("streams"), "{message}");
}

#[tokio::test]
async fn wrong_verbs_and_content_types_are_http_errors() {
    let world = World::start(AdapterSettings::default()).await;
    for (verb, path, allow) in [
        (http::Method::PUT, "/test.v1.Probe/Echo", "POST"),
        (http::Method::DELETE, "/test.v1.Probe/Look", "GET, POST"),
        (http::Method::GET, "/test.v1.Probe/Echo", "POST"),
        (http::Method::POST, "/", "GET"),
    ] {
        let answer = Answer::of(world.http.request(verb, world.url(path))).await;
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{path}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "",
    ] {
        let request = world
            .http
            .post(world.url("/test.v1.Probe/Echo"))
            .header("content-type", kind);
        let answer = Answer::of(request.body("{}")).await;
        assert_eq!(
            (answer.status, answer.header("accept-post")),
            (415, "application/json, application/proto")
        );
        assert!(
            String::from_utf8_lossy(&answer.body).contains("content-type: application/json"),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn wrong_json_is_located() {
    let world = World::start(AdapterSettings::default()).await;
    let deep = format!(
        "{}{}",
        r#"{"child":"#.repeat(33),
        "{}".to_owned() + &"}".repeat(33)
    );
    let cases = [
        ("", "the body is empty; send the JSON of a test.v1.Everything"),
        ("{", "line 1, column 1"),
        ("{\n  \"small\": \"x\"\n}", "line 2, column 14, field `small`"),
        (
            r#"{"smal":1}"#,
            "line 1, column 7: unrecognized field name 'smal'",
        ),
        (
            r#"{"list":[{},{"child":{"wrong":1}}]}"#,
            "field `list[1].child`: unrecognized field name 'wrong'",
        ),
        (r#"{"small":2147483648}"#, "field `small`"),
        (r#"{"big":1.5}"#, "field `big`"),
        (r#"{"color":"COLOR_BLUE"}"#, "field `color`"),
        (r#"{"words":{}}"#, "field `words`"),
        (r#"{"labels":["a"]}"#, "field `labels`"),
        (r#"{"at":[]}"#, "field `at`"),
        (r#"{} {}"#, "trailing characters"),
        (r#"{"left":"a","right":1}"#, "line 1"),
        ("null", "line 1"),
        ("\"\u{1}\"", "line 1"),
        (&deep, "more than 32 levels"),
        (&"[".repeat(1_000_000), "more than 32 levels"),
    ];
    for (sent, told) in cases {
        let message = world
            .post("/test.v1.Probe/Echo", sent)
            .await
            .error(400, "invalid_argument");
        assert!(message.contains(told), "{sent:.60}: {message}");
    }
    // Not even text.
    let request = world
        .http
        .post(world.url("/test.v1.Probe/Echo"))
        .header("content-type", "application/json");
    Answer::of(request.body(b"{\"text\":\"\xff\xfe\"}".to_vec()))
        .await
        .error(400, "invalid_argument");
    assert_eq!(
        world.post("/test.v1.Probe/Echo", "{}").await.status,
        200,
        "the adapter lives on"
    );
}

#[tokio::test]
async fn wrong_headers_are_named() {
    let world = World::start(AdapterSettings::default()).await;
    let cases = [
        (
            "connect-timeout-ms",
            "0",
            400,
            "invalid_argument",
            "Connect-Timeout-Ms",
        ),
        (
            "connect-timeout-ms",
            "1s",
            400,
            "invalid_argument",
            "Connect-Timeout-Ms",
        ),
        (
            "connect-timeout-ms",
            "12345678901",
            400,
            "invalid_argument",
            "10 digits",
        ),
        (
            "connect-protocol-version",
            "2",
            400,
            "invalid_argument",
            "Connect-Protocol-Version",
        ),
        ("content-encoding", "br", 501, "unimplemented", "gzip, identity"),
        ("content-encoding", "gzip", 400, "invalid_argument", "gzip"),
        (
            "idempotency-key",
            "a b",
            400,
            "invalid_argument",
            "Idempotency-Key",
        ),
        ("token-bin", "*", 400, "invalid_argument", "token-bin"),
        (
            "rsf-implementation",
            "gold",
            404,
            "unimplemented",
            "test.v1.Probe:gold",
        ),
    ];
    for (name, value, status, code, told) in cases {
        let request = world
            .http
            .post(world.url("/test.v1.Probe/Echo"))
            .header("content-type", "application/json");
        let message = Answer::of(request.header(name, value).body("{}"))
            .await
            .error(status, code);
        assert!(message.contains(told), "{name}: {value}: {message}");
    }
}

#[tokio::test]
async fn an_expired_timeout_is_a_504() {
    let settings = AdapterSettings {
        max_timeout_ms: Some(300),
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    for asked in [Some("50"), Some("9999999999"), None] {
        let mut request = world
            .http
            .post(world.url("/test.v1.Probe/Hang"))
            .header("content-type", "application/json");
        if let Some(asked) = asked {
            request = request.header("connect-timeout-ms", asked);
        }
        let begun = tokio::time::Instant::now();
        let answer = Answer::of(request.body("{}")).await;
        answer.error(504, "deadline_exceeded");
        assert_eq!(answer.header("rsf-reason"), "deadline");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn no_instance_is_a_503_with_its_reason() {
    let world = World::start(AdapterSettings::default()).await;
    world.control.set_instances(crate::support::PROBE, Vec::new());
    let asked = async {
        loop {
            let answer = world.post("/test.v1.Probe/Echo", "{}").await;
            if answer.status != 200 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .unwrap();
    answer.error(503, "unavailable");
    assert_eq!(answer.header("rsf-reason"), "no_instance");
}
