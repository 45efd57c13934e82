//! The choice of an endpoint.
//!
//! Endpoints that are connected and not broken come first, then the others in order of hope; an ejected one whose time
//! is over gets one trial; where all are broken, all serve. Within a tier policy's balancer decides:
//!
//! 1. [`vitals`]: what is measured of an endpoint, one cache line each; [`aged`]: values that fade.
//! 2. [`score`]: what that is worth at one pick.
//! 3. [`candidates`]: the best of all below 16 members, else the better of two drawn by weight from an [`alias`] table:
//!    `least_pending`, `random`, `peak_ewma`.
//! 4. [`round_robin`], [`consistent_hash`], [`custom`]: the others.
//! 5. [`explain`]: the same for people.

mod aged;
mod vitals;

mod alias;
mod candidates;
mod consistent_hash;
mod custom;
mod explain;
mod round_robin;
mod score;

use std::sync::Arc;
use std::time::Duration;

use super::breaker::Standing;
use super::endpoint::Endpoint;
use crate::moment::Moment;
use crate::policy::{Balance, CallRules};

pub use custom::{Balancer, Balancers, Candidates};
pub use explain::{CandidateView, FirstPick};
pub(crate) use vitals::{Observed, Vitals};

use alias::Alias;
use candidates::{Drawn, is_tried};
use consistent_hash::Ring;
use round_robin::Stride;
use score::{Measure, Median, Score};

/// From this many endpoints on, two candidates are drawn instead of looking at all.
const SCAN_BELOW: usize = 16;

/// The endpoints that a call may go to, with their weights and the balancer that chooses.
pub(crate) struct Pool {
    members: Vec<Member>,
    alias: Alias,
    chooser: Chooser,
    median: Median,
    warm_up: Duration,
    bounded_load_percent: u32,
    avoids: bool,
}

/// What a pending call counts of a member of weight 1. All weights up to 16 divide it, so that members are as much loaded as
/// each other where they are.
const CALL: u32 = 720_720 * 4096;

/// An endpoint and its share.
#[derive(Clone)]
pub(crate) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    /// What one pending call counts: a part of [`CALL`].
    per_call: u32,
}

impl Member {
    pub(super) fn new(endpoint: Arc<Endpoint>, weight: u32) -> Self {
        Member {
            endpoint,
            weight,
            per_call: CALL / weight.max(1),
        }
    }
}

/// The balancer, with what it needs built when the snapshot is.
enum Chooser {
    LeastPending,
    Random,
    RoundRobin(Stride),
    ConsistentHash(Ring),
    PeakEwma,
    Custom(Arc<dyn Balancer>),
}

/// Order of hope, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Its time of ejection is over: one trial is due. Before the well ones, or it would never come back; while the
    /// trial runs, nobody else sees it as due.
    Trial,
    /// Connected, and not broken.
    Well,
    /// Not connected yet.
    Unknown,
    /// The last attempt to connect failed.
    Unreachable,
    /// Ejected.
    Broken,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Trial => "trial",
            Tier::Well => "well",
            Tier::Unknown => "unknown",
            Tier::Unreachable => "unreachable",
            Tier::Broken => "broken",
        }
    }
}

impl Pool {
    /// A pool that is balanced as `rules` say. A balancer that `balancers` does not have is replaced by `least_pending`;
    /// who builds the snapshot says so (see [`unregistered`]).
    pub(super) fn new(members: Vec<Member>, rules: &CallRules, balancers: &Balancers) -> Self {
        let weights: Vec<_> = members.iter().map(|member| member.weight).collect();
        let chooser = match &rules.balance {
            Balance::LeastPending => Chooser::LeastPending,
            Balance::Random => Chooser::Random,
            Balance::RoundRobin => Chooser::RoundRobin(Stride::new(&weights)),
            Balance::ConsistentHash => Chooser::ConsistentHash(Ring::new(&members)),
            Balance::PeakEwma => Chooser::PeakEwma,
            Balance::Custom(name) => match balancers.get(name) {
                Some(balancer) => Chooser::Custom(balancer.clone()),
                None => Chooser::LeastPending,
            },
        };
        Pool {
            alias: Alias::new(&weights),
            members,
            chooser,
            median: Median::default(),
            warm_up: Duration::from_millis(rules.warm_up.duration_ms),
            bounded_load_percent: rules.hash.bounded_load_percent,
            avoids: !rules.node_breaker.enabled,
        }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Chooses an endpoint, one that is not in `tried` where there is one. `key` is the hash of the routing key.
    #[inline(always)]
    pub(crate) fn pick(
        &self,
        key: Option<u64>,
        tried: &[Arc<Endpoint>],
        now: Moment,
    ) -> Option<Arc<Endpoint>> {
        if self.members.is_empty() {
            return None;
        }
        let measure = self.measure(now);
        let now = measure.now;
        let chosen = match &self.chooser {
            Chooser::LeastPending => self.least_pending(tried, &measure),
            Chooser::Random => self.random(tried, &measure),
            Chooser::RoundRobin(stride) => self.round_robin(stride, tried, &measure),
            Chooser::ConsistentHash(ring) => match key {
                Some(key) => {
                    let may = |endpoint: &Arc<Endpoint>| {
                        endpoint.keep_connected();
                        !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
                    };
                    ring.pick(&self.members, key, self.bounded_load_percent, now, may)
                }
                None => self.random(tried, &measure),
            },
            Chooser::PeakEwma => self.peak_ewma(tried, &measure),
            Chooser::Custom(balancer) => {
                let candidates = Candidates::new(&self.members, tried, measure);
                let place = balancer.pick(&candidates, key);
                place.and_then(|place| candidates.member(place))
            }
        };
        let pending = |member: &Member| measure.pending_by_lot(member);
        chosen
            .or_else(|| self.best_of_all(tried, now, pending))
            // Where all have been tried, one of them once more.
            .or_else(|| self.best_of_all(&[], now, pending))
            .map(|member| member.endpoint.clone())
    }

    #[inline(always)]
    fn least_pending(&self, tried: &[Arc<Endpoint>], measure: &Measure) -> Option<&Member> {
        if tried.is_empty() {
            if self.members.len() < SCAN_BELOW {
                if let Some(member) = self.least_of_plain(measure) {
                    return Some(member);
                }
            } else if let Drawn::Chosen(member) = self.lesser_of_two(measure) {
                return Some(member);
            }
        }
        self.best_of_all(tried, measure.now, |member| measure.pending_by_lot(member))
    }

    /// Two draws in short lists too: the least latency of all would go to one and the same instance while its peak
    /// lasts elsewhere.
    fn peak_ewma(&self, tried: &[Arc<Endpoint>], measure: &Measure) -> Option<&Member> {
        let score = |member: &Member| measure.peak(member);
        if tried.is_empty()
            && let Drawn::Chosen(member) = self.better_of_two(measure.now, [], score)
        {
            return Some(member);
        }
        self.best_of_all(tried, measure.now, score)
    }

    fn random(&self, tried: &[Arc<Endpoint>], measure: &Measure) -> Option<&Member> {
        if tried.is_empty() {
            for _ in 0..4 {
                let (tier, member) = self.drawn(measure.now, None, None)?;
                let vitals = &member.endpoint.vitals;
                if tier == Tier::Trial || self.accepts(vitals, measure) {
                    return Some(member);
                }
            }
        }
        let by_lot = |member: &Member| Score {
            value: measure.failing(&member.endpoint.vitals),
            quality: measure.quality(&member.endpoint.vitals),
        };
        self.best_of_all(tried, measure.now, by_lot)
    }

    fn round_robin(&self, stride: &Stride, tried: &[Arc<Endpoint>], measure: &Measure) -> Option<&Member> {
        for _ in 0..self.members.len().min(SCAN_BELOW) {
            let member = &self.members[stride.next()];
            member.endpoint.keep_connected();
            if is_tried(member, tried) {
                continue;
            }
            match tier(&member.endpoint, measure.now) {
                Tier::Trial => return Some(member),
                Tier::Well if self.accepts(&member.endpoint.vitals, measure) => return Some(member),
                _ => {}
            }
        }
        None
    }

    /// Whether a member whose turn it is takes it: not while it fails, and seldom while it is loaded or new.
    fn accepts(&self, vitals: &Vitals, measure: &Measure) -> bool {
        let quality = measure.quality(vitals);
        !measure.is_failing(vitals) && (quality >= 1.0 || fastrand::f32() < quality)
    }

    #[inline(always)]
    fn measure(&self, now: Moment) -> Measure {
        let (median, slow_from) = self.median.get(&self.members, now);
        Measure {
            now,
            median,
            slow_from,
            warm_up: self.warm_up,
            avoids: self.avoids,
        }
    }
}

/// The balancer that `rules` name and `balancers` does not have.
pub(super) fn unregistered<'a>(rules: &'a CallRules, balancers: &Balancers) -> Option<&'a str> {
    match &rules.balance {
        Balance::Custom(name) if balancers.get(name).is_none() => Some(name),
        _ => None,
    }
}

fn tier(endpoint: &Endpoint, now: Moment) -> Tier {
    match endpoint.breaker.standing(now) {
        Standing::Open => Tier::Broken,
        Standing::HalfOpen if endpoint.is_connected() => Tier::Trial,
        Standing::Closed if endpoint.is_connected() => Tier::Well,
        _ if endpoint.is_unreachable() => Tier::Unreachable,
        _ => Tier::Unknown,
    }
}
