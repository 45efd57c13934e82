//! Balancers of the application's own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::score::Measure;
use super::{Member, candidates::is_tried, tier};
use crate::client::endpoint::Endpoint;
use crate::control::Instance;

/// Chooses an instance, where a policy says `"balance": "custom:<name>"` and the application has registered this one under
/// that name.
///
/// It runs once for each attempt, on the calling thread: it must not block, and what it remembers must be shared by
/// threads. RSF leaves it only instances that are equally fit: connected and not broken where there are some, and none
/// that this call has tried before.
///
/// ```
/// use rsf_core::client::{Balancer, Candidates};
///
/// /// The instance with the least latency, however many calls it has already.
/// struct Fastest;
///
/// impl Balancer for Fastest {
///     fn pick(&self, candidates: &Candidates<'_>, _key: Option<u64>) -> Option<usize> {
///         candidates.iter().min_by_key(|place| candidates.latency(*place))
///     }
/// }
///
/// let balancers = rsf_core::client::Balancers::new().with("fastest", Fastest);
/// # assert!(balancers.get("fastest").is_some());
/// ```
pub trait Balancer: Send + Sync + 'static {
    /// A place below [`Candidates::len`]. `None`, or a place that is none, leaves the choice to `least_pending`. `key` is
    /// the hash of the call's routing key, the same in all processes, where it has one.
    fn pick(&self, candidates: &Candidates<'_>, key: Option<u64>) -> Option<usize>;
}

/// The application's balancers by name.
#[derive(Clone, Default)]
pub struct Balancers(HashMap<String, Arc<dyn Balancer>>);

impl Balancers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more; an earlier one of that name goes. Names have 1 to 64 letters, digits, `_`, `-`, `.`; policies cannot
    /// name others.
    #[must_use]
    pub fn with(mut self, name: &str, balancer: impl Balancer) -> Self {
        self.0.insert(name.to_owned(), Arc::new(balancer));
        self
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Balancer>> {
        self.0.get(name)
    }
}

impl fmt::Debug for Balancers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The instances that a [`Balancer`] chooses among, by place.
pub struct Candidates<'a> {
    members: Vec<&'a Member>,
    measure: Measure,
}

impl<'a> Candidates<'a> {
    /// The members of the best tier that are not in `tried`.
    pub(super) fn new(members: &'a [Member], tried: &[Arc<Endpoint>], measure: Measure) -> Self {
        let mut best = None;
        let mut fit = Vec::with_capacity(members.len());
        for member in members.iter().filter(|member| !is_tried(member, tried)) {
            member.endpoint.keep_connected();
            let tier = tier(&member.endpoint, measure.now);
            if best.is_none_or(|best| tier < best) {
                fit.clear();
                best = Some(tier);
            }
            if best == Some(tier) {
                fit.push(member);
            }
        }
        Candidates {
            members: fit,
            measure,
        }
    }

    pub(super) fn member(&self, place: usize) -> Option<&'a Member> {
        self.members.get(place).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All places.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.members.len()
    }

    /// Who stands at `place`, as the registry lists it.
    ///
    /// # Panics
    /// Like the others, where there is no such place.
    pub fn instance(&self, place: usize) -> &Instance {
        &self.members[place].endpoint.instance
    }

    /// Its share after policy, 1 to 10 000.
    pub fn weight(&self, place: usize) -> u32 {
        self.members[place].weight
    }

    /// Calls under way to it from this process.
    pub fn pending(&self, place: usize) -> u32 {
        self.members[place].endpoint.pending()
    }

    /// Its mean latency over about ten seconds; zero where nothing was measured.
    pub fn latency(&self, place: usize) -> Duration {
        Duration::from_secs_f32(self.members[place].endpoint.vitals.mean() / 1e6)
    }

    /// The share of failures and refusals among its latest answers, 0 to 1.
    pub fn failures(&self, place: usize) -> f32 {
        self.members[place].endpoint.vitals.failures(self.measure.now)
    }

    /// The load that it reported within the last ten seconds, 1 is full; 0 where it reported none.
    pub fn load(&self, place: usize) -> f32 {
        self.members[place].endpoint.vitals.load(self.measure.now)
    }

    /// The part of its share that it has by now: below 1 while it is new.
    pub fn warm_up(&self, place: usize) -> f32 {
        self.measure.warm_up(&self.members[place].endpoint.vitals)
    }

    /// What `least_pending` goes by; the lesser the better.
    pub fn score(&self, place: usize) -> f32 {
        self.measure.pending(self.members[place]).value
    }

    /// When this pick happens, for those who keep times.
    pub fn now(&self) -> Instant {
        self.measure.now.instant()
    }
}
