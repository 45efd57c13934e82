//! curl, whose HTTP/2 is nghttp2, with prior knowledge.

use rsf_testkit::Program;

use crate::testing::{SOON, SimpleRequest, framed, served};

#[tokio::test]
async fn curl_calls_the_engine() {
    let address = served().await;
    let folder = rsf_testkit::TempDir::new("curl");
    let asked = folder.join("request");
    let request = SimpleRequest {
        response_size: 100,
        ..SimpleRequest::default()
    };
    std::fs::write(&asked, framed(&request)).unwrap();
    let long = folder.join("long");
    std::fs::write(&long, vec![7; 1 << 20]).unwrap();
    let curl = |method: &str, asked: &std::path::Path, more: &[&str]| {
        let url = format!("http://{address}/grpc.testing.TestService/{method}");
        let data = format!("@{}", asked.display());
        let program = Program::new("curl").args(["--silent", "--show-error", "--http2-prior-knowledge"]);
        let program = program.args(["--max-time", "30", "--dump-header", "-", "--output", "/dev/null"]);
        let program = program.args(["--data-binary", &data]);
        program.arg(&url).args(more).output(SOON)
    };
    let grpc = [
        "--header",
        "content-type: application/grpc",
        "--header",
        "te: trailers",
    ];
    for (method, more, holds) in [
        (
            "UnaryCall",
            &grpc[..],
            &["HTTP/2 200", "content-type: application/grpc", "grpc-status: 0"][..],
        ),
        ("Nope", &grpc, &["HTTP/2 200", "grpc-status: 12"]),
        (
            "UnaryCall",
            &["--request", "POST", "--header", "content-type: text/plain"],
            &["HTTP/2 415"],
        ),
        ("UnaryCall", &["--request", "PUT"], &["HTTP/2 405"]),
    ] {
        // A body that is refused for its headers, or for its size, is no reason to report anything but the answer.
        let bodies: &[_] = match holds {
            ["HTTP/2 200", "content-type: application/grpc", ..] => &[&asked],
            _ => &[&asked, &long],
        };
        for body in bodies {
            let output = curl(method, body, more).await;
            let said = output.stdout.to_lowercase();
            for line in holds {
                let holds = said.contains(&line.to_lowercase()) && output.stderr.is_empty();
                assert!(holds, "{method} {more:?}: {output:?}");
            }
        }
    }
}
