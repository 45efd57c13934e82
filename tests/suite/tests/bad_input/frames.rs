//! Peers that send what no peer should, on every port.

use rsf_suite::{Kind, Lists, SOON};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{all_is_well, open_site};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What a broken or hostile peer sends.
fn broken_peers() -> Vec<(&'static str, Vec<u8>)> {
    let after_preface = |rest: &[u8]| [PREFACE, SETTINGS, rest].concat();
    let mut random = fastrand::Rng::with_seed(7);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(64 << 10).collect();
    let long_line = [b"GET /".as_slice(), &[b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    let pings = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(20_000);
    vec![
        ("nothing", Vec::new()),
        ("noise", noise.clone()),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        (
            "half a request",
            b"POST /shop.v1.MemberService/Get HTTP/1.1\r\nhost: x\r\ncontent-le".to_vec(),
        ),
        (
            "a broken chunk",
            b"POST /shop.v1.MemberService/Get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
              transfer-encoding: chunked\r\n\r\nZZ\r\n"
                .to_vec(),
        ),
        ("a line of a megabyte", long_line),
        ("half a preface", PREFACE[..10].to_vec()),
        ("half a frame", after_preface(&[0, 0, 10, 4, 0])),
        (
            "a frame of 16 MiB",
            after_preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        ),
        (
            "DATA on no stream",
            after_preface(&[0, 0, 1, 0, 1, 0, 0, 0, 1, 0]),
        ),
        (
            "garbage for HPACK",
            after_preface(&[0, 0, 5, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "CONTINUATION without HEADERS",
            after_preface(&[0, 0, 0, 9, 4, 0, 0, 0, 1]),
        ),
        ("a flood of PING", after_preface(&pings)),
        ("frames of noise", after_preface(&noise)),
    ]
}

#[tokio::test]
async fn broken_frames_on_every_port_end_no_process() {
    let (site, provider, consumer) = open_site(Kind::Embedded).await;
    let strip = |url: String| url.split("//").nth(1).unwrap().to_owned();
    let ports = [
        ("provider", provider.address().to_owned()),
        ("registry", strip(site.registry_shown())),
        ("console", strip(site.console_url())),
        ("adapter", strip(site.adapter_url())),
    ];
    // These say nothing for as long as the test runs.
    let mut silent = Vec::new();
    for (name, address) in &ports {
        silent.push(TcpStream::connect(address).await.unwrap());
        for (what, bytes) in broken_peers() {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The peer may well hang up in the middle of it.
            let _ = timeout(SOON, stream.write_all(&bytes))
                .await
                .expect("it reads or hangs up");
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut answer))
                .await
                .unwrap_or_else(|_| panic!("{name} never hangs up on {what}"));
        }
        // Half a request and gone, without a good-bye.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(&[PREFACE, SETTINGS, &[0, 0]].concat())
            .await
            .unwrap();
        drop(stream);
        all_is_well(&site, &consumer)
            .await
            .unwrap_or_else(|error| panic!("after {name}: {error}"));
    }
    // A fresh process comes in, too: the registry takes its lease and knows the provider.
    let fresh = site.consumer("fresh").await;
    assert!(fresh.registered(SOON).await, "the registry takes leases");
    Lists::become_these(&fresh, &["shop/one"], SOON).await;
    all_is_well(&site, &fresh).await.unwrap();
    assert!(
        provider.process().exit_status().is_none(),
        "{}",
        provider.process().log()
    );
    assert!(
        !provider.process().stderr().contains("panicked"),
        "{}",
        provider.process().log()
    );
    drop(silent);
    fresh.shutdown().await;
    consumer.shutdown().await;
    site.stop().await;
}
