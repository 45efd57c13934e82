//! A governed RSF call beside a bare tonic call: calls per second, latency, and CPU time of client and server.
//!
//! 1. [`plan`]: what is measured, in which order.
//! 2. [`process`]: a server and a client process for each cell, which are this program again.
//! 3. [`peers`]: what they run. [`load`] is the closed loop, [`cpu`] the clocks.
//! 4. [`report`]: medians and spread, as a table and as JSON.
//!
//! [`bars`] measures the engine alone against its bars, beside tonic, tarpc and plain TCP; [`hostile`] what its honest callers
//! feel while others attack its server.
//!
//! [`instructions`] counts instructions instead of time, under callgrind; [`memory`] looks at what pending calls hold.

mod plan;
mod process;
mod role;

// What the engine's own tests say to it.
#[path = "../../rsf-wire/tests/bytes/attacks.rs"]
#[allow(dead_code, reason = "the engine's benchmark uses the rest")]
mod attack;
#[path = "../../rsf-wire/tests/bytes/raw.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "the engine's tests use the rest"
)]
mod raw;

mod cpu;
mod load;
mod peers;
mod work;

mod bars;
mod hostile;
mod instructions;
mod memory;
mod report;
mod resident;

use clap::{Parser, Subcommand};

/// What generated code asks of the crate `rsf`, put together from `rsf-core`: the benchmark needs no registry.
mod rsf {
    pub(crate) use rsf_core::call::Call;
    pub(crate) use rsf_core::client::{Channel, Client};
    pub(crate) use rsf_core::message::{Request, Response};
    pub(crate) use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
    pub(crate) use rsf_core::server::{CallScope, Handled, Service};
    pub(crate) use rsf_core::status::Status;

    /// What generated code is made of.
    pub(crate) mod codegen {
        pub(crate) use std::sync::Arc;

        pub(crate) use bytes::Bytes;
        #[allow(
            clippy::single_component_path_imports,
            reason = "generated code names it by this path"
        )]
        pub(crate) use prost;
        pub(crate) use rsf_core::server::{decode, encode};
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// Measures a governed RSF call beside a bare tonic call.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Rounds; each measures every cell once. The table shows medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Milliseconds that each cell is measured, after half as long a warm-up.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    window_ms: u64,
    /// Only cells whose name contains this text (`governed`, `multi`, `64`).
    #[arg(long, default_value = "")]
    only: String,
    /// Counts instructions a call with valgrind's callgrind, instead of time.
    #[arg(long)]
    instructions: bool,
    /// Looks at the memory of 100 000 pending calls, instead of time.
    #[arg(long, conflicts_with = "instructions")]
    memory: bool,
    /// Measures the wire engine against its bars, instead of governed calls.
    #[arg(long, conflicts_with_all = ["instructions", "memory"])]
    bars: bool,
    /// Attacks an engine's server while honest calls go on, instead.
    #[arg(long, conflicts_with_all = ["instructions", "memory", "bars"])]
    hostile: bool,
    /// With --instructions: keeps callgrind's files, for `callgrind_annotate`.
    #[arg(long, requires = "instructions")]
    keep: bool,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What this program is when it has started itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Server { spec: String },
    #[command(hide = true)]
    Client { spec: String },
    #[command(hide = true)]
    Attacker { spec: String },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let window = std::time::Duration::from_millis(arguments.window_ms);
    match arguments.role {
        Some(Role::Server { spec }) => role::server(&serde_json::from_str(&spec)?),
        Some(Role::Client { spec }) => role::client(&serde_json::from_str(&spec)?),
        Some(Role::Attacker { spec }) => hostile::attack(&serde_json::from_str(&spec)?),
        None if arguments.bars => bars::run(&arguments.only, arguments.repeats, window),
        None if arguments.hostile => hostile::run(&arguments.only, arguments.repeats, window),
        None if arguments.instructions => instructions::run(&arguments.only, arguments.keep),
        None if arguments.memory => memory::run(&arguments.only),
        None => report::run(&arguments.only, arguments.repeats, window),
    }
}
