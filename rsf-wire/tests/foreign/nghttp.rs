//! nghttp and h2load, whose HTTP/2 is nghttp2 in C: odd windows, tables, paddings and continuations, and many calls at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use rsf_testkit::{Program, TempDir};

use crate::testing::{SOON, SimpleRequest, SimpleResponse, framed, payload, served};

const REPLY_BYTES: i32 = 1_000;

/// A request's bytes as a file, which lives as long as its folder.
fn asked() -> (TempDir, PathBuf) {
    let folder = TempDir::new("nghttp");
    let file = folder.join("request");
    let request = SimpleRequest {
        response_size: REPLY_BYTES,
        ..SimpleRequest::default()
    };
    std::fs::write(&file, framed(&request)).unwrap();
    (folder, file)
}

fn grpc(tool: &str, address: SocketAddr, body: &std::path::Path) -> Program {
    let url = format!("http://{address}/grpc.testing.TestService/UnaryCall");
    let headers = [
        "--header",
        "content-type: application/grpc",
        "--header",
        "te: trailers",
    ];
    let program = Program::new(tool).args(headers).arg("--data").arg(body);
    program.arg(url)
}

#[tokio::test]
async fn nghttp_calls_the_engine() {
    let address = served().await;
    let (_folder, body) = asked();
    for odd in [
        &[][..],
        // Windows of 1 byte and of 64 KiB, of streams and of the connection.
        &["--window-bits=1"],
        &["--window-bits=16", "--connection-window-bits=16"],
        &["--padding=1"],
        &["--padding=256"],
        &["--header-table-size=0", "--encoder-header-table-size=0"],
        &["--header-table-size=60", "--encoder-header-table-size=4096"],
        // The table shrinks, and grows again, before the first request.
        &["--header-table-size=0", "--header-table-size=8192"],
        &["--no-dep", "--weight=256"],
        &["--hexdump", "--multiply=20"],
        &["--max-concurrent-streams=1", "--multiply=10"],
        &["--trailer=x-checksum: 1", "--no-content-length"],
    ] {
        let said = nghttp(address, &body, odd).await;
        assert!(said.contains("grpc-status: 0"), "{odd:?}: {said}");
        assert!(!said.contains("recv RST_STREAM"), "{odd:?}: {said}");
    }
}

/// What nghttp hears and says.
async fn nghttp(address: SocketAddr, body: &std::path::Path, odd: &[&str]) -> String {
    let program = grpc("nghttp", address, body).args(["--verbose", "--no-push", "--timeout=30"]);
    let output = program.args(odd).output(SOON).await;
    assert!(output.status.success(), "{odd:?}: {output:?}");
    output.stdout
}

/// 32 KiB of headers in several frames, twice what is announced: the request is refused, and the next one answered.
#[tokio::test]
async fn nghttps_headers_in_several_frames_are_read_to_their_end() {
    let address = served().await;
    let (_folder, body) = asked();
    let said = nghttp(address, &body, &["--continuation"]).await;
    assert!(said.contains(":status: 431"), "{said}");
    assert!(!said.contains("recv GOAWAY"), "{said}");
}

/// How many h2load counts behind a word, in its line `requests: 2000 total, …`.
fn counted(said: &str, line: &str, word: &str) -> u64 {
    let line = said.lines().find_map(|text| text.strip_prefix(line)).expect(line);
    let part = line.split(',').find_map(|part| part.trim().strip_suffix(word));
    part.expect(word).trim().parse().unwrap()
}

#[tokio::test]
async fn h2load_calls_the_engine() {
    const CALLS: u64 = 3_000;
    let address = served().await;
    let (_folder, body) = asked();
    let payload = payload(REPLY_BYTES as usize);
    let reply = framed(&SimpleResponse { payload }).len() as u64;
    for odd in [
        &["--clients=1", "--max-concurrent-streams=64"][..],
        &["--clients=10", "--max-concurrent-streams=100"],
        &["--clients=2", "--window-bits=10", "--max-concurrent-streams=8"],
        &[
            "--clients=2",
            "--connection-window-bits=10",
            "--max-concurrent-streams=8",
        ],
        &[
            "--header-table-size=0",
            "--encoder-header-table-size=0",
            "--max-concurrent-streams=10",
        ],
        &["--max-frame-size=1M", "--max-concurrent-streams=1"],
    ] {
        let program = grpc("h2load", address, &body).arg(format!("--requests={CALLS}"));
        let output = program.args(odd).output(SOON).await;
        let said = &output.stdout;
        assert!(output.status.success(), "{odd:?}: {output:?}");
        assert_eq!(counted(said, "requests:", " succeeded"), CALLS, "{odd:?}: {said}");
        assert_eq!(counted(said, "status codes:", " 2xx"), CALLS, "{odd:?}: {said}");
        // Replies came whole: h2load counts the bytes of DATA, in brackets behind the amount for people.
        let data = said.lines().find(|line| line.starts_with("traffic:")).unwrap();
        let data = data.rsplit(['(', ')']).nth(1).unwrap();
        assert_eq!(data.parse(), Ok(CALLS * reply), "{odd:?}: {said}");
    }
}
