//! What is wrong gets a clear error that says what to do, and every process lives on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers may panic"
)]

mod calls;
mod frames;
mod sizes;

mod starting;

mod control_plane;

use std::time::Duration;

use rsf::Application;
use rsf_suite::{Kind, Lists, MEMBERS, Provider, SOON, Site};
use rsf_testkit::{Output, eventually};
use serde_json::Value;
use shop::v1::{GetMemberRequest, MemberServiceClient};

/// What a command may take on a busy machine.
pub(crate) const COMMAND: Duration = Duration::from_secs(40);

/// A site with one provider that its adapter and its consumers can call.
pub(crate) async fn open_site(kind: Kind) -> (Site, Provider, Application) {
    let site = Site::start(kind).await;
    let provider = site.provider("one", &[]).await;
    let consumer = site.consumer("consumer").await;
    Lists::become_these(&consumer, &["shop/one"], SOON).await;
    eventually(SOON, async || all_is_well(&site, &consumer).await).await;
    (site, provider, consumer)
}

/// Consumer, adapter and console do what they are there for.
pub(crate) async fn all_is_well(site: &Site, consumer: &Application) -> Result<(), String> {
    let get = GetMemberRequest { id: 7 };
    let client: MemberServiceClient = consumer.client();
    client.get(get).await.map_err(|error| error.to_string())?;
    let (status, body) = post(site, "shop.v1.MemberService/Get", r#"{"id":7}"#).await;
    if status != 200 || body["email"] != "member7@shop.example" {
        return Err(format!("the adapter answers {status} {body}"));
    }
    let services = site
        .console()
        .services()
        .await
        .map_err(|error| error.to_string())?;
    if !services.iter().any(|service| service.service == MEMBERS) {
        return Err(format!("the console knows {services:?}"));
    }
    Ok(())
}

pub(crate) async fn post(site: &Site, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let url = format!("{}/{path}", site.adapter_url());
    let request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/json");
    let answer = request.body(body).send().await.expect("the adapter answers");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("the answer is JSON"))
}

/// It ended with this code, and said all of that on standard error.
#[track_caller]
pub(crate) fn told(output: &Output, code: i32, texts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    for text in texts {
        assert!(output.stderr.contains(text), "no {text:?} in\n{}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}
