//! Starts a Redis server, prints its process id and waits to be killed: the test that a server dies with its test.

use rsf_testkit::RedisServer;

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the test reads the line")]
async fn main() {
    let redis = RedisServer::start().await;
    println!("redis {}", redis.process().id());
    std::future::pending::<()>().await;
}
