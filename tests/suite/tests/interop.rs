//! Peers that RSF did not write: grpcio and tonic as clients and servers, curl, PHP and Node over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers may panic"
)]

use std::path::Path;
use std::time::Duration;

use prost::Message;
use rsf::{Application, Client, Code, Metadata, Reason, Settings};
use rsf_suite::{Kind, Lists, PROBE, ProbeClient, ProbeReply, ProbeRequest, RpcStatus, SOON, Site};
use rsf_testkit::{Process, Program, TempDir, eventually, free_port, python};

/// A registry that never answers: these tests need none.
const NO_REGISTRY: &str = "rsf://127.0.0.1:1";

/// The probe's provider as a process, and its address.
async fn provider(state: &TempDir) -> (Process, String) {
    let provider = Program::workspace("suite-provider")
        .env("RSF_REGISTRY", NO_REGISTRY)
        .env("RSF_STATE", state.path())
        .env("RSF_DRAIN_MS", "5000")
        .start();
    let line = provider.line(" serves on ", SOON).await;
    let address = line.split([' ', ',']).nth(3).expect("its address").to_owned();
    (provider, address)
}

fn script(name: &str) -> Program {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    Program::new(python())
        .name(name)
        .arg(path)
        .env("PYTHONUNBUFFERED", "1")
}

fn text(text: &str) -> ProbeRequest {
    ProbeRequest {
        text: text.to_owned(),
        ..ProbeRequest::default()
    }
}

fn detail_of(details: &[u8]) -> ProbeRequest {
    let status = RpcStatus::decode(details).expect("a google.rpc.Status");
    assert_eq!(status.details.len(), 1, "{status:?}");
    ProbeRequest::decode(&*status.details[0].value).expect("the detail is the request")
}

#[tokio::test]
async fn grpcio_calls_a_provider() {
    let state = TempDir::new("state");
    let (provider, address) = provider(&state).await;
    let client = script("client.py").arg(&address).start();
    client.line("watching health", SOON).await;
    assert!(provider.terminate(SOON).await.success(), "{}", provider.log());
    assert!(client.wait(SOON).await.success(), "{}", client.log());
    let held = client.stdout();
    let held: Vec<_> = held.lines().collect();
    let expected = [
        "reflection",
        "unary",
        "metadata",
        "deadline",
        "error details",
        "unknown method",
        "panics and sizes",
        "many at once",
        "watching health",
        "saw it leave",
    ];
    assert_eq!(held, expected);
}

#[tokio::test]
async fn a_grpcio_server_is_called_like_any_provider() {
    let folder = TempDir::new("grpcio");
    let schema = folder.join("schema.binpb");
    std::fs::write(&schema, &*ProbeClient::descriptor().schema).unwrap();
    let port = free_port();
    let serve = || script("server.py").arg(&schema).arg(port.to_string());
    let server = serve().start();
    server.line("port ", SOON).await;
    let instances = folder.join("instances.json");
    std::fs::write(&instances, format!(r#"{{"{PROBE}": ["127.0.0.1:{port}"]}}"#)).unwrap();
    let app = Application::builder("interop")
        .settings(Settings {
            registry: Some(NO_REGISTRY.to_owned()),
            state: Some(folder.join("state")),
            static_instances: Some(instances),
            ..Settings::default()
        })
        .start()
        .await
        .unwrap();
    let probe: ProbeClient = app.client();
    app.ready(SOON).await.unwrap();

    let mut metadata = Metadata::new();
    metadata.insert("probe-text", "there").unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    metadata.insert_bin("probe-bin", &bytes).unwrap();
    let reply = probe
        .echo(text("Grüße, 世界"))
        .metadata(metadata)
        .timeout(SOON)
        .await;
    let (reply, back) = reply.unwrap().into_parts();
    assert_eq!(reply.text, "Grüße, 世界");
    assert_eq!(reply.metadata["probe-text"], "there");
    // What RSF adds on its own is metadata like any other to a peer.
    assert_eq!(reply.metadata["rsf-caller"], "interop", "{:?}", reply.metadata);
    assert!(
        (1..=SOON.as_millis() as u64).contains(&reply.remaining_ms),
        "grpc-timeout said {} ms",
        reply.remaining_ms
    );
    assert_eq!(back.get("probe-echo"), Some("there"), "initial metadata");
    assert_eq!(back.get_bin("echo-bin"), Some(bytes), "trailing metadata");

    let error = probe.fail(text("falsch: ü %")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::InvalidArgument, Reason::Handler)
    );
    assert_eq!(error.message(), "falsch: ü %");
    assert_eq!(detail_of(error.status().details()).text, "falsch: ü %");
    assert_eq!(error.status().metadata().get("probe-cause"), Some("asked"));

    let sleep = ProbeRequest {
        sleep_ms: 60_000,
        ..text("too long")
    };
    let error = probe
        .sleep(sleep)
        .timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::DeadlineExceeded, Reason::Deadline)
    );
    server.line("abandoned: too long", SOON).await;
    // A call that nobody waits for any more is cancelled at the peer.
    let sleep = ProbeRequest {
        sleep_ms: 60_000,
        ..text("dropped")
    };
    let started = probe.sleep(sleep).timeout(SOON).start();
    server.line("began: dropped", SOON).await;
    probe.echo(text("beside it")).await.unwrap();
    drop(started);
    server.line("abandoned: dropped", SOON).await;

    let error = probe.panic(text("now")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Unknown, Reason::Handler),
        "{error}"
    );
    let big = ProbeRequest {
        reply_bytes: 5 << 20,
        ..text("")
    };
    let error = probe.big(big).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::ResourceExhausted, Reason::TooLarge),
        "{error}"
    );
    assert!(error.message().contains("at most 4194304"), "{error}");

    let nowhere = app.channel_for(PROBE, "Nope");
    let error = nowhere
        .call_raw(0, Default::default(), Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");

    server.kill9().await;
    let error = probe.echo(text("anybody?")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    let server = serve().start();
    server.line("port ", SOON).await;
    eventually(SOON, async || probe.echo(text("again")).await).await;
    app.shutdown().await;
}

#[tokio::test]
async fn a_plain_tonic_client_calls_a_provider() {
    let state = TempDir::new("state");
    let (_provider, address) = provider(&state).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    let mut call = async |method: &str, request: tonic::Request<ProbeRequest>| {
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::try_from(format!("/{PROBE}/{method}")).unwrap();
        let codec = tonic_prost::ProstCodec::<ProbeRequest, ProbeReply>::default();
        grpc.unary(request, path, codec).await
    };

    let mut request = tonic::Request::new(text("hello"));
    request
        .metadata_mut()
        .insert("probe-text", "there".parse().unwrap());
    request.set_timeout(Duration::from_secs(20));
    let reply = call("Echo", request).await.unwrap();
    assert_eq!(reply.metadata().get("probe-echo").unwrap(), "there");
    let reply = reply.into_inner();
    assert_eq!(reply.text, "hello");
    assert!((10_000..=20_000).contains(&reply.remaining_ms), "{reply:?}");

    let error = call("Fail", tonic::Request::new(text("wrong")))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (tonic::Code::InvalidArgument, "wrong")
    );
    assert_eq!(detail_of(error.details()).text, "wrong");
    let error = call("Nope", tonic::Request::new(text(""))).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    assert!(
        error.message().contains("this instance provides suite.v1.Probe"),
        "{error}"
    );
}

/// grpcio and tonic give up by themselves; curl does not, so it is the provider that keeps the deadline.
#[tokio::test]
async fn a_provider_ends_what_outlives_its_grpc_timeout() {
    let folder = TempDir::new("curl");
    let (_provider, address) = provider(&folder).await;
    let sleep = ProbeRequest {
        sleep_ms: 60_000,
        ..ProbeRequest::default()
    };
    let message = sleep.encode_to_vec();
    let mut frame = vec![0, 0, 0, 0, message.len() as u8];
    frame.extend(message);
    let body = folder.join("request");
    std::fs::write(&body, frame).unwrap();
    let answer = Program::new("curl")
        .args(["--silent", "--show-error", "--include", "--http2-prior-knowledge"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .args(["-H", "grpc-timeout: 300m", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(format!("http://{address}/{PROBE}/Sleep"))
        .output(SOON)
        .await;
    let answer = answer.stdout.to_lowercase();
    assert!(answer.contains("grpc-status: 4\r\n"), "{answer}");
    assert!(answer.contains("rsf-reason: deadline\r\n"), "{answer}");
}

#[tokio::test]
async fn php_and_node_call_through_the_adapter() {
    let site = Site::start(Kind::Embedded).await;
    let _provider = site.provider("one", &[]).await;
    let consumer = site.consumer("watcher").await;
    Lists::become_these(&consumer, &["shop/one"], SOON).await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/http-clients");
    let adapter = site.adapter_url();
    for (interpreter, file) in [("php", "php/call.php"), ("node", "node/call.mjs")] {
        let call = async |method: &str, request: &str| {
            Program::new(interpreter)
                .arg(examples.join(file))
                .args([&adapter, method, request])
                .output(SOON)
                .await
        };
        let member = eventually(SOON, async || {
            let output = call("shop.v1.MemberService/Get", r#"{"id":"7"}"#).await;
            if output.status.success() {
                Ok(output.stdout)
            } else {
                Err(output.stderr)
            }
        })
        .await;
        let member: serde_json::Value = serde_json::from_str(&member).unwrap();
        assert_eq!(member["email"], "member7@shop.example", "{interpreter}");

        for (method, request, told) in [
            (
                "shop.v1.MemberService/Get",
                r#"{"id":"0"}"#,
                "not_found (handler): nobody has the member id 0",
            ),
            (
                "shop.v1.MemberService/Gett",
                "{}",
                "has no method `Gett`; it has: Get, Register",
            ),
            (
                "shop.v1.MemberService/Get",
                r#"{"idd":1}"#,
                "unrecognized field name 'idd'",
            ),
        ] {
            let output = call(method, request).await;
            assert_eq!(output.status.code(), Some(1), "{interpreter} {method} {request}");
            assert!(output.stderr.contains(told), "{interpreter}: {}", output.stderr);
        }
    }
    consumer.shutdown().await;
    site.stop().await;
}
