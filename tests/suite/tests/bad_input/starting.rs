//! Processes that are started wrong: configuration, ports, a second one; and one that is only early.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use rsf::{Application, Code, Reason, Settings};
use rsf_suite::{MEMBERS, SOON};
use rsf_testkit::{Program, TempDir, free_port};
use shop::v1::{GetMemberRequest, MemberServiceClient};

use crate::{COMMAND, told};

/// Arguments of a program, or texts that it must print.
/// What the registry of these tests asks for.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

type Words<'a> = &'a [&'a str];
/// Environment variables.
type Pairs<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn an_application_starts_before_its_registry() {
    let folder = TempDir::new("late");
    let port = free_port();
    let app = Application::builder("early")
        .settings(Settings {
            registry: Some(format!("rsf://{TOKEN}@127.0.0.1:{port}")),
            state: Some(folder.join("early")),
            ..Settings::default()
        })
        .start()
        .await
        .expect("a registry that is down is no reason");
    let members: MemberServiceClient = app.client();
    let error = members.get(GetMemberRequest { id: 7 }).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Unavailable, Reason::NoInstance),
        "{error}"
    );
    let address = format!("127.0.0.1:{port}");
    for text in [
        MEMBERS,
        &address,
        "Start the registry and a provider of the service",
    ] {
        assert!(error.message().contains(text), "no {text:?} in {error}");
    }
    assert!(!app.registered(Duration::ZERO).await);
    let error = app.ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(error.message().contains(&address), "{error}");

    // As an operator would: the token is there before the registry that asks for it.
    fs::create_dir_all(folder.join("dev/dev")).unwrap();
    fs::write(folder.join("dev/dev/registry-token"), TOKEN).unwrap();
    let dev = Program::workspace("rsf")
        .args(["dev", "--no-shop", "--registry-port", &port.to_string()])
        .env("RSF_STATE", folder.join("dev"))
        .start();
    assert!(
        app.registered(SOON).await,
        "it registers by itself\n{}",
        dev.log()
    );
    let stranger = Program::workspace("rsf")
        .args(["call", "shop.v1.MemberService/Get"])
        .env("RSF_REGISTRY", format!("rsf://{address}"))
        .env("RSF_STATE", folder.join("stranger"))
        .output(COMMAND)
        .await;
    assert!(!stranger.status.success());
    assert!(
        stranger.stderr.contains("asks for its token"),
        "{}",
        stranger.stderr
    );
    let provider = Program::workspace("shop-provider")
        .env("RSF_REGISTRY", format!("rsf://{TOKEN}@{address}"))
        .env("RSF_STATE", folder.join("shop"))
        .start();
    app.ready(SOON).await.unwrap();
    members.get(GetMemberRequest { id: 7 }).await.unwrap();
    assert!(provider.terminate(COMMAND).await.success());
    app.shutdown().await;
    assert!(dev.terminate(COMMAND).await.success());
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole_before_a_port_is_bound() {
    let folder = TempDir::new("config");
    // Taken: a process that bound before it checked would speak of this.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let weak = file("weak-token", "secret");
    let unknown = file("unknown.toml", "colour = 1\n");
    let pump = file(
        "pump.toml",
        "admin = \"there\"\n[pump]\nlease_ttl_ms = 1\nsweep_ms = 0\n",
    );
    let statics = file("instances.json", "[]");
    let cases: [(&str, Words<'_>, Pairs<'_>, i32, Words<'_>); 11] = [
        (
            "rsf",
            &["pump", "--registry", "http://x", "--config", &pump],
            &[],
            1,
            &[
                "the scheme `http` is not known",
                "admin: `there` is no address:port",
                "lease_ttl_ms",
                "sweep_ms",
            ],
        ),
        (
            "rsf",
            &["pump", "--config", &unknown],
            &[],
            1,
            &["unknown.toml", "unknown field `colour`", "line 1"],
        ),
        (
            "rsf",
            &["pump", "--config", "/nowhere.toml"],
            &[],
            1,
            &["cannot read /nowhere.toml"],
        ),
        (
            "rsf",
            &["console", "--listen", "here", "--token-file", &weak],
            &[("RSF_REGISTRY", "x")],
            1,
            &[
                "registry `x`: it has no scheme",
                "listen: `here` is no address:port",
                "at least 16 visible ASCII characters",
                "openssl rand -hex 32",
                "database: is missing",
            ],
        ),
        (
            "rsf",
            &["console", "--listen", &taken],
            &[],
            1,
            &["no registry: set --registry or RSF_REGISTRY", "no token: set"],
        ),
        (
            "rsf",
            &[
                "adapter",
                "--registry",
                "bad",
                "--listen",
                "here",
                "--prefix",
                "a b",
            ],
            &[],
            1,
            &[
                "registry `bad`: it has no scheme",
                "listen: `here` is no ip:port",
                "prefix: `a b` is no path",
            ],
        ),
        ("rsf", &["dev", "--rate", "0"], &[], 2, &["0 is not in 1..=5000"]),
        (
            "rsf",
            &["dev"],
            &[("RSF_LEASE_TTL_MS", "5")],
            2,
            &["5 is not in 1000..=600000"],
        ),
        (
            "rsf",
            &["dev", "--namespace", "a/b"],
            &[],
            1,
            &["a/b", "1 to 64 letters, digits", "RSF_NAMESPACE"],
        ),
        (
            "shop-provider",
            &[],
            &[
                ("RSF_REGISTRY", "http://x"),
                ("RSF_LISTEN", &taken),
                ("RSF_ADMIN", "here"),
                ("RSF_WEIGHT", "20000"),
                ("RSF_TAGS", "a"),
                ("RSF_DRAIN_MS", "soon"),
            ],
            1,
            &[
                "RSF_REGISTRY: registry `http://x`",
                "RSF_ADMIN: `here` is no address:port",
                "RSF_WEIGHT: 20000 is not within 0 to 10000",
                "RSF_TAGS: `a` is no key=value",
                "RSF_DRAIN_MS: `soon` is no whole number",
            ],
        ),
        (
            "shop-provider",
            &[],
            &[
                ("RSF_REGISTRY", "rsf://127.0.0.1:1"),
                ("RSF_LISTEN", &taken),
                ("RSF_STATIC_INSTANCES", &statics),
            ],
            1,
            &["instances.json", "write JSON like"],
        ),
    ];
    for (number, (program, arguments, environment, code, texts)) in cases.into_iter().enumerate() {
        let program = Program::workspace(program)
            .args(arguments)
            .env("RSF_STATE", folder.join(format!("state-{number}")));
        let program = environment
            .iter()
            .fold(program, |program, (key, value)| program.env(key, value));
        let output = program.output(COMMAND).await;
        told(&output, code, texts);
        assert!(!output.stderr.contains("cannot listen"), "{}", output.stderr);
    }
    let nothing = Program::workspace("rsf")
        .args(["call", "a.B/C"])
        .env("RSF_STATE", folder.join("none"));
    told(
        &nothing.output(COMMAND).await,
        1,
        &["RSF_REGISTRY is not set and `rsf dev` does not run here"],
    );
    let nothing = Program::workspace("rsf")
        .args(["nodes"])
        .env("RSF_STATE", folder.join("none"));
    told(
        &nothing.output(COMMAND).await,
        1,
        &["no console: set --console or RSF_CONSOLE"],
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_what_to_do() {
    let folder = TempDir::new("taken");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let taken = format!("127.0.0.1:{port}");
    let token = folder.join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let (token, database) = (
        token.display().to_string(),
        folder.join("db").display().to_string(),
    );
    let stores = "redis://127.0.0.1:1,zk://127.0.0.1:1";
    let cases: [(&str, Words<'_>, Pairs<'_>, &str); 7] = [
        (
            "rsf",
            &["dev", "--registry-port", &port],
            &[],
            "ask for another port",
        ),
        (
            "rsf",
            &["dev", "--console-port", &port],
            &[],
            "ask for another port",
        ),
        (
            "rsf",
            &["dev", "--adapter-port", &port],
            &[],
            "ask for another port",
        ),
        (
            "rsf",
            &["adapter", "--registry", stores, "--listen", &taken],
            &[],
            "choose another port, or 0",
        ),
        (
            "rsf",
            &["pump", "--registry", stores, "--admin", &taken],
            &[],
            "choose another port, or 0",
        ),
        (
            "rsf",
            &[
                "console",
                "--registry",
                stores,
                "--listen",
                &taken,
                "--token-file",
                &token,
                "--database",
                &database,
            ],
            &[],
            "choose another port, or 0",
        ),
        (
            "shop-provider",
            &[],
            &[("RSF_REGISTRY", stores), ("RSF_LISTEN", &taken)],
            "choose another RSF_LISTEN, or port 0",
        ),
    ];
    for (number, (program, arguments, environment, advice)) in cases.into_iter().enumerate() {
        let program = Program::workspace(program)
            .args(arguments)
            .env("RSF_STATE", folder.join(format!("state-{number}")));
        let program = environment
            .iter()
            .fold(program, |program, (key, value)| program.env(key, value));
        told(
            &program.output(COMMAND).await,
            1,
            &[&format!("cannot listen on {taken}"), advice],
        );
    }
}

#[tokio::test]
async fn a_second_dev_on_the_same_state_is_refused() {
    let state = TempDir::new("state");
    let dev = || {
        Program::workspace("rsf")
            .args(["dev", "--no-shop"])
            .env("RSF_STATE", state.path())
    };
    let first = dev().start();
    first.line("Ctrl-C ends it.", SOON).await;
    let registry = fs::read_to_string(state.join("dev/registry")).unwrap();
    let second = dev().output(COMMAND).await;
    told(
        &second,
        1,
        &[
            "`rsf dev` runs here already",
            &registry,
            "set RSF_STATE to another folder",
        ],
    );
    assert_eq!(
        fs::read_to_string(state.join("dev/registry")).unwrap(),
        registry,
        "the first one's files stay"
    );
    let nodes = Program::workspace("rsf")
        .arg("nodes")
        .env("RSF_STATE", state.path());
    assert!(
        nodes.output(COMMAND).await.status.success(),
        "the first one serves on"
    );
    assert!(first.terminate(COMMAND).await.success());
}
