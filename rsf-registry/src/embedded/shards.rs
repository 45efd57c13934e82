//! The shards that a watch was sent, as far as lists that may still come are put together from them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::directory::open::Opened;
use crate::directory::sealed::shard_names;
use crate::directory::{ListOpener, Refusal};
use crate::record::{SealedEvent, ServiceList};

/// The shards of one service's list. There are never more than the last good list names.
#[derive(Debug)]
pub(super) struct Shards {
    opener: ListOpener,
    service: String,
    held: BTreeMap<String, Bytes>,
    /// Some were dropped with a list that was refused. The registry does not send them on this stream again.
    dropped: bool,
}

impl Shards {
    pub(super) fn new(opener: ListOpener, service: &str) -> Self {
        Shards {
            opener,
            service: service.to_owned(),
            held: BTreeMap::new(),
            dropped: false,
        }
    }

    /// The list of one event, with the shards that came before. `None` where it names shards that were dropped, so that
    /// the watch is to be opened again.
    ///
    /// # Errors
    /// Why it is refused; that is counted, and nothing of it is kept.
    pub(super) fn open(&mut self, event: SealedEvent) -> Result<Option<ServiceList>, Refusal> {
        let opened = self.put_together(event);
        if !matches!(opened, Ok(Some(_))) {
            self.held.clear();
        }
        self.dropped = opened.is_err();
        opened
    }

    fn put_together(&mut self, event: SealedEvent) -> Result<Option<ServiceList>, Refusal> {
        let head = match self.opener.open_head(&self.service, &event.head)? {
            Opened::Whole(list) => {
                self.held.clear();
                self.opener.keep(&list, &event.head, &self.held);
                return Ok(Some(list));
            }
            Opened::Head(head) => head,
        };
        let names = shard_names(&head.shards);
        let new = event.shards.into_iter();
        self.held
            .extend(new.map(|(name, data)| (name, Bytes::from(data))));
        self.held.retain(|name, _| names.contains(name));
        if self.dropped && names.iter().any(|name| !self.held.contains_key(name)) {
            return Ok(None);
        }
        let opened = self.opener.assemble(head, &self.held)?;
        self.opener.keep(&opened.list, &event.head, &self.held);
        Ok(Some(opened.list))
    }
}

#[cfg(test)]
mod tests {
    use crate::directory::refusals::Reason;
    use rsf_core::identity::{SigningKey, TrustedKeys};

    use super::*;
    use crate::directory::seal::ListSealer;
    use crate::record::{ListHead, ListVersion, ListedInstance};

    const SERVICE: &str = "shop.v1.Stock";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_random(&[seed; 32])
    }

    fn shards() -> Shards {
        let trusted = TrustedKeys::from_pem(&key(7).public_pem().unwrap()).unwrap();
        Shards::new(ListOpener::trusting("default", trusted), SERVICE)
    }

    /// The list of two shards as `signer` signs it, with those of its shards that are `sent`.
    fn event(signer: u8, sequence: u64, sent: &[usize]) -> SealedEvent {
        let sealer = ListSealer::signing("default", key(signer));
        let shard = |index: usize| {
            let version = ListVersion {
                epoch: 1,
                sequence: 1,
            };
            let names = (0..).map(|n| format!("stock/{n}"));
            let mut own = names.filter(|name| {
                let slot = crate::directory::sealed::slot(name);
                crate::directory::sealed::shard_of(slot, 2) == index
            });
            let listed = ListedInstance {
                instance: own.next().unwrap(),
                application: "stock".into(),
                address: format!("127.0.0.1:{}", 7000 + index),
                weight: 100,
                ..ListedInstance::default()
            };
            sealer.shard(SERVICE, index, version, vec![listed]).unwrap()
        };
        let cut = [shard(0), shard(1)];
        let plain = cut.iter().map(|shard| shard.plain).sum();
        let head = ListHead {
            service: SERVICE.into(),
            version: Some(ListVersion { epoch: 1, sequence }),
            written_unix_ms: 1,
            shards: cut.iter().map(|shard| shard.reference.clone()).collect(),
            ..ListHead::default()
        };
        let new = sent.iter().map(|at| {
            let shard = shard(*at);
            (shard.name, shard.data.to_vec())
        });
        SealedEvent {
            shards: new.collect(),
            head: sealer.head(&head, Vec::new(), plain).unwrap().head.to_vec(),
        }
    }

    #[test]
    fn a_list_is_put_together_from_what_came_before() {
        let mut shards = shards();
        let list = shards.open(event(7, 1, &[0, 1])).unwrap().unwrap();
        assert_eq!(list.instances.len(), 2);
        let list = shards.open(event(7, 2, &[1])).unwrap().unwrap();
        assert_eq!((list.instances.len(), list.version.unwrap().sequence), (2, 2));
    }

    #[test]
    fn nothing_is_kept_of_lists_that_are_refused() {
        let mut shards = shards();
        for sequence in 1..10 {
            let mut refused = event(8, sequence, &[0, 1]);
            refused
                .shards
                .insert(format!("another-{sequence}"), vec![0; 1000]);
            shards.open(refused).unwrap_err();
            assert!(shards.held.is_empty());
        }
        let mut more = event(7, 10, &[0, 1]);
        more.shards.insert("another".into(), vec![0; 1000]);
        shards.open(more).unwrap();
        assert_eq!(shards.held.len(), 2, "nor what no list names");
        let mut damaged = event(7, 11, &[]);
        damaged.shards = event(7, 11, &[0]).shards;
        damaged.shards.values_mut().for_each(|data| data[20] ^= 1);
        shards.open(damaged).unwrap_err();
        assert!(shards.held.is_empty());
    }

    #[test]
    fn what_was_dropped_is_asked_for_once() {
        let mut shards = shards();
        shards.open(event(7, 1, &[0, 1])).unwrap().unwrap();
        shards.open(event(8, 2, &[])).unwrap_err();
        let counted = |shards: &Shards| {
            let refusals = shards.opener.refusals();
            (
                refusals.of(SERVICE),
                Reason::ALL.map(|reason| refusals.get(reason)),
            )
        };
        let before = counted(&shards);
        assert_eq!(shards.open(event(7, 3, &[1])).unwrap(), None);
        assert_eq!(counted(&shards), before, "nobody is refused for it");
        assert!(shards.open(event(7, 3, &[0, 1])).unwrap().is_some());
        // Where the registry does not have it either, that is its list's fault.
        shards.open(event(8, 4, &[])).unwrap_err();
        assert_eq!(shards.open(event(7, 5, &[1])).unwrap(), None);
        let missing = shards.open(event(7, 5, &[1])).unwrap_err();
        assert!(missing.to_string().contains("is missing"), "{missing}");
    }
}
