//! The guide's code blocks are these files, and what the guide promises happens on a real `rsf dev`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rsf_testkit::{Output, Process, Program, TempDir, eventually, free_port};

/// What a start, a change or a removal gets on a loaded machine.
const SOON: Duration = Duration::from_secs(60);
/// The scope of the greeter's policy.
const SCOPE: &str = "service/greeting.v1.GreeterService";

/// Pages, and the files that they show whole.
const PAGES: [(&str, &[&str]); 3] = [
    (
        "docs/getting-started.md",
        &[
            "proto/greeting.proto",
            "build.rs",
            "src/lib.rs",
            "src/bin/provider.rs",
            "src/bin/consumer.rs",
        ],
    ),
    ("README.md", &["src/bin/provider.rs", "src/bin/consumer.rs"]),
    ("docs/calls.md", &["src/bin/four_ways.rs"]),
];
/// Where the shorter pieces of code on these pages are from.
const SNIPPETS: &str = "tests/snippets.rs";

#[test]
fn the_pages_show_the_files_as_they_are() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let snippets = unindented(&fs::read_to_string(here.join(SNIPPETS)).unwrap());
    for (page, files) in PAGES {
        let text = fs::read_to_string(here.join("../..").join(page)).unwrap();
        let mut whole = Vec::new();
        for file in files {
            let code = fs::read_to_string(here.join(file)).unwrap();
            assert!(
                blocks(&text).any(|(_, block)| block == code),
                "no code block of {page} equals examples/getting-started/{file}: copy the file into the page"
            );
            whole.push(code);
        }
        for (_, block) in blocks(&text).filter(|(language, _)| *language == "rust") {
            assert!(
                whole.iter().any(|code| code == block) || snippets.contains(&unindented(block)),
                "{page} shows code that is not in examples/getting-started/{SNIPPETS}:\n{block}"
            );
        }
    }
}

/// Language and text of what stands between fences.
fn blocks(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n'))
}

fn unindented(code: &str) -> String {
    code.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[tokio::test]
async fn the_guide_works() {
    let state = TempDir::new("getting-started");
    let guide = Guide { state: &state };
    let port = free_port().to_string();
    let dev = guide.dev(&port).await;

    let a = guide.provider("a");
    a.line("greeter/a serves on", SOON).await;
    let consumer = guide.own("consumer").start();
    consumer.line("Hello Ada, says a", SOON).await;
    let b = guide.provider("b");
    b.line("greeter/b serves on", SOON).await;
    consumer.line("Hello Ada, says b", SOON).await;

    it_is_called(&guide).await;
    it_is_governed(&guide, &consumer).await;
    a_provider_dies(&consumer, &b).await;
    let dev = the_control_plane_dies(&guide, &consumer, dev, &port).await;

    assert!(a.terminate(SOON).await.success());
    assert!(dev.interrupt(SOON).await.success());
}

async fn it_is_called(guide: &Guide<'_>) {
    let called = guide
        .run(&["call", "greeting.v1.GreeterService/Hello", r#"{"name":"Bo"}"#])
        .await;
    assert!(called.stdout.contains("Hello Bo, says "), "{called:?}");
    let refused = guide
        .rsf(&["call", "greeting.v1.GreeterService/Hello"])
        .output(SOON)
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("INVALID_ARGUMENT") && refused.stderr.contains("Set `name`."),
        "{refused:?}"
    );

    let ways = guide.own("four_ways").output(SOON).await;
    assert!(ways.status.success(), "{ways:?}");
    for way in ["one", "two", "three", "four"] {
        assert!(ways.stdout.contains(&format!("Hello {way}, says ")), "{ways:?}");
    }
}

async fn it_is_governed(guide: &Guide<'_>, consumer: &Process) {
    // A timeout shorter than the work cuts calls off; without it they are whole again.
    guide.run(&["policy", "set", SCOPE, "call.timeout_ms=10"]).await;
    consumer.line("DEADLINE_EXCEEDED", SOON).await;
    guide.run(&["policy", "set", SCOPE, "call.timeout_ms="]).await;
    greetings(consumer, "says").await;

    // An instance of weight 0 gets no calls, and gets them back.
    let weight = r#"instances=[{"instance":"greeter/a","weight":0}]"#;
    guide.run(&["policy", "set", SCOPE, weight]).await;
    only(consumer, "says b").await;
    guide.run(&["policy", "rollback", SCOPE, "2"]).await;
    greetings(consumer, "says a").await;
}

/// One of two dies, and no call fails.
async fn a_provider_dies(consumer: &Process, b: &Process) {
    let before = consumer.stdout().lines().count();
    b.kill9().await;
    only(consumer, "says a").await;
    let after = consumer.stdout();
    let failed: Vec<_> = after
        .lines()
        .skip(before)
        .filter(|line| !line.starts_with("Hello"))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Without registry, pump and console calls go on, and a new consumer starts from its disk.
async fn the_control_plane_dies(guide: &Guide<'_>, consumer: &Process, dev: Process, port: &str) -> Process {
    let before = consumer.stdout().lines().count();
    dev.kill9().await;
    let ways = guide.own("four_ways").output(SOON).await;
    assert!(ways.status.success(), "{ways:?}");
    only(consumer, "says a").await;
    let after = consumer.stdout();
    assert!(
        after.lines().skip(before).all(|line| line == "Hello Ada, says a"),
        "{after}"
    );

    // Back again, it knows the policy, and instances register by themselves.
    let dev = guide.dev(port).await;
    eventually(SOON, async || {
        let acks = guide.run(&["policy", "acks", SCOPE]).await.stdout;
        let current = |line: &&str| line.starts_with("greeter/a ") && line.contains(" current");
        acks.lines().find(current).map(drop).ok_or(acks.clone())
    })
    .await;
    dev
}

/// The programs of the guide on a registry of their own.
struct Guide<'a> {
    state: &'a TempDir,
}

impl Guide<'_> {
    fn rsf(&self, arguments: &[&str]) -> Program {
        Program::workspace("rsf")
            .args(arguments)
            .env("RSF_STATE", self.state.path())
    }

    async fn dev(&self, registry_port: &str) -> Process {
        let dev = self.rsf(&[
            "dev",
            "--no-shop",
            "--lease-ttl-ms",
            "2000",
            "--registry-port",
            registry_port,
        ]);
        let dev = dev.start();
        dev.line("Ctrl-C ends it", SOON).await;
        dev
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.rsf(arguments).output(SOON).await;
        assert!(output.status.success(), "rsf {arguments:?}: {output:?}");
        output
    }

    fn own(&self, name: &str) -> Program {
        let program = match name {
            "provider" => env!("CARGO_BIN_EXE_provider"),
            "consumer" => env!("CARGO_BIN_EXE_consumer"),
            _ => env!("CARGO_BIN_EXE_four_ways"),
        };
        Program::new(program).env("RSF_STATE", self.state.path())
    }

    fn provider(&self, instance: &str) -> Process {
        let program = self.own("provider").name(format!("provider-{instance}"));
        program
            .env("RSF_INSTANCE", instance)
            .env("RSF_LEASE_TTL_MS", "2000")
            .start()
    }
}

/// Waits for a new line of the consumer that contains `marker`.
async fn greetings(consumer: &Process, marker: &str) {
    let before = consumer.stdout().len();
    consumer
        .ready(&format!("a new {marker:?}"), SOON, async || {
            let seen = consumer.stdout();
            match seen[before..].contains(marker) {
                true => Ok(()),
                false => Err(seen[before..].to_owned()),
            }
        })
        .await;
}

/// Waits until the consumer's last eight lines all contain `marker`: by chance, that is one time in 256.
async fn only(consumer: &Process, marker: &str) {
    let before = consumer.stdout().lines().count();
    consumer
        .ready(&format!("{marker:?} alone"), SOON, async || {
            let seen = consumer.stdout();
            let last: Vec<_> = seen.lines().skip(before).collect();
            match last.len() >= 8 && last[last.len() - 8..].iter().all(|line| line.contains(marker)) {
                true => Ok(()),
                false => Err(last.join("\n")),
            }
        })
        .await;
}
