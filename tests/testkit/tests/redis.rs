//! A real Redis server: it runs as operators run it, and breaks on demand.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failure is the finding"
)]

use std::time::Duration;

use rsf_testkit::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Runs inline commands on one connection and returns all answers as they came.
async fn answers(redis: &RedisServer, commands: &str) -> String {
    let mut connection = TcpStream::connect(redis.address()).await.unwrap();
    connection
        .write_all(format!("{commands}\r\nQUIT\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned()
}

#[tokio::test]
async fn it_runs_with_the_configuration_for_operators() {
    let redis = RedisServer::start().await;
    let settings = answers(
        &redis,
        "CONFIG GET notify-keyspace-events\r\nCONFIG GET maxmemory-policy",
    )
    .await;
    // Redis sorts the letters: strings, expired, by key.
    assert!(settings.contains("$xK"), "{settings}");
    assert!(settings.contains("noeviction"), "{settings}");
    assert_eq!(redis.url(), format!("redis://{}", redis.address()));
}

#[tokio::test]
async fn options_go_before_the_file() {
    let redis = RedisServer::start_with(&["--hz", "77", "--notify-keyspace-events", ""]).await;
    let settings = answers(&redis, "CONFIG GET hz\r\nCONFIG GET notify-keyspace-events").await;
    assert!(settings.contains("$2\r\n77\r\n"), "{settings}");
    assert!(settings.ends_with("$0\r\n\r\n"), "{settings}");
}

#[tokio::test]
async fn it_comes_back_on_its_port_with_what_was_saved_or_empty() {
    let mut redis = RedisServer::start().await;
    let address = redis.address();
    assert_eq!(answers(&redis, "SET saved 1").await, "+OK\r\n");
    redis.save().await;
    assert_eq!(answers(&redis, "SET unsaved 1").await, "+OK\r\n");

    redis.kill9().await;
    assert!(TcpStream::connect(address).await.is_err());
    redis.restart().await;
    assert_eq!(redis.address(), address);
    assert_eq!(
        answers(&redis, "EXISTS saved\r\nEXISTS unsaved").await,
        ":1\r\n:0\r\n"
    );

    assert_eq!(redis.stop().await.code(), Some(0));
    redis.restart_empty().await;
    assert_eq!(answers(&redis, "DBSIZE").await, ":0\r\n");
}

#[tokio::test]
async fn it_stands_still_while_it_is_paused() {
    let redis = RedisServer::start().await;
    redis.pause().await;
    let mut connection = TcpStream::connect(redis.address()).await.unwrap();
    connection.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    assert!(
        timeout(Duration::from_millis(200), connection.read_exact(&mut answer))
            .await
            .is_err()
    );
    redis.resume();
    timeout(Duration::from_secs(20), connection.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}
