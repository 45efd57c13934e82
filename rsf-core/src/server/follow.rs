//! What policies change in a provider while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::authorize::Door;
use super::limits::{HostedLimits, PoolLimits, ServiceLimits};
use super::provider::HostedMethod;
use super::shard::ShardRules;
use crate::policy::{ProviderView, Resolution};
use crate::policy_book::PolicyBook;
use crate::wire::budget::BodyBudget;

/// What follows the policies of a provider's services.
pub(super) struct Followers {
    pub(super) methods: Vec<Arc<HostedMethod>>,
    pub(super) pool: Arc<PoolLimits>,
    pub(super) bodies: Arc<BodyBudget>,
    pub(super) hosted: HashMap<&'static str, Arc<HostedLimits>>,
    /// By service key.
    pub(super) limits: HashMap<String, Mutex<ServiceLimits>>,
    /// Those of all services, tonic's too.
    pub(super) doors: Vec<Arc<Door>>,
    /// Whether a service without a policy about its callers takes none.
    pub(super) required: bool,
}

impl Followers {
    /// Follows them for as long as the book is there.
    pub(super) fn follow(self, application: &str, policies: &PolicyBook) {
        let own = self.limits.keys().cloned();
        let mut keys: Vec<_> = own
            .chain(self.hosted.keys().map(|name| (*name).to_owned()))
            .collect();
        keys.sort();
        policies.follow_provider(application, keys, move |service, view, resolution| {
            self.apply(service, view, resolution);
        });
    }

    /// What the instance has one of comes from the fleet's and the application's policy alone, so every service reports
    /// the same.
    fn apply(&self, service: &str, view: ProviderView, resolution: &Resolution) {
        for door in self.doors.iter().filter(|door| door.service() == service) {
            door.set(&view, self.required);
        }
        let rules = Arc::new(view.rules);
        self.pool.set(&rules);
        self.bodies.set(rules.body_budget_mib as usize * 1024 * 1024);
        if let Some(limits) = self.limits.get(service) {
            limits.lock().set(&rules);
        }
        if let Some(hosted) = self.hosted.get(service) {
            hosted.set(&rules);
        }
        let hosted = self.methods.iter().find(|method| method.key == service);
        let shards = hosted.and_then(|method| ShardRules::compile(method.service.descriptor(), resolution));
        let shards = shards.map(Arc::new);
        for method in self.methods.iter().filter(|method| method.key == service) {
            // First the rules: whoever sees the mark finds them.
            method.shards.store(shards.clone());
            method.sharded.store(shards.is_some(), Ordering::Release);
            method.watched.set(rules.watchdog_ms);
            method.rules.store(rules.clone());
            if let Some(dedup) = &method.dedup {
                dedup.set(&rules, &method.name);
            }
        }
    }
}

pub(super) fn service_limits(methods: &[Arc<HostedMethod>]) -> HashMap<String, Mutex<ServiceLimits>> {
    let mut services: HashMap<String, Mutex<ServiceLimits>> = HashMap::new();
    for method in methods {
        let limits = services.entry(method.key.clone()).or_default();
        limits.get_mut().add(&method.name, &method.limits);
    }
    services
}
