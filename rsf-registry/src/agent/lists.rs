//! A service's list as a consumer takes it: the newest good one, from the directory or, without it, from disk.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rsf_core::control::{Discovery, Instance, InstanceList, ListOrigin};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::peers::Said;
use super::saver::Record;
use super::{DISK_AFTER, Shared, trouble};
use crate::backoff::Backoff;
use crate::directory::{Reason, Refusal, open};
use crate::record::{LeaseState, Removal, RemovalCause, ServiceList};
use crate::snapshot::Snapshot as _;
use crate::world::Guard;
use crate::{Observed, limits};

/// Follows `service` until nobody is left to tell: the directory, and what an operator says over it.
pub(super) async fn follow(shared: &Shared, service: &str, sender: &watch::Sender<Discovery>) {
    let (below, base) = watch::channel(Discovery::Pending);
    tokio::select! {
        biased;
        () = follow_directory(shared, service, &below) => {}
        () = override_of(shared, service, base, sender) => {}
    }
}

/// Tells what `base` says, or what an operator makes of it.
async fn override_of(
    shared: &Shared,
    service: &str,
    mut base: watch::Receiver<Discovery>,
    sender: &watch::Sender<Discovery>,
) {
    let mut overrides = shared.overrides.subscribe();
    let mut holds = None;
    loop {
        let next = overrides.borrow_and_update().of(service);
        let news = next != holds;
        if news || base.has_changed().unwrap_or(false) {
            match (&next, &holds) {
                (Some((_, source)), _) if news => tracing::warn!(
                    service,
                    ?source,
                    "an operator's instances take precedence over the directory for this service"
                ),
                (None, Some(_)) => {
                    tracing::warn!(service, "the directory says this service's instances again")
                }
                _ => {}
            }
            let below = base.borrow_and_update().clone();
            sender.send_replace(match &next {
                Some((what, _)) => what.over(&below),
                None => below,
            });
            holds = next;
        }
        tokio::select! {
            biased;
            _ = base.changed() => base.mark_changed(),
            _ = overrides.changed() => {}
            () = sender.closed() => return,
        }
    }
}

async fn follow_directory(shared: &Shared, service: &str, sender: &watch::Sender<Discovery>) {
    if let Err(error) = limits::check_name("service", service) {
        sender.send_replace(Discovery::NotReady {
            reason: error.to_string().into(),
        });
        return sender.closed().await;
    }
    let (stored, tried) = shared.read_disk::<ServiceList>(service).await;
    let mut follower = Follower {
        shared,
        service,
        sender,
        good: stored.map(Arc::new),
        kept: ListOrigin::Disk,
        shown: None,
        disk: tried,
        peers: String::new(),
    };
    if let Some(list) = &follower.good {
        shared.uses(Record::List(list.clone()));
    }
    let mut watch = shared.backend.directory.watch(service);
    let deadline = Instant::now() + DISK_AFTER;
    let mut failing = std::pin::pin!(trouble(&shared.backend.directory, Backoff::default()));
    // Whether the directory has said anything of this service; whether it was said that it does not.
    let (mut answered, mut told) = (false, false);
    // What peers are being asked, and why.
    let mut asking: Asking<'_> = None;
    loop {
        tokio::select! {
            biased;
            state = watch.changed() => match state {
                Some(Observed::Present(list)) => { (answered, asking) = (true, None); follower.offered(list); }
                Some(Observed::Absent) => { (answered, asking) = (true, None); follower.absent().await; }
                Some(Observed::Unknown) => {}
                // The backend is closed: what is known stays.
                None => return sender.closed().await,
            },
            (said, reason) = asked(&mut asking) => {
                asking = None;
                follower.peers_said(said, &reason);
            }
            (reason, backoff) = &mut failing, if !answered => {
                told = true;
                failing.set(trouble(&shared.backend.directory, backoff));
                match follower.wants_peers() {
                    true if asking.is_some() => {}
                    true => asking = Some((shared.peers.list(service).boxed(), reason)),
                    false => follower.unreachable(&reason),
                }
            }
            () = sleep_until(deadline), if !answered && !told => {
                told = true;
                let reason = follower.silence();
                match follower.wants_peers() {
                    true => asking = Some((shared.peers.list(service).boxed(), reason)),
                    false => follower.unreachable(&reason),
                }
            }
        }
    }
}

/// What peers are being asked, and why.
type Asking<'a> = Option<(BoxFuture<'a, Said<ServiceList>>, String)>;

/// What peers say, with why they were asked. It never ends while nobody is asked.
async fn asked(asking: &mut Asking<'_>) -> (Said<ServiceList>, String) {
    match asking {
        Some((answer, reason)) => (answer.await, reason.clone()),
        None => std::future::pending().await,
    }
}

struct Follower<'a> {
    shared: &'a Shared,
    service: &'a str,
    sender: &'a watch::Sender<Discovery>,
    /// The last good list; at first that of the disk, which is shown only where the directory does not answer well.
    good: Option<Arc<ServiceList>>,
    /// Where that one is from as long as the directory has shown none.
    kept: ListOrigin,
    /// The origin of what callers see; nothing yet, or not ready.
    shown: Option<ListOrigin>,
    /// What was found on disk and at peers, for messages.
    disk: String,
    peers: String,
}

impl Follower<'_> {
    /// A list from the directory.
    fn offered(&mut self, list: Arc<ServiceList>) {
        if let Err(reason) = judge(self.service, self.good.as_deref(), &list) {
            self.shared.opener.refusals().count(reason.reason());
            tracing::warn!(
                service = self.service,
                %reason,
                "a list is refused; the last good one stays"
            );
            return self.fall_back(&format!("its list is refused: {reason}"));
        }
        if self.shown == Some(ListOrigin::Directory) && self.good.as_deref() == Some(&*list) {
            return;
        }
        self.shared.keep(Record::List(list.clone()));
        self.good = Some(list);
        self.show(ListOrigin::Directory);
    }

    /// The directory answered that there is no list.
    async fn absent(&mut self) {
        match self.good.as_deref().map(is_lost) {
            Some(true) => tracing::warn!(
                service = self.service,
                "the directory lost this service's list; the last good one stays"
            ),
            Some(false) => tracing::info!(
                service = self.service,
                "the directory deleted this service's list, which was empty"
            ),
            None => {}
        }
        let mut reason = "it has no list: no instance of the service has registered there yet".to_owned();
        if self.good.is_none() {
            // Nothing is known that a call could wait for: time to ask whether the namespace is there at all.
            let services = timeout(DISK_AFTER, self.shared.backend.directory.services()).await;
            if let Ok(Err(error)) = services {
                reason = error.to_string();
            }
        }
        self.fall_back(&reason);
    }

    /// Why nothing good has come from the directory in time.
    fn silence(&self) -> String {
        match self.shared.opener.refusals().of(self.service) {
            Some(refusal) => format!("its list is refused: {refusal}"),
            None => format!("no answer within {DISK_AFTER:?}"),
        }
    }

    /// Whether peers are the only ones left to ask.
    fn wants_peers(&self) -> bool {
        self.good.is_none() && !self.shared.peers.is_empty()
    }

    /// The directory gives no good list.
    fn unreachable(&mut self, reason: &str) {
        if self.shown.is_none() && self.good.is_some() {
            tracing::warn!(
                service = self.service,
                reason,
                "the directory gives no list; the disk snapshot is used"
            );
        }
        self.fall_back(reason);
    }

    /// Peers were asked, since the directory gives no good list.
    fn peers_said(&mut self, said: Said<ServiceList>, reason: &str) {
        self.peers = said.tried;
        if let Some(list) = said.found {
            tracing::warn!(
                service = self.service,
                reason,
                version = ?list.order(),
                instances = list.instances.len(),
                "the directory gives no list and the disk has none; a peer's is used"
            );
            let list = Arc::new(list);
            self.shared.keep(Record::List(list.clone()));
            (self.good, self.kept) = (Some(list), ListOrigin::Peer);
        }
        self.fall_back(reason);
    }

    /// Shows the last good list where nothing is shown, or says why there is none.
    fn fall_back(&mut self, reason: &str) {
        match (&self.good, self.shown) {
            (_, Some(_)) => {}
            (Some(_), None) => self.show(self.kept),
            (None, None) => {
                let options = &self.shared.options;
                let peers = match self.peers.is_empty() {
                    true => String::new(),
                    false => format!("; peers: {}", self.peers),
                };
                let reason = format!(
                    "registry {} (namespace `{}`): {reason}; disk: {}{peers}. Start the registry and a provider of the \
                     service, or correct RSF_REGISTRY, RSF_NAMESPACE or the service's name",
                    options.registry, options.namespace, self.disk
                );
                self.sender.send_replace(Discovery::NotReady {
                    reason: reason.into(),
                });
            }
        }
    }

    fn show(&mut self, origin: ListOrigin) {
        if let Some(list) = &self.good {
            self.sender
                .send_replace(Discovery::Ready(Arc::new(converted(list, origin))));
            self.shown = Some(origin);
        }
    }
}

/// Why `offered` may not take the place of `good`; rule R in its first form.
fn judge(service: &str, good: Option<&ServiceList>, offered: &ServiceList) -> Result<(), Refusal> {
    open::check(offered)?;
    if offered.service != service {
        let text = format!("it is of service `{}`", offered.service);
        return Err(Refusal::new(Reason::Invalid, text));
    }
    let Some(good) = good else { return Ok(()) };
    if offered.order() < good.order() && Guard::OlderList.stands() {
        let (offered, known) = (offered.order(), good.order());
        let text = format!("its version {offered:?} is older than {known:?}");
        return Err(Refusal::new(Reason::Older, text));
    }
    if offered.instances.is_empty() && Guard::EmptyList.stands() {
        let removed: HashMap<&str, &Removal> = offered
            .removed
            .iter()
            .map(|removal| (removal.instance.as_str(), removal))
            .collect();
        let unexplained = good.instances.iter().find(|listed| {
            !removed.get(listed.instance.as_str()).is_some_and(|removal| {
                removal.cause() != RemovalCause::Unspecified && removal.incarnation >= listed.incarnation
            })
        });
        if let Some(listed) = unexplained {
            let text = format!("it is empty and does not say why `{}` is gone", listed.instance);
            return Err(Refusal::new(Reason::Emptied, text));
        }
    }
    Ok(())
}

/// Whether the directory lost something where `good` is there no longer. An empty list is deleted after its retention,
/// `pump.list_retention_ms`.
fn is_lost(good: &ServiceList) -> bool {
    !good.instances.is_empty()
}

fn converted(list: &ServiceList, origin: ListOrigin) -> InstanceList {
    let instance = |listed: &crate::record::ListedInstance| Instance {
        id: listed.instance.as_str().into(),
        incarnation: listed.incarnation,
        application: listed.application.as_str().into(),
        address: listed.address.as_str().into(),
        zone: listed.zone.as_str().into(),
        tags: listed
            .tags
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        weight: listed.weight,
        draining: listed.state() == LeaseState::Draining,
    };
    let here = list
        .instances
        .iter()
        .filter(|listed| listed.state() != LeaseState::Deregistered);
    InstanceList {
        version: list.order(),
        origin,
        instances: here.map(instance).collect(),
        gone: gone(list),
    }
}

/// Who is gone for certain. Whose lease ran out, or who is missing without a word, may still answer.
fn gone(list: &ServiceList) -> HashMap<Arc<str>, u64> {
    let certain = |removal: &&Removal| {
        matches!(
            removal.cause(),
            RemovalCause::Deregistered | RemovalCause::Evicted
        )
    };
    let mut gone = HashMap::new();
    for removal in list.removed.iter().filter(certain) {
        let last = gone.entry(removal.instance.as_str().into()).or_default();
        *last = removal.incarnation.max(*last);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ListVersion, ListedInstance};

    fn list(version: (u64, u64), instances: &[&str], removed: &[(&str, u64)]) -> ServiceList {
        let listed = |name: &&str| ListedInstance {
            instance: (*name).into(),
            incarnation: 10,
            address: "127.0.0.1:1".into(),
            weight: 100,
            ..Default::default()
        };
        let removal = |&(name, incarnation): &(&str, u64)| Removal {
            instance: name.into(),
            incarnation,
            cause: RemovalCause::Expired.into(),
            at_unix_ms: 1,
        };
        ServiceList {
            service: "s.S".into(),
            version: Some(ListVersion {
                epoch: version.0,
                sequence: version.1,
            }),
            written_unix_ms: 1,
            instances: instances.iter().map(listed).collect(),
            removed: removed.iter().map(removal).collect(),
            hold: None,
        }
    }

    #[test]
    fn what_replaces_a_good_list() {
        let good = list((5, 5), &["a", "b"], &[]);
        let cases = [
            (list((5, 6), &["a"], &[]), Ok(())),
            (list((5, 5), &["a", "b"], &[]), Ok(())),
            (list((6, 1), &["c"], &[]), Ok(())),
            (list((5, 4), &["a", "b"], &[]), Err("older")),
            (list((4, 9), &["a", "b"], &[]), Err("older")),
            (list((5, 6), &[], &[]), Err("empty")),
            (list((5, 6), &[], &[("a", 10)]), Err("`b`")),
            (list((5, 6), &[], &[("a", 10), ("b", 9)]), Err("`b`")),
            (list((5, 6), &[], &[("a", 10), ("b", 11)]), Ok(())),
            (list((5, 6), &["a", "a"], &[]), Err("twice")),
        ];
        for (offered, expected) in cases {
            let found = judge("s.S", Some(&good), &offered);
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{offered:?}"),
                Err(reason) => assert!(
                    found
                        .as_ref()
                        .is_err_and(|refusal| refusal.to_string().contains(reason)),
                    "{reason}: {found:?}"
                ),
            }
        }
        assert_eq!(judge("s.S", None, &list((1, 1), &[], &[])), Ok(()));
        judge("s.T", None, &list((1, 1), &[], &[])).expect_err("another service");
    }

    #[test]
    fn only_a_list_with_instances_is_lost_when_it_is_gone() {
        assert!(is_lost(&list((5, 5), &["a"], &[])));
        assert!(!is_lost(&list((5, 6), &[], &[("a", 10)])));
    }

    #[test]
    fn invalid_lists_are_refused_whole() {
        type Damage = fn(&mut ServiceList);
        let damages: [(&str, Damage); 5] = [
            ("weight", |list| list.instances[1].weight = 10_001),
            ("address", |list| list.instances[1].address = "nowhere".into()),
            ("no address", |list| list.instances[1].address.clear()),
            ("no version", |list| list.version = None),
            ("too many", |list| {
                list.instances = vec![ListedInstance::default(); 20_001]
            }),
        ];
        for (what, damage) in damages {
            let mut offered = list((5, 6), &["a", "b"], &[]);
            damage(&mut offered);
            judge("s.S", None, &offered).expect_err(what);
        }
    }
}
