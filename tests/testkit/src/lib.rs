//! The ground that RSF's tests stand on: real processes on free ports of 127.0.0.1, started, broken and ended by a
//! test.
//!
//! In the order in which a test meets them:
//!
//! 1. [`free_port`] reserves a port that no other test, and no outgoing connection, takes meanwhile.
//! 2. [`TempDir`] holds a test's files; it stays on disk when the test fails.
//! 3. [`Program`] describes a command ([`binary`] and [`example`] find what cargo built, [`python`] the test
//!    interpreter); started, it is a [`Process`].
//! 4. [`RedisServer`], [`ZooKeeper`] and [`Ensemble`] are the two stores, run with the configuration in `deploy/`.
//! 5. [`eventually`] waits for a condition and says what it saw last when the time is over.
//!
//! Every process dies with the test, also when the test itself is killed. What goes wrong here panics with what to do
//! about it: a test has nothing better to do with an error. A test that fails gets the end of each process's output
//! printed. All waiting runs on `tokio::time`; do not pause the clock in a test that runs real processes.
//!
//! The crate knows nothing of RSF: the suites start `rsf` itself as a [`Program`].

mod eventually;
mod port;
mod process;
mod program;
mod redis;
mod temp_dir;
mod workspace;
mod zookeeper;

pub use eventually::eventually;
pub use port::free_port;
pub use process::Process;
pub use program::{Output, Program};
pub use redis::RedisServer;
pub use temp_dir::TempDir;
pub use workspace::{binary, deploy_file, example, node_modules, python};
pub use zookeeper::{Ensemble, ZooKeeper};
