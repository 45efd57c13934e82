//! Tells the control plane what this process knows of instances that the registry may be wrong about.
//!
//! Two things make it speak, and in calm times there is neither:
//!
//! * An instance fell out of a list without a word and still answers ([`kept`](super::kept)): then the registry may be wrong
//!   about others of the same service too, and each of them that answers is named.
//! * A listed instance that answered before refuses every connection.
//!
//! A process that is cut off itself sees everybody refuse. So it speaks of nobody's refusal while more refuse than answer,
//! over all services that it calls.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::snapshot::ServiceSnapshot;
use super::{Channels, Shared};
use crate::control::{Seen, Sighting};

/// How often it is looked what there is to say.
const LOOK: Duration = Duration::from_secs(1);

/// Looks for as long as the consumer lives.
pub(super) async fn tell(consumer: Weak<Shared>) {
    let mut silent = true;
    loop {
        sleep(LOOK).await;
        let Some(shared) = consumer.upgrade() else { return };
        let Some(channels) = shared.channels.upgrade() else {
            return;
        };
        let sightings = sightings(&snapshots(&channels), Instant::now());
        if silent && sightings.is_empty() {
            continue;
        }
        silent = sightings.is_empty();
        shared.control.report(sightings);
    }
}

fn snapshots(channels: &Channels) -> Vec<Arc<ServiceSnapshot>> {
    let channels = channels.lock();
    channels
        .values()
        .filter_map(|channel| channel.state().snapshot.get())
        .collect()
}

/// What there is to say, by id.
fn sightings(snapshots: &[Arc<ServiceSnapshot>], now: Instant) -> Vec<Sighting> {
    let (mut answering, mut refusing) = (HashSet::new(), HashSet::new());
    let mut told: BTreeMap<&Arc<str>, Sighting> = BTreeMap::new();
    for snapshot in snapshots {
        for (id, endpoint) in &snapshot.endpoints {
            let Some(seen) = endpoint.seen(now) else {
                continue;
            };
            let worth = match seen {
                Seen::Answers => {
                    answering.insert(id);
                    !snapshot.kept.is_empty()
                }
                Seen::Refuses { .. } => {
                    refusing.insert(id);
                    !snapshot.kept.contains_key(id)
                }
            };
            if worth && (seen == Seen::Answers || !told.contains_key(id)) {
                let sighting = Sighting {
                    instance: id.clone(),
                    incarnation: endpoint.instance.incarnation,
                    seen,
                };
                told.insert(id, sighting);
            }
        }
    }
    refusing.retain(|id| !answering.contains(id));
    let cut_off = refusing.len() > answering.len();
    told.retain(|id, sighting| sighting.seen == Seen::Answers || (!cut_off && refusing.contains(id)));
    told.into_values().collect()
}
