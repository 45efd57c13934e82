//! A consumer that watches some of the services, and how long each change took to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsf_registry::record::ServiceList;
use rsf_registry::{Directory, Observed};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::{Shape, instance_id, service_key};
use super::percentiles;

/// The watched services, by rank.
pub(super) struct Consumer {
    state: Arc<Mutex<State>>,
    pub(super) services: Vec<usize>,
    _watches: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    sizes: BTreeMap<usize, usize>,
    /// What is expected in a list: instance → its incarnation (none: that it leaves), and since when.
    expected: HashMap<usize, HashMap<String, (Option<u64>, Instant)>>,
    took: Vec<Duration>,
    lists: u64,
}

impl Consumer {
    /// Watches `count` services, the largest and others evenly down to the smallest.
    pub(super) fn watch(directory: &Arc<dyn Directory>, shape: &Shape, count: usize) -> Consumer {
        let step = (shape.services() / count.max(1)).max(1);
        let services: Vec<usize> = (0..shape.services()).step_by(step).take(count).collect();
        let state = Arc::new(Mutex::new(State::default()));
        let mut watches = JoinSet::new();
        for &service in &services {
            let (mut watch, state) = (directory.watch(&service_key(service)), Arc::clone(&state));
            watches.spawn(async move {
                while let Some(seen) = watch.changed().await {
                    if let Observed::Present(list) = seen {
                        lock(&state).arrived(service, &list);
                    }
                }
            });
        }
        Consumer {
            state,
            services,
            _watches: watches,
        }
    }

    /// This instance, changed at `since`, is expected in the lists of `services` that are watched, in this incarnation;
    /// without one, it is expected to leave them.
    pub(super) fn expect(
        &self,
        instance: usize,
        incarnation: Option<u64>,
        since: Instant,
        services: impl Iterator<Item = usize>,
    ) {
        let mut state = lock(&self.state);
        for service in services.filter(|service| self.services.contains(service)) {
            let expected = state.expected.entry(service).or_default();
            expected.insert(instance_id(instance), (incarnation, since));
        }
    }

    /// How many expectations have not come true.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.state).expected.values().map(HashMap::len).sum()
    }

    /// Whether every watched list is complete.
    pub(super) fn complete(&self, shape: &Shape) -> bool {
        let state = lock(&self.state);
        let complete = |&service: &usize| state.sizes.get(&service) == Some(&shape.size(service));
        self.services.iter().all(complete)
    }

    /// What came true since the last time, in milliseconds; `waiting` did not.
    pub(super) fn latency(&self) -> Value {
        let waiting = self.waiting();
        let mut state = lock(&self.state);
        state.expected.clear();
        let (took, lists) = (std::mem::take(&mut state.took), std::mem::take(&mut state.lists));
        let mut latency = percentiles(took);
        latency["changes_not_seen"] = waiting.into();
        latency["lists_read"] = lists.into();
        latency
    }
}

impl State {
    fn arrived(&mut self, service: usize, list: &ServiceList) {
        let now = Instant::now();
        self.lists += 1;
        self.sizes.insert(service, list.instances.len());
        let Some(expected) = self.expected.get_mut(&service) else {
            return;
        };
        if expected.is_empty() {
            return;
        }
        let listed: HashMap<&str, u64> = list
            .instances
            .iter()
            .map(|one| (one.instance.as_str(), one.incarnation))
            .collect();
        let took = &mut self.took;
        expected.retain(|instance, (incarnation, since)| {
            let seen = listed.get(instance.as_str()).copied();
            let fulfilled = match incarnation {
                Some(wanted) => seen.is_some_and(|seen| seen >= *wanted),
                None => seen.is_none(),
            };
            if fulfilled {
                took.push(now - *since);
            }
            !fulfilled
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
