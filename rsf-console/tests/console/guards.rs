//! What keeps strangers out: the token, sessions, CSRF, host names, sizes; and the headers of the page.

use serde_json::{Value, json};

use crate::twin::{Served, TOKEN};

fn http() -> reqwest::Client {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.no_proxy().build().unwrap()
}

async fn code(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn nothing_under_api_answers_without_the_token() {
    let served = Served::start().await;
    let paths = [
        "status",
        "services",
        "services/x",
        "instances",
        "stats",
        "pump",
        "policies",
        "policies/fleet",
        "policies/fleet/history",
        "audit",
        "fields",
        "nothing",
    ];
    for path in paths {
        let url = served.url(&format!("/api/v1/{path}"));
        for request in [
            http().get(&url),
            http().put(&url).body("{}"),
            http().get(&url).bearer_auth("wrong-token-0123456789"),
            http().get(&url).header("authorization", TOKEN),
            http().get(&url).header("authorization", format!("Basic {TOKEN}")),
            http()
                .get(&url)
                .header("cookie", format!("rsf_session_{}={TOKEN}", served.address.port())),
        ] {
            let (status, code) = code(request.send().await.unwrap()).await;
            assert_eq!((status, code.as_str()), (401, "unauthorized"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_session_reads_and_writes_only_with_the_header() {
    let served = Served::start().await;
    let wrong = http()
        .get(served.url("/login?token=wrong-token-0123456789"))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().get("set-cookie").is_none());
    let login = http()
        .get(served.url(&format!("/login?token={TOKEN}")))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            login.status().as_u16(),
            login.headers()["location"].to_str().unwrap()
        ),
        (303, "/")
    );
    let cookie = login.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(TOKEN));
    let cookie = cookie.split(';').next().unwrap().to_owned();

    let url = served.url("/api/v1/policies/fleet");
    let read = http()
        .get(served.url("/api/v1/status"))
        .header("cookie", &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(read.status(), 200);
    let put = || {
        http()
            .put(&url)
            .header("cookie", &cookie)
            .body(r#"{"document": {}}"#)
    };
    assert_eq!(
        code(put().send().await.unwrap()).await,
        (403, "forged".to_owned())
    );
    let written = put().header("x-rsf-console", "1").send().await.unwrap();
    assert_eq!(written.status(), 200);
    assert_eq!(written.json::<Value>().await.unwrap()["author"], "page");

    let forged = http()
        .post(served.url("/logout"))
        .header("cookie", &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(forged.status(), 403);
    let logout = http()
        .post(served.url("/logout"))
        .header("cookie", &cookie)
        .header("x-rsf-console", "1");
    assert_eq!(logout.send().await.unwrap().status(), 204);
    let after = http().get(&url).header("cookie", &cookie).send().await.unwrap();
    assert_eq!(after.status(), 401);
}

#[tokio::test]
async fn the_typed_token_opens_a_session_too() {
    let served = Served::start().await;
    let login = |token: &str| {
        let body = json!({ "token": token }).to_string();
        http()
            .post(served.url("/login"))
            .header("x-rsf-console", "1")
            .body(body)
            .send()
    };
    assert_eq!(login("nonsense").await.unwrap().status(), 401);
    let opened = login(TOKEN).await.unwrap();
    assert_eq!(opened.status(), 204);
    assert!(opened.headers().contains_key("set-cookie"));
    let forged = http()
        .post(served.url("/login"))
        .body(json!({ "token": TOKEN }).to_string());
    assert_eq!(forged.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_rebound_name_is_refused() {
    let served = Served::start().await;
    for (host, expected) in [
        ("evil.example", 421),
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("", 421),
    ] {
        let request = http().get(served.url("/")).header("host", host);
        assert_eq!(
            request.send().await.unwrap().status().as_u16(),
            expected,
            "{host}"
        );
    }
    let bearer = http()
        .get(served.url("/api/v1/status"))
        .bearer_auth(TOKEN)
        .header("host", "evil.example");
    assert_eq!(
        code(bearer.send().await.unwrap()).await,
        (421, "foreign_host".to_owned())
    );
}

#[tokio::test]
async fn bad_requests_get_the_one_shape() {
    let served = Served::start().await;
    let url = |path: &str| served.url(&format!("/api/v1/{path}"));
    let put = |body: String| {
        http()
            .put(url("policies/fleet"))
            .bearer_auth(TOKEN)
            .body(body)
            .send()
    };
    let huge = json!({ "document": { "x": "y".repeat(300_000) } }).to_string();
    assert_eq!(
        code(put(huge).await.unwrap()).await,
        (400, "invalid_policy".to_owned())
    );
    let beyond = "x".repeat(600_000);
    assert_eq!(
        code(put(beyond).await.unwrap()).await,
        (413, "too_large".to_owned())
    );
    for body in [
        "",
        "{",
        "[]",
        "{\"document\": {}, \"colour\": 1}",
        "{\"document\": {}, \"expected_revision\": -1}",
    ] {
        assert_eq!(
            code(put(body.to_owned()).await.unwrap()).await,
            (400, "bad_request".to_owned()),
            "{body}"
        );
    }
    let nested = format!("{{\"document\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(code(put(nested).await.unwrap()).await.0, 400);
    for (path, status) in [
        ("policies/colour/x", 400),
        ("policies/service/.hidden", 400),
        ("policies/service/a%2Fb", 400),
        ("policies/fleet/history?limit=x", 400),
        ("policies/fleet/history?limit=-1", 400),
        ("policies/fleet/diff", 400),
        ("policies/fleet/diff?from=0&to=18446744073709551615", 404),
        ("policies/fleet", 404),
        ("nothing", 404),
        ("stats?points=x", 400),
    ] {
        let response = http().get(url(path)).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(code(response).await.0, status, "{path}");
    }
    let wrong = http()
        .post(url("services"))
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap();
    assert_eq!(code(wrong).await, (405, "method_not_allowed".to_owned()));
    let long = json!({ "document": {}, "comment": "x".repeat(3000) }).to_string();
    assert_eq!(code(put(long).await.unwrap()).await.0, 400);
}

#[tokio::test]
async fn the_page_and_all_it_loads_are_there() {
    let served = Served::start().await;
    let page = http().get(served.url("/")).send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let html = page.text().await.unwrap();
    assert!(
        !html.contains("style=") && !html.contains("onclick="),
        "the content policy forbids inline code"
    );
    let mut wanted: Vec<String> = quoted(&html)
        .filter(|path| path.starts_with('/') && path.contains('.'))
        .collect();
    assert!(wanted.len() >= 3, "{wanted:?}");
    let mut seen = Vec::new();
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let response = http().get(served.url(&path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.unwrap();
        if path.ends_with(".js") {
            assert!(
                !text.contains("innerHTML"),
                "{path} must not build HTML from text"
            );
            wanted.extend(quoted(&text).filter(|path| path.starts_with('/') && path.ends_with(".js")));
        }
        seen.push(path);
    }
    assert!(seen.len() >= 10, "{seen:?}");
}

fn quoted(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('"').skip(1).step_by(2).map(str::to_owned)
}
