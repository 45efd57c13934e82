//! Messages over the limit, both ways; and a handler that panics.

use rsf::{Code, Reason};
use rsf_suite::{Kind, ProbeClient, ProbeRequest, SOON};
use rsf_testkit::{Program, eventually};
use serde_json::Value;

use crate::{all_is_well, open_site, post};

fn request(text: &str) -> ProbeRequest {
    ProbeRequest {
        text: text.to_owned(),
        ..ProbeRequest::default()
    }
}

#[tokio::test]
async fn messages_that_are_too_large_are_refused_both_ways() {
    let (site, _provider, consumer) = open_site(Kind::Embedded).await;
    let prober = Program::workspace("suite-provider")
        .env("RSF_REGISTRY", site.registry())
        .env("RSF_NAMESPACE", site.namespace())
        .env("RSF_STATE", site.state("probe"))
        .start();
    prober.line(" serves on ", SOON).await;
    let probe: ProbeClient = consumer.client();
    consumer.ready(SOON).await.unwrap();
    const LARGE: u32 = 5 << 20;
    let sent = ProbeRequest {
        payload: vec![1; LARGE as usize],
        ..request("")
    };
    let asked = ProbeRequest {
        reply_bytes: LARGE,
        ..request("")
    };
    for (what, result) in [
        ("the request", probe.echo(sent).timeout(SOON).await),
        ("the reply", probe.big(asked).timeout(SOON).await),
    ] {
        let error = result.unwrap_err();
        assert_eq!(
            (error.code(), error.reason()),
            (Code::ResourceExhausted, Reason::TooLarge),
            "{what}: {error}"
        );
        for text in ["at most 4194304 are allowed", "split it"] {
            assert!(error.message().contains(text), "{what}: {error}");
        }
    }
    assert_eq!(
        probe.echo(request("small")).await.unwrap().into_inner().text,
        "small"
    );

    let (status, body) = post(&site, "shop.v1.MemberService/Get", vec![b' '; LARGE as usize]).await;
    assert_eq!((status, &body["code"]), (429, &Value::from("resource_exhausted")));
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("more than 4194304 bytes"),
        "{body}"
    );
    // The adapter asks for new services every few seconds.
    let (status, body) = eventually(SOON, async || {
        let asked = format!(r#"{{"replyBytes":{LARGE}}}"#);
        match post(&site, "suite.v1.Probe/Big", asked).await {
            (404 | 503, body) => Err(body),
            other => Ok(other),
        }
    })
    .await;
    assert_eq!(
        (status, &body["code"]),
        (429, &Value::from("resource_exhausted")),
        "{body}"
    );

    // A panic is an answer as well.
    let error = probe.panic(request("now")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Internal, Reason::Panic),
        "{error}"
    );
    assert_eq!(
        probe.echo(request("small")).await.unwrap().into_inner().text,
        "small"
    );
    assert!(prober.exit_status().is_none());
    all_is_well(&site, &consumer).await.unwrap();
    consumer.shutdown().await;
    site.stop().await;
}
