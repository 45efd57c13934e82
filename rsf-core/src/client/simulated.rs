//! What simulations drive: the balancer's own parts, without a channel around them.

use std::sync::Arc;

use tokio::sync::watch;

use super::Consumer;
use super::balance::{Balancers, Member};
use super::breaker::BreakerGroup;
use super::endpoint::EndpointGroup;
use crate::control::Instance;
use crate::policy::{CallRules, ConnectionsRules, NodeBreakerRules};
use crate::wire::Connection;

pub(crate) use super::balance::{Observed, Pool};
pub(crate) use super::endpoint::Endpoint;

/// An endpoint that is connected.
pub(crate) fn endpoint(
    consumer: &Consumer,
    instance: Instance,
    connection: Arc<dyn Connection>,
) -> Arc<Endpoint> {
    let ejections = consumer.shared.metrics.ejections("simulated");
    let group = EndpointGroup {
        breakers: BreakerGroup::new(NodeBreakerRules::default(), ejections),
        connections: Arc::new(watch::Sender::new(ConnectionsRules::default())),
    };
    let endpoint = Endpoint::new(&consumer.shared, instance, &group);
    endpoint.connected(connection);
    endpoint
}

/// A pool as a snapshot would build it.
pub(crate) fn pool(members: Vec<(Arc<Endpoint>, u32)>, rules: &CallRules) -> Pool {
    let members = members
        .into_iter()
        .map(|(endpoint, weight)| Member::new(endpoint, weight));
    Pool::new(members.collect(), rules, &Balancers::new())
}
