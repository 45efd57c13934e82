//! Follows the control plane for one service and replaces its snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::channel::ChannelState;
use super::snapshot::ServiceSnapshot;
use crate::control::{Discovery, Scope};
use crate::policy::{Layer, Resolution};

/// How soon the expiry of an instance rule is noticed.
const RULE_EXPIRY: Duration = Duration::from_secs(1);

/// Begins to follow. Ends when the channel is gone.
pub(super) fn spawn(channel: &Arc<ChannelState>) {
    let shared = &channel.shared;
    let _runtime = shared.runtime.handle().enter();
    let service = Scope::Service(channel.key.clone());
    let check: Weak<ChannelState> = Arc::downgrade(channel);
    shared.policies.check(&service, check);
    let sources = Sources {
        instances: shared.control.instances(&channel.key),
        fleet: shared.policies.layer(&Scope::Fleet),
        service: shared.policies.layer(&service),
        applications: BTreeMap::new(),
    };
    shared
        .runtime
        .handle()
        .spawn(follow(Arc::downgrade(channel), sources));
}

struct Sources {
    instances: watch::Receiver<Discovery>,
    fleet: watch::Receiver<Option<Layer>>,
    service: watch::Receiver<Option<Layer>>,
    applications: BTreeMap<Arc<str>, watch::Receiver<Option<Layer>>>,
}

async fn follow(channel: Weak<ChannelState>, mut sources: Sources) {
    loop {
        let expiring = {
            let Some(channel) = channel.upgrade() else { return };
            let discovery = sources.instances.borrow_and_update().clone();
            sources.meet_applications(&channel, &discovery);
            sources.publish(&channel, &discovery)
        };
        if !sources.changed(expiring).await {
            return;
        }
    }
}

impl Sources {
    /// Watches the policies of the applications that provide the service now.
    fn meet_applications(&mut self, channel: &ChannelState, discovery: &Discovery) {
        let Discovery::Ready(list) = discovery else {
            return;
        };
        let present: BTreeSet<_> = list
            .instances
            .iter()
            .map(|instance| instance.application.clone())
            .collect();
        self.applications.retain(|name, _| present.contains(name));
        for name in present {
            let scope = Scope::Application(name.to_string());
            self.applications
                .entry(name)
                .or_insert_with(|| channel.shared.policies.layer(&scope));
        }
    }

    /// Builds and publishes a snapshot. Returns whether a rule in it expires.
    fn publish(&mut self, channel: &ChannelState, discovery: &Discovery) -> bool {
        let resolution = Resolution {
            fleet: self.fleet.borrow_and_update().clone(),
            applications: self
                .applications
                .values_mut()
                .filter_map(|layer| layer.borrow_and_update().clone())
                .collect(),
            service: self.service.borrow_and_update().clone(),
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let previous = channel.snapshot.load_full();
        let next = ServiceSnapshot::build(channel, discovery, &resolution, previous.as_deref(), now);
        if let Some(next) = next {
            next.place_endpoints(&channel.shared, previous.as_deref());
            channel.snapshot.store(Some(Arc::new(next)));
            channel.version.send_modify(|version| *version += 1);
        }
        let mut rules = resolution.layers().flat_map(|layer| &layer.document.instances);
        rules.any(|rule| rule.expires_unix_ms.is_some_and(|end| end > now))
    }

    /// Waits until any source has changed, or a rule may have expired. `false` when the control plane is gone.
    async fn changed(&mut self, expiring: bool) -> bool {
        let expiry = async {
            match expiring {
                true => tokio::time::sleep_until(Instant::now() + RULE_EXPIRY).await,
                false => std::future::pending().await,
            }
        };
        let applications = self
            .applications
            .values_mut()
            .map(|layer| Box::pin(layer.changed()));
        let applications: Vec<_> = applications.collect();
        let any_application = async {
            match applications.is_empty() {
                true => std::future::pending().await,
                false => futures_util::future::select_all(applications).await.0.is_ok(),
            }
        };
        tokio::select! {
            changed = self.instances.changed() => changed.is_ok(),
            changed = self.fleet.changed() => changed.is_ok(),
            changed = self.service.changed() => changed.is_ok(),
            changed = any_application => changed,
            () = expiry => true,
        }
    }
}
