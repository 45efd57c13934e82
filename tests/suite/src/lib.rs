//! The ground that RSF's end-to-end suites share: a control plane and providers as real processes, consumers and load in
//! the test.
//!
//! 1. [`Site`]: registry, pump, console and adapter of one backend, on ports and state of their own; killed and brought
//!    back.
//! 2. [`Provider`]: one instance of the demo shop as a process.
//! 3. [`Load`]: customers at a steady rate while the test breaks something.
//! 4. [`Lists`]: what a running consumer sees of a service, and how short its list ever was.
//! 5. [`Fleet`]: simulated instances, many at once; [`FleetLists`]: what the directory says of them.
//! 6. [`Case`]: a case of `make reliability` and its one line.
//! 7. [`Prober`]: a service whose answers show what reached the handler; the program `suite-provider` provides it.
//!
//! What goes wrong here panics with what was seen, as in `rsf-testkit`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test has nothing better to do with an error"
)]

mod case;
mod fleet;
mod fleet_lists;
mod load;
mod probe;
mod provider;
mod site;
mod watch;

pub use case::Case;
pub use fleet::{Fleet, Membership, service};
pub use fleet_lists::{FleetLists, Share};
pub use load::{Load, LoadReport};
pub use probe::{PROBE, Probe, ProbeClient, ProbeReply, ProbeRequest, ProbeServer, Prober, RpcStatus};
pub use provider::Provider;
pub use site::{Kind, Site, SiteOptions};
pub use watch::{Lists, members, weights};

use std::time::Duration;

/// How long something that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// The service of the shop that suites look at.
pub const MEMBERS: &str = "shop.v1.MemberService";
