//! Calls by wrong names and with wrong JSON: from the command line, over HTTP, and from a consumer.

use rsf::{Code, Metadata, Reason};
use rsf_suite::{Kind, MEMBERS};

use crate::{COMMAND, all_is_well, open_site, post, told};

#[tokio::test]
async fn calls_that_name_nothing_or_send_nonsense() {
    let (site, _provider, consumer) = open_site(Kind::Embedded).await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let deep = format!(r#"{{"id":{deep}}}"#);
    // The method, the request, what the command line and the adapter say; the adapter's status.
    let cases: [(&str, &str, &[&str], u16); 7] = [
        (
            "shop.v1.MemberService/Gett",
            "{}",
            &[
                "`shop.v1.MemberService` has no method `Gett`; it has",
                "Get, Register",
            ],
            404,
        ),
        (
            "shop.v1.Members/Get",
            "{}",
            &[
                "`shop.v1.Members`",
                "registered",
                "shop.v1.MemberService, shop.v1.OrderService",
            ],
            404,
        ),
        (
            "shop.v1.MemberService/Get",
            r#"{"id":"#,
            &["line 1, column 6", "EOF"],
            400,
        ),
        (
            "shop.v1.MemberService/Get",
            "{\n  \"id\": true\n}",
            &[
                "line 2, column",
                "field `id`",
                "64-bit",
                "shop.v1.GetMemberRequest",
            ],
            400,
        ),
        (
            "shop.v1.MemberService/Get",
            r#"{"idd":1}"#,
            &["line 1", "unrecognized field name 'idd'"],
            400,
        ),
        (
            "shop.v1.MemberService/Get",
            &deep,
            &["line 1, column", "more than 32 levels"],
            400,
        ),
        (
            "shop.v1.MemberService/Get",
            r#"{"id":1} x"#,
            &["line 1", "trailing characters"],
            400,
        ),
    ];
    for (method, request, texts, status) in cases {
        let output = site
            .rsf("cli")
            .args(["call", method, request])
            .output(COMMAND)
            .await;
        told(&output, 1, texts);
        let (answered, body) = post(&site, method, request.to_owned()).await;
        assert_eq!(answered, status, "{method} {request}: {body}");
        for text in texts {
            assert!(
                body["message"].as_str().unwrap().contains(text),
                "no {text:?} in {body}"
            );
        }
    }
    let usage: [(&[&str], i32, &str); 4] = [
        (
            &["call", "shop.v1.MemberService"],
            1,
            "is no package.Service/Method",
        ),
        (
            &["call", "shop.v1.MemberService/Get", "{}", "-H", "tenant"],
            1,
            "`tenant` is no key:value",
        ),
        (
            &[
                "call",
                "shop.v1.MemberService/Get",
                "{}",
                "-H",
                "grpc-timeout: 1S",
            ],
            1,
            "is reserved",
        ),
        (
            &["call", "shop.v1.MemberService/Get", "{}", "--timeout-ms", "0"],
            2,
            "1..=3600000",
        ),
    ];
    for (arguments, code, text) in usage {
        told(
            &site.rsf("cli").args(arguments).output(COMMAND).await,
            code,
            &[text],
        );
    }

    let unknown = consumer.channel_for(MEMBERS, "Gett");
    let error = unknown
        .call_raw(0, Default::default(), Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Unimplemented, Reason::Unimplemented)
    );
    assert!(
        error
            .message()
            .contains("this instance provides shop.v1.MemberService"),
        "{error}"
    );
    let nobody = consumer.channel_for("shop.v1.Members", "Get");
    let error = nobody
        .call_raw(0, Default::default(), Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::NoInstance);
    for text in [
        "shop.v1.Members",
        &site.registry_shown(),
        "`suite`",
        "Start the registry and a provider",
    ] {
        assert!(error.message().contains(text), "no {text:?} in {error}");
    }
    // Bytes that are no message of the method.
    let garbage = consumer.channel_for(MEMBERS, "Get");
    let error = garbage
        .call_raw(0, vec![0xff; 64].into(), Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::Malformed, "{error}");

    all_is_well(&site, &consumer).await.unwrap();
    // And the good call by the command line says nothing but its answer.
    let good = site
        .rsf("cli")
        .args(["call", "shop.v1.MemberService/Get", r#"{"id":7}"#]);
    let good = good.output(COMMAND).await;
    assert!(good.status.success() && good.stderr.is_empty(), "{good:?}");
    assert!(good.stdout.contains("member7@shop.example"), "{good:?}");
    consumer.shutdown().await;
    site.stop().await;
}
