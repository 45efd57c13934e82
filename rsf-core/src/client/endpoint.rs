//! A consumer's connection to one instance, with its breaker and what was measured of it.

mod keeper;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Shared;
use super::balance::{Observed, Vitals};
use super::breaker::{BreakerGroup, NodeBreaker};
use crate::control::{Instance, Seen};
use crate::moment::Moment;
use crate::policy::ConnectionsRules;
use crate::wire::{ConnectError, Connection};

/// How old a refusal may be: longer than the pauses between attempts, where policy leaves them as they are.
const REFUSED_LATELY: Duration = Duration::from_secs(15);

/// A future for a connection that is not there yet.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Arc<Linked>, ConnectError>> + Send>>;

/// One instance as this process reaches it. It outlives snapshots as long as the instance stays the same.
///
/// What a choice looks at stands first, in one cache line: in long lists each look is a miss. Behind it is what is left of the
/// breaker, and in the third line the connection, which a call takes once it has chosen.
#[repr(C, align(128))]
pub(crate) struct Endpoint {
    /// Pending calls, and what the balancer goes by.
    pub(crate) vitals: Vitals,
    /// Its first word is the last one of the first line.
    pub(super) breaker: NodeBreaker,
    /// Locked for as long as it takes to count one holder more: less than what a snapshot's list of readers costs, and every call
    /// writes to this endpoint's lines anyway.
    connection: Mutex<Option<Arc<Linked>>>,
    /// A [`Place`].
    place: AtomicU8,
    pub(crate) instance: Instance,
    link: watch::Sender<Link>,
    /// Rung by a call that waits for a connection, and when the endpoint's place has changed.
    wanted: Arc<Notify>,
    /// What policy says of the service's connections.
    rules: watch::Receiver<ConnectionsRules>,
    /// `namespace/instance` of a registered instance; `None` in static lists, where whoever answers is meant.
    target: Option<HeaderValue>,
    shared: Weak<Shared>,
}

/// What is being done for a connection.
mod effort {
    /// Nothing: no call and no floor has asked for one yet.
    pub(super) const NONE: u8 = 0;
    /// There is one, or it is being made.
    pub(super) const ACTIVE: u8 = 1;
    /// It was closed because nobody used it; who wants it rings.
    pub(super) const ASLEEP: u8 = 2;
}

/// What a service's endpoints share and take over from one snapshot to the next.
#[derive(Clone)]
pub(crate) struct EndpointGroup {
    pub(super) breakers: Arc<BreakerGroup>,
    pub(super) connections: Arc<watch::Sender<ConnectionsRules>>,
}

/// How much an endpoint is worth to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In no pool: outside the subset, draining, disabled, or no longer listed. Its connection closes soon.
    Outside = 0,
    /// Calls may choose it. Its connection closes when it is idle for long.
    Member = 1,
    /// Its connection is made ahead and kept.
    Floor = 2,
}

/// A connection, and whether its peer has proven to be the instance that the list names.
pub(super) struct Linked {
    pub(super) connection: Arc<dyn Connection>,
    verified: AtomicBool,
}

impl Linked {
    /// The peer has answered a call that named it.
    #[inline(always)]
    pub(super) fn verify(&self) {
        if !self.verified.load(Ordering::Relaxed) {
            self.verified.store(true, Ordering::Relaxed);
        }
    }
}

/// The connection's story so far.
#[derive(Clone, Default)]
struct Link {
    /// Rises with each attempt to connect that ended.
    tries: u64,
    /// Why the last one failed; `None` where it did not, or there was none.
    failure: Option<ConnectError>,
    /// The first and the last of the attempts that were refused since there was a connection, where no other came between.
    refused: Option<(Instant, Instant)>,
    /// The peer of an earlier connection has proven to be the instance.
    proven: bool,
}

impl Endpoint {
    pub(super) fn new(shared: &Arc<Shared>, instance: Instance, group: &EndpointGroup) -> Arc<Self> {
        // Static lists name no incarnation: whoever answers there is meant.
        let target = (instance.incarnation != 0)
            .then(|| HeaderValue::from_str(&format!("{}/{}", shared.namespace, instance.id)).ok())
            .flatten();
        Arc::new(Endpoint {
            breaker: NodeBreaker::new(group.breakers.clone()),
            vitals: Vitals::default(),
            connection: Mutex::default(),
            link: watch::Sender::new(Link::default()),
            wanted: Arc::default(),
            place: AtomicU8::new(Place::Member as u8),
            rules: group.connections.subscribe(),
            target,
            shared: Arc::downgrade(shared),
            instance,
        })
    }

    /// Whether this endpoint can stand for `instance` in a new snapshot. Weight, zone and tags are the snapshot's.
    pub(super) fn is_for(&self, instance: &Instance) -> bool {
        self.instance.id == instance.id
            && self.instance.incarnation == instance.incarnation
            && self.instance.address == instance.address
    }

    /// Counts a call among the pending ones, until [`Endpoint::leave`].
    #[inline(always)]
    pub(super) fn enter(&self) {
        // Mostly set already; it lies in the line that is written next, and a look at it costs less than one more store in order.
        let used = &self.vitals.used;
        if !used.load(Ordering::Relaxed) {
            used.store(true, Ordering::SeqCst);
        }
        self.vitals.enter();
    }

    #[inline(always)]
    pub(super) fn leave(&self) {
        self.vitals.leave();
    }

    pub(super) fn pending(&self) -> u32 {
        self.vitals.pending()
    }

    /// Tells the balancer what an attempt that took `latency` says about the instance.
    pub(super) fn observe(&self, now: Moment, latency: Duration, observed: Observed) {
        self.vitals.observe(now, latency, observed);
    }

    #[inline(always)]
    pub(super) fn connection(&self) -> Option<Arc<Linked>> {
        self.connection.lock().clone()
    }

    #[inline(always)]
    pub(super) fn is_connected(&self) -> bool {
        self.vitals.is_connected()
    }

    /// Whether there is reason to believe that the instance lives, whatever the registry says: its connection holds, and
    /// calls on it do not fail.
    pub(super) fn still_answers(&self) -> bool {
        self.is_connected() && self.breaker.is_closed()
    }

    /// What its connections tell of a registered instance; `None` where that is nothing: no call has been answered yet, or
    /// there is silence, which a partition looks like too.
    pub(super) fn seen(&self, now: Instant) -> Option<Seen> {
        self.target.as_ref()?;
        if self.is_connected() {
            let proven = self
                .connection()
                .is_some_and(|linked| linked.verified.load(Ordering::Relaxed));
            return (proven && self.breaker.is_closed()).then_some(Seen::Answers);
        }
        let link = self.link.borrow();
        let (first, last) = link.refused.filter(|_| link.proven)?;
        (now < last + REFUSED_LATELY).then(|| Seen::Refuses {
            lasting: last.saturating_duration_since(first),
        })
    }

    /// Whether the last attempt to connect failed.
    pub(super) fn is_unreachable(&self) -> bool {
        self.link.borrow().failure.is_some()
    }

    /// Begins to connect, unless that has begun.
    pub(super) fn keep_connected(self: &Arc<Self>) {
        match self.vitals.effort.load(Ordering::Relaxed) {
            effort::ACTIVE => {}
            effort::ASLEEP => self.wanted.notify_one(),
            _ => self.begin(),
        }
    }

    fn begin(self: &Arc<Self>) {
        let (none, active) = (effort::NONE, effort::ACTIVE);
        let begins = self
            .vitals
            .effort
            .compare_exchange(none, active, Ordering::Relaxed, Ordering::Relaxed);
        if begins.is_ok()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.runtime.handle().spawn(keeper::keep_connected(self));
        }
    }

    /// Says what the endpoint is worth from now on.
    pub(super) fn set_place(self: &Arc<Self>, place: Place) {
        if self.place.swap(place as u8, Ordering::Relaxed) != place as u8
            && self.vitals.effort.load(Ordering::Relaxed) == effort::ACTIVE
        {
            self.wanted.notify_one();
        }
        if place == Place::Floor {
            self.keep_connected();
        }
    }

    fn place(&self) -> Place {
        match self.place.load(Ordering::Relaxed) {
            0 => Place::Outside,
            1 => Place::Member,
            _ => Place::Floor,
        }
    }

    fn is_at(&self, place: Place) -> bool {
        self.place() == place
    }

    /// The next connection, or why there is none. Cuts a pause between attempts short.
    pub(super) fn connecting(self: &Arc<Self>) -> Connecting {
        self.keep_connected();
        let endpoint = self.clone();
        let mut link = self.link.subscribe();
        // Read before the bell is rung: an attempt that ends in between is the one that was asked for.
        let before = link.borrow().tries;
        self.wanted.notify_one();
        Box::pin(async move {
            if let Some(connection) = endpoint.connection() {
                return Ok(connection);
            }
            let gone = |reason: &str| ConnectError {
                address: endpoint.instance.address.clone(),
                reason: reason.to_owned(),
                refused: false,
            };
            let ended = link.wait_for(|link| link.tries > before).await;
            let failure = ended.map_err(|_| gone("the endpoint is gone"))?.failure.clone();
            match (endpoint.connection(), failure) {
                (Some(connection), _) => Ok(connection),
                (None, Some(failure)) => Err(failure),
                (None, None) => Err(gone("the connection closed as soon as it was made")),
            }
        })
    }

    /// `namespace/instance`, until the peer of that connection has proven to be it.
    #[inline(always)]
    pub(super) fn target_to_verify(&self, linked: &Linked) -> Option<&HeaderValue> {
        if linked.verified.load(Ordering::Relaxed) {
            None
        } else {
            self.target.as_ref()
        }
    }

    pub(super) fn connected(&self, connection: Arc<dyn Connection>) {
        let verified = AtomicBool::new(self.target.is_none());
        let linked = Arc::new(Linked { connection, verified });
        self.link_to(Some(linked));
        self.vitals.set_connected(true);
        self.link.send_modify(|link| {
            link.tries += 1;
            link.failure = None;
            link.refused = None;
        });
    }

    fn disconnected(&self) {
        self.vitals.set_connected(false);
        self.link_to(None);
    }

    fn link_to(&self, linked: Option<Arc<Linked>>) {
        let before = std::mem::replace(&mut *self.connection.lock(), linked);
        let proven = before
            .as_ref()
            .is_some_and(|before| before.verified.load(Ordering::Relaxed));
        // Outside the lock: the end of a connection may run anything.
        drop(before);
        if proven {
            // Nobody waits for that.
            self.link.send_if_modified(|link| {
                link.proven = true;
                false
            });
        }
    }

    fn failed(&self, error: ConnectError) {
        let now = Instant::now();
        self.link.send_modify(|link| {
            link.tries += 1;
            let first = link.refused.map_or(now, |(first, _)| first);
            link.refused = error.refused.then_some((first, now));
            link.failure = Some(error);
        });
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Its keeper may sleep; it ends now.
        self.wanted.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of};

    use super::*;

    #[test]
    fn what_a_choice_looks_at_is_in_one_cache_line() {
        assert_eq!((offset_of!(Endpoint, vitals), align_of::<Endpoint>()), (0, 128));
        // The breaker's first word is the one that a choice reads.
        assert!(offset_of!(Endpoint, breaker) < 64);
        // And what a call takes once it has chosen is in the third, as a whole.
        let connection = offset_of!(Endpoint, connection);
        let end = connection + size_of::<Mutex<Option<Arc<Linked>>>>();
        assert!(connection >= 128 && end <= 192, "{connection} to {end}");
    }
}
