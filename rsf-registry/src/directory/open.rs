//! Opens sealed lists: checks signature, sizes and rules, and puts shards together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use rsf_core::identity::TrustedKeys;
use sha2::{Digest, Sha256};

use super::refusals::{Reason, Refusal, Refusals};
use super::sealed::{MAX_SHARDS, SealedList, shard_names};
use crate::format::{Envelope, Kind, MAX_RECORD};
use crate::limits;
use crate::record::{ListHead, ListShard, ListVersion, ServiceList, ShardReference};

/// Opens lists of one namespace and counts those that it refuses; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ListOpener {
    trust: Option<Arc<Trust>>,
    refusals: Refusals,
}

#[derive(Debug)]
struct Trust {
    namespace: String,
    keys: TrustedKeys,
    /// The lists in use as they were signed, so that a peer which checks signatures can have them too.
    sealed: Mutex<HashMap<String, SealedList>>,
}

/// A list that was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedList {
    /// The whole list, its instances in the order of their shards.
    pub list: ServiceList,
    /// The shards that it stood in; none where it was stored whole.
    pub shards: Vec<ShardReference>,
}

/// What a list's node holds.
#[derive(Debug)]
pub(crate) enum Opened {
    Whole(ServiceList),
    Head(ListHead),
}

impl ListOpener {
    /// Checks no signatures.
    pub fn unverified() -> Self {
        Self::default()
    }

    /// Refuses every list that none of `keys` signed for `namespace`. Several keys, so that one can take another's place:
    /// trust the new one everywhere, sign with it, then drop the old one.
    pub fn trusting(namespace: &str, keys: TrustedKeys) -> Self {
        let namespace = namespace.to_owned();
        ListOpener {
            trust: Some(Arc::new(Trust {
                namespace,
                keys,
                sealed: Mutex::default(),
            })),
            refusals: Refusals::new(),
        }
    }

    /// Whether lists must be signed.
    pub fn asks_for_signatures(&self) -> bool {
        self.trust.is_some()
    }

    /// Keeps a list that was opened as it was signed, for [`ListOpener::sealed`]; nothing where signatures are not checked.
    pub(crate) fn keep(&self, list: &ServiceList, head: &[u8], shards: &BTreeMap<String, Bytes>) {
        if let Some(trust) = &self.trust {
            let sealed = SealedList {
                service: list.service.clone(),
                version: list.version.as_ref().map_or((0, 0), |version| version.order()),
                head: Bytes::copy_from_slice(head),
                names: Vec::new(),
                shards: shards.clone(),
            };
            trust.sealed.lock().insert(list.service.clone(), sealed);
        }
    }

    /// The list of `service` that was opened last, as it was signed.
    pub(crate) fn sealed(&self, service: &str) -> Option<SealedList> {
        self.trust.as_ref()?.sealed.lock().get(service).cloned()
    }

    /// One that asks for the same signatures and counts nothing of what it refuses.
    pub(crate) fn uncounted(&self) -> ListOpener {
        ListOpener {
            trust: self.trust.clone(),
            refusals: Refusals::new(),
        }
    }

    /// What was refused so far.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The list that `stored` holds.
    ///
    /// # Errors
    /// Why it is refused; that is counted.
    pub fn open(&self, stored: &SealedList) -> Result<OpenedList, Refusal> {
        match self.open_head(&stored.service, &stored.head)? {
            Opened::Whole(list) => Ok(OpenedList {
                list,
                shards: Vec::new(),
            }),
            Opened::Head(head) => self.assemble(head, &stored.shards),
        }
    }

    /// Opens what stands in the place of `service`.
    pub(crate) fn open_head(&self, service: &str, stored: &[u8]) -> Result<Opened, Refusal> {
        let opened = self.head(service, stored);
        match &opened {
            // Its shards may still be refused.
            Ok(Opened::Head(_)) => {}
            opened => self.refusals.judged(service, opened.as_ref().err()),
        }
        opened
    }

    /// Puts a list together from `shards`, all those that the head names.
    pub(crate) fn assemble(
        &self,
        head: ListHead,
        shards: &BTreeMap<String, Bytes>,
    ) -> Result<OpenedList, Refusal> {
        let service = head.service.clone();
        let opened = assemble(head, shards);
        self.refusals.judged(&service, opened.as_ref().err());
        opened
    }

    fn head(&self, service: &str, stored: &[u8]) -> Result<Opened, Refusal> {
        let envelope = Envelope::open(stored)?;
        if let Some(trust) = &self.trust {
            envelope.verify(&trust.namespace, &trust.keys)?;
        }
        let opened = match envelope.kind {
            Kind::Whole => {
                let list: ServiceList = envelope.record(MAX_RECORD)?;
                check_service(service, &list.service)?;
                check(&list)?;
                Opened::Whole(list)
            }
            Kind::Head => {
                let head: ListHead = envelope.record(MAX_RECORD)?;
                check_service(service, &head.service)?;
                check_head(&head)?;
                Opened::Head(head)
            }
            Kind::Shard => return Err(invalid("a shard stands in a list's place".to_owned())),
        };
        Ok(opened)
    }
}

/// The version of what stands in a list's place, as (epoch, sequence), and the names of its shards; nothing is checked, and
/// no instance decoded.
pub(crate) fn glance(stored: &[u8]) -> Result<((u64, u64), Vec<String>), Refusal> {
    let envelope = Envelope::open(stored)?;
    let (version, names) = match envelope.kind {
        Kind::Whole => (envelope.record::<Versioned>(MAX_RECORD)?.version, Vec::new()),
        Kind::Head => {
            let head: ListHead = envelope.record(MAX_RECORD)?;
            (head.version, shard_names(&head.shards))
        }
        Kind::Shard => (None, Vec::new()),
    };
    Ok((version.map_or((0, 0), |version| version.order()), names))
}

/// Of a [`ServiceList`] the version alone; decoding passes over all else.
#[derive(prost::Message)]
struct Versioned {
    #[prost(message, optional, tag = "2")]
    version: Option<ListVersion>,
}

fn invalid(text: String) -> Refusal {
    Refusal::new(Reason::Invalid, text)
}

fn oversized(text: String) -> Refusal {
    Refusal::new(Reason::Oversized, text)
}

fn check_service(wanted: &str, found: &str) -> Result<(), Refusal> {
    if wanted == found {
        return Ok(());
    }
    Err(invalid(format!("it is of service `{found}`, not of `{wanted}`")))
}

/// The limits' word on a list, told apart by kind.
pub(crate) fn check(list: &ServiceList) -> Result<(), Refusal> {
    let instances = list.instances.len();
    limits::check_list(list).map_err(|error| match instances > limits::MAX_INSTANCES {
        true => oversized(error.to_string()),
        false => invalid(error.to_string()),
    })
}

fn check_head(head: &ListHead) -> Result<(), Refusal> {
    let shards = head.shards.len();
    if !(2..=MAX_SHARDS).contains(&shards) || !shards.is_power_of_two() {
        return Err(invalid(format!(
            "it names {shards} shards, not a power of two up to {MAX_SHARDS}"
        )));
    }
    let instances: u64 = head.shards.iter().map(|shard| u64::from(shard.instances)).sum();
    if instances > limits::MAX_INSTANCES as u64 {
        return Err(oversized(format!(
            "its shards have {instances} instances; at most {} are served",
            limits::MAX_INSTANCES
        )));
    }
    Ok(())
}

fn assemble(head: ListHead, shards: &BTreeMap<String, Bytes>) -> Result<OpenedList, Refusal> {
    let mut budget = MAX_RECORD;
    let mut instances = Vec::new();
    for (index, (name, reference)) in shard_names(&head.shards)
        .into_iter()
        .zip(&head.shards)
        .enumerate()
    {
        let stored = shards
            .get(&name)
            .ok_or_else(|| Refusal::new(Reason::Damaged, format!("its shard {name} is missing")))?;
        if Sha256::digest(stored)[..] != reference.sha256[..] {
            let text = format!("its shard {name} is not the one that its head names");
            return Err(Refusal::new(Reason::Damaged, text));
        }
        let envelope = Envelope::open(stored)?;
        if envelope.kind != Kind::Shard {
            return Err(invalid(format!("its shard {name} is no shard")));
        }
        let shard: ListShard = envelope.record(budget)?;
        check_service(&head.service, &shard.service)?;
        if shard.index as usize != index {
            return Err(invalid(format!("its shard {name} is shard {}", shard.index)));
        }
        budget = budget.saturating_sub(shard.encoded_len());
        instances.extend(shard.instances);
    }
    let list = ServiceList {
        service: head.service,
        version: head.version,
        written_unix_ms: head.written_unix_ms,
        instances,
        removed: head.removed,
        hold: head.hold,
    };
    check(&list)?;
    Ok(OpenedList {
        list,
        shards: head.shards,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::ListSealer;
    use crate::record::ListedInstance;

    #[test]
    fn a_glance_sees_what_opening_sees_of_the_whole() {
        for instances in [0, 3, 20_000] {
            let listed = |number| ListedInstance {
                instance: format!("{number}"),
                address: format!("h{:016x}:1", fastrand::u64(..)),
                incarnation: fastrand::u64(..),
                ..ListedInstance::default()
            };
            let list = ServiceList {
                service: "s".into(),
                version: Some(ListVersion {
                    epoch: 7,
                    sequence: 9,
                }),
                instances: (0..instances).map(listed).collect(),
                ..ServiceList::default()
            };
            let sealed = ListSealer::unsigned().seal(&list).expect("a good list");
            let seen = glance(&sealed.head).expect("it is sound");
            assert_eq!(seen, ((7, 9), sealed.names.clone()));
            assert_eq!(instances == 20_000, sealed.names.len() > 1);
        }
        assert!(glance(b"no list").is_err());
    }
}
