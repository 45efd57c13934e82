//! The limits of unchanged tonic services, whose methods are known only by their calls.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::threshold::ThresholdPlace;
use super::{Entering, MethodLimits, Places, PoolLimits, ServiceLimits};
use crate::context::Context;
use crate::metrics::{Metrics, RefusalCounters};
use crate::outcome::Reason;
use crate::policy::ProviderRules;
use crate::status::Status;

/// The limits of one hosted service. A method that policy names has limits of its own; the others share one record, so
/// that strangers cannot fill the memory with names.
pub(in crate::server) struct HostedLimits {
    service: String,
    refusals: RefusalCounters,
    others: Arc<MethodLimits>,
    named: ArcSwap<HashMap<String, Arc<MethodLimits>>>,
    limits: Mutex<ServiceLimits>,
}

/// The name that stands for all methods that no policy names, in metrics too.
const OTHER: &str = "_OTHER";

impl HostedLimits {
    pub(in crate::server) fn new(service: &str, metrics: &Metrics) -> Arc<Self> {
        Arc::new(HostedLimits {
            service: service.to_owned(),
            refusals: metrics.refused.clone(),
            others: MethodLimits::new(service, metrics.refusals(service, OTHER)),
            named: ArcSwap::default(),
            limits: Mutex::default(),
        })
    }

    pub(in crate::server) fn set(&self, rules: &ProviderRules) {
        let maps = [&rules.concurrency, &rules.pool_share, &rules.queue_share];
        let of_groups = rules
            .groups
            .values()
            .flat_map(|group| group.methods.iter().flatten());
        let names: BTreeSet<_> = maps
            .into_iter()
            .flat_map(|map| map.keys())
            .chain(of_groups)
            .collect();
        let mut limits = self.limits.lock();
        let mut named = HashMap::clone(&self.named.load());
        for name in names {
            if !named.contains_key(name) {
                let path = format!("/{}/{name}", self.service);
                let method = MethodLimits::new(&path, self.refusals.of(&self.service, name));
                limits.add(name, &method);
                named.insert(name.clone(), method);
            }
        }
        limits.set(rules);
        self.others.set_max_priority(rules);
        self.named.store(Arc::new(named));
    }

    /// The limits of the method called `name`.
    pub(in crate::server) fn method(&self, name: &str) -> Arc<MethodLimits> {
        self.named.load().get(name).unwrap_or(&self.others).clone()
    }

    /// The places of a call of `method`, once it has them.
    ///
    /// # Errors
    /// The status to refuse the call with.
    pub(in crate::server) async fn enter(
        method: &Arc<MethodLimits>,
        pool: &Arc<PoolLimits>,
        context: &Context,
    ) -> Result<Places, Status> {
        let deadline = context.deadline();
        let threshold = Some(ThresholdPlace::take(method)?);
        let entered = pool.enter(method, || Entering::of(context));
        let place = match deadline {
            None => entered.await,
            Some(deadline) => tokio::time::timeout_at(deadline, entered)
                .await
                .unwrap_or_else(|_| {
                    let problem = format!("{}: the deadline passed while the call waited", method.name);
                    Err(crate::error::framework_status(Reason::Deadline, problem))
                }),
        };
        Ok(Places {
            threshold,
            pool: Some(place?),
        })
    }
}
