//! A deterministic simulation of RSF's control path: one seed is one schedule of lives, deaths and faults.
//!
//! What is real: the pump (`rsf-pump`), registration, and the consumers' agent with its snapshots on disk
//! (`rsf-registry`). What is a twin, step by step like RSF's client of it: Redis and ZooKeeper, with what may become of
//! their data, their sessions and the ways to them. Everything runs in one thread on a paused clock, and every choice
//! comes from the seed, so that a seed that breaks something breaks it again.
//!
//! 1. `site`: instances, consumers and pumps as processes that can be killed, stopped and cut off (`process`), over
//!    `redis` and `zookeeper`.
//! 2. `faults`: what happens, drawn from the seed.
//! 3. `judge`: knows the truth, sees every list that is stored or shown, and holds it against the invariants.
//! 4. [`run`]: one seed from start to rest.
//!
//! It simulates no call and no policy: `make reliability` breaks real processes under load.

mod chance;
mod trace;

mod process;

mod redis;
mod zookeeper;

mod judge;
mod site;

mod faults;

mod run;

pub use rsf_registry::world::Guard;
pub use run::{Missing, Options, Outcome, missed_by, run};
