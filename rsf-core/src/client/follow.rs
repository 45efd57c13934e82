//! Follows the control plane for one service and replaces its snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::channel::ChannelState;
use super::snapshot::ServiceSnapshot;
use crate::control::{Discovery, Scope};
use crate::policy::Resolution;
use crate::policy_book::LayerState;
use crate::timer::at_or_never;

/// How soon the expiry of an instance rule is noticed, and the end of an instance that is kept.
const RULE_EXPIRY: Duration = Duration::from_secs(1);

/// How long the first list of instances waits for the policies that govern it. The control plane's own limits are
/// shorter: this one holds against a control plane that never speaks.
const FIRST_POLICIES: Duration = Duration::from_secs(2);

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
    fleet: watch::Receiver<LayerState>,
    service: watch::Receiver<LayerState>,
    applications: BTreeMap<Arc<str>, watch::Receiver<LayerState>>,
}

async fn follow(channel: Weak<ChannelState>, mut sources: Sources) {
    let mut first = First::default();
    loop {
        let (expiring, wait_until) = {
            let Some(channel) = channel.upgrade() else { return };
            let discovery = sources.instances.borrow_and_update().clone();
            sources.meet_applications(&channel, &discovery);
            let resolution = sources.resolve();
            match first.wait_until(&discovery, &resolution) {
                None => (publish(&channel, &discovery, &resolution.layers), None),
                wait_until => (false, wait_until),
            }
        };
        tokio::select! {
            changed = sources.changed(expiring) => if !changed { return },
            () = at_or_never(wait_until) => {}
        }
    }
}

/// What the first snapshot, and the first one with instances, waits for: the policies, so that a service's first calls
/// are governed like all that follow.
#[derive(Default)]
struct First {
    /// Whether there are instances.
    instances: bool,
    /// When what is known of them is shown whatever is known of the policies by then.
    deadline: Option<Instant>,
    over: bool,
}

impl First {
    /// Until when nothing is to be published; `None` where it is time, and always once there were instances.
    fn wait_until(&mut self, discovery: &Discovery, resolution: &Resolved) -> Option<Instant> {
        if self.over || matches!(discovery, Discovery::Pending) {
            return None;
        }
        let instances = matches!(discovery, Discovery::Ready(list) if !list.instances.is_empty());
        if self.instances != instances {
            // The first instances bring the policies of their applications.
            (self.instances, self.deadline) = (instances, None);
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + FIRST_POLICIES);
        let shown = resolution.complete || now >= deadline;
        self.over = shown && instances;
        (!shown).then_some(deadline)
    }
}

/// What is known of the policies now.
struct Resolved {
    layers: Resolution,
    /// Of each policy it is known what it says, or that there is none.
    complete: bool,
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

    /// Reads all policies and marks them seen.
    fn resolve(&mut self) -> Resolved {
        let mut complete = true;
        let mut read = |layer: &mut watch::Receiver<LayerState>| {
            let state = layer.borrow_and_update();
            complete &= state.is_known();
            state.layer().cloned()
        };
        let layers = Resolution {
            fleet: read(&mut self.fleet),
            applications: self.applications.values_mut().filter_map(&mut read).collect(),
            service: read(&mut self.service),
        };
        Resolved { layers, complete }
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

/// Builds and publishes a snapshot. Returns whether it may change with time alone.
fn publish(channel: &ChannelState, discovery: &Discovery, resolution: &Resolution) -> bool {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64;
    let previous = channel.snapshot.get();
    let next = ServiceSnapshot::build(channel, discovery, resolution, previous.as_deref(), now);
    let mut keeps = false;
    if let Some(next) = next {
        keeps = !next.kept.is_empty();
        tell_kept(channel, &next, previous.as_deref());
        next.place_endpoints(&channel.shared, previous.as_deref());
        channel.snapshot.set(Arc::new(next));
        channel.version.send_modify(|version| *version += 1);
    }
    let mut rules = resolution.layers().flat_map(|layer| &layer.document.instances);
    keeps || rules.any(|rule| rule.expires_unix_ms.is_some_and(|end| end > now))
}

/// Counts the instances that are kept, and says who they are when the first one comes.
fn tell_kept(channel: &ChannelState, next: &ServiceSnapshot, previous: Option<&ServiceSnapshot>) {
    let metrics = &channel.shared.metrics;
    let before = previous.map_or(0, |previous| previous.kept.len());
    if (before, next.kept.len()) == (0, 0) {
        return;
    }
    metrics.kept(&channel.key).set(next.kept.len() as i64);
    if let (0, Some(instance)) = (before, next.kept.keys().next()) {
        tracing::warn!(
            service = channel.key,
            count = next.kept.len(),
            %instance,
            "instances fell out of the list without a word and still answer; they are kept"
        );
    }
}
