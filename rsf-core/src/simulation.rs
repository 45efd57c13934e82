//! The balancer alone, in virtual time: what `make sim` and the benchmark run.
//!
//! Consumers, instances and chance are simulated here; pools, endpoints and their scores are the very ones that calls go
//! through. A run is a pure function of its seed.
//!
//! 1. [`scenario`]: who provides what, how fast, and what goes wrong.
//! 2. [`fleet`]: the discrete events.
//! 3. [`report`]: what came of it, as a table.
//! 4. [`Picker`]: one pool for those who count nanoseconds.

#![allow(
    clippy::expect_used,
    reason = "a simulation ends where its surroundings fail; no process that serves runs it"
)]

mod fleet;
mod picker;
mod report;
mod scenario;

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::PolicyBook;
use crate::client::simulated::{Endpoint, endpoint};
use crate::client::{Balancers, Consumer, ConsumerParts};
use crate::control::{Instance, StaticControlPlane};
use crate::metrics::Metrics;
use crate::runtime::IoRuntime;
use crate::wire::in_process::InProcessWire;
use crate::wire::{Connection, ConnectionState, Fate, Slot, UnaryReply, UnaryRequest, WireError};

pub use fleet::simulate;
pub use picker::Picker;
pub use report::{Outcome, markdown};
pub use scenario::{Scenario, Trouble};

/// Endpoints of `count` instances, each connected to nothing, for whoever drives the balancer alone.
pub(crate) fn endpoints(count: usize) -> Vec<Arc<Endpoint>> {
    let metrics =
        Metrics::register(&prometheus::Registry::new()).expect("an empty registry takes all metrics");
    let runtime = IoRuntime::start(1).expect("a thread starts");
    let control = Arc::new(StaticControlPlane::new());
    let consumer = Consumer::new(ConsumerParts {
        application: "simulation".to_owned(),
        namespace: "simulation".to_owned(),
        zone: String::new(),
        instance: String::new(),
        policies: PolicyBook::new(control.clone(), runtime.clone(), metrics.policies_refused.clone()),
        runtime,
        wire: Arc::new(InProcessWire::new()),
        control,
        metrics: Arc::new(metrics),
        token: Default::default(),
        interceptors: Default::default(),
        balancers: Balancers::new(),
    });
    // They outlive their consumer, and so never begin to connect.
    let instance = |place: usize| Instance::at("simulated", &format!("{place}:1"));
    (0..count)
        .map(|place| endpoint(&consumer, instance(place), Arc::new(Nowhere::new())))
        .collect()
}

/// A connection that is there and leads nowhere.
struct Nowhere(watch::Sender<ConnectionState>);

impl Nowhere {
    fn new() -> Self {
        Nowhere(watch::Sender::new(ConnectionState::Ready))
    }

    fn error() -> WireError {
        WireError {
            fate: Fate::NotWritten,
            reason: "simulated connections carry nothing".to_owned(),
        }
    }
}

impl Connection for Nowhere {
    fn send(&self, _: &UnaryRequest<'_>) -> Slot {
        Slot(0)
    }

    fn poll(&self, _: Slot, _: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        Poll::Ready(Err(Nowhere::error()))
    }

    fn cancel(&self, _: Slot) {}

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.subscribe()
    }

    fn http(
        &self,
        _: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        Box::pin(std::future::ready(Err(Nowhere::error())))
    }

    fn close(&self) {}
}
