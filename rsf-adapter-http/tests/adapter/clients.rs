//! The example programs of other languages, against the adapter.

use std::process::{Command, Output};

use rsf_adapter_http::AdapterSettings;

use crate::support::World;

#[allow(clippy::print_stdout, reason = "a skipped test says so")]
/// Runs `program script adapter method json`; `None`, said aloud, where the program is not installed.
async fn run(program: &'static str, script: &str, world: &World, method: &str, json: &str) -> Option<Output> {
    let script = format!("{}/../examples/http-clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command.arg(script).arg(world.url("")).arg(method).arg(json);
    match tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
    {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: `{program}` is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

async fn speaks(program: &'static str, script: &str) {
    let world = World::start(AdapterSettings::default()).await;
    let sent = r#"{"text":"Grüße","big":"9007199254740993","labels":{},"words":["a"]}"#;
    let Some(output) = run(program, script, &world, "test.v1.Probe/Echo", sent).await else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        reply,
        serde_json::json!({"text": "Grüße", "big": "9007199254740993", "words": ["a"]})
    );

    let sent = r#"{"code":5,"message":"no such member"}"#;
    let output = run(program, script, &world, "test.v1.Probe/Fail", sent)
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).trim(),
        "not_found (handler): no such member"
    );
}

#[tokio::test]
async fn php_calls() {
    speaks("php", "php/call.php").await;
}

#[tokio::test]
async fn node_calls() {
    speaks("node", "node/call.mjs").await;
}
