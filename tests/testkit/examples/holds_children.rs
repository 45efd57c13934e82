//! Stands for a test: starts children, prints what the real test wants to know of them, and waits to be killed.

use std::time::Duration;

use rsf_testkit::{Program, RedisServer, ZooKeeper};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the test reads the lines")]
async fn main() {
    let environment = Program::new("env").output(Duration::from_secs(20)).await.stdout;
    print!("{environment}");
    let redis = RedisServer::start().await;
    let zookeeper = ZooKeeper::start().await;
    println!("children {} {}", redis.process().id(), zookeeper.process().id());
    std::future::pending::<()>().await;
}
