//! What a member is worth at one pick.
//!
//! Two kinds of knowledge count in two ways. *Soft* knowledge (reported load, warm-up, some failures) scales the member's
//! weight: it gets a smaller share, idle or not. *Hard* knowledge (failing again and again, slowness) counts as pending
//! calls that are not there: an instance that fails at once has none of its own and would draw everything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::client::endpoint::Endpoint;
use crate::moment::Moment;

use super::Member;
use super::vitals::{Glance, LOAD_STEPS, Vitals};

/// Share of failures from which on an endpoint is avoided: six in a row. Before that the node breaker opens, by default;
/// an endpoint that is avoided earlier would never give it the failures that it counts.
const FAILING: f32 = 0.45;
/// Pending calls that an endpoint where everything fails counts as.
const FAILING_PENALTY: f32 = 1000.0;
/// An endpoint is slow from this multiple of the median on, and by at least this many microseconds.
const SLOW_RATIO: f32 = 3.0;
const SLOW_MICROS: f32 = 1000.0;
/// Answers before a latency means anything.
const SAMPLES: u32 = 5;
/// What failures leave of a share at least.
const LEAST_SHARE: f32 = 0.1;
/// A new instance's share at first.
const FIRST_SHARE: f32 = 0.1;
/// A new instance that answers within this multiple of the median is warm.
const WARM_RATIO: f32 = 1.5;
/// The multiple of its weight's worth that a full queue can cost an instance.
const GREATEST_LOAD: f32 = 8.0;

/// What members are measured by at one pick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure {
    pub(super) now: Moment,
    /// Of the members' mean latencies, microseconds; 0 where nothing was measured.
    pub(super) median: f32,
    /// The mean latency beyond which a member is slow, microseconds.
    pub(super) slow_from: f32,
    /// Within which a new instance comes to its full share.
    pub(super) warm_up: Duration,
    /// Whether failing endpoints are avoided here: where no breaker leaves them alone, which would never see the
    /// failures that it counts.
    pub(super) avoids: bool,
}

/// The lesser the better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    pub(super) value: f32,
    /// Part of its weight that the member is to have where scores are equal.
    pub(super) quality: f32,
}

/// The mean latency beyond which a member is slow beside this median.
fn slow_from(median: f32) -> f32 {
    match median {
        0.0 => f32::INFINITY,
        median => (median * SLOW_RATIO).max(median + SLOW_MICROS),
    }
}

impl Measure {
    /// Pending calls per weight.
    pub(super) fn pending(&self, member: &Member) -> Score {
        let vitals = &member.endpoint.vitals;
        let (pending, quality, penalty) = (
            vitals.pending() as f32,
            self.quality(vitals),
            self.failing(vitals) + self.slow(vitals),
        );
        Score {
            value: (pending + (pending + 1.0) * penalty) / (member.weight as f32 * quality),
            quality,
        }
    }

    /// All that a choice looks at where members are plain.
    #[inline(always)]
    pub(super) fn glance(&self, endpoint: &Endpoint) -> Glance {
        endpoint.vitals.glance(endpoint.breaker.trouble())
    }

    /// Whether all that have been glanced at are well and have their full share, so that pending calls are all that counts.
    #[inline(always)]
    pub(super) fn is_plain(&self, glance: &Glance) -> bool {
        glance.is_plain(self.slow_from)
    }

    /// Pending calls per weight, for one choice. An idle member that fails or refuses counts as idle only as often as its failures leave of
    /// its share, else as if a call were pending: nothing is ever pending where everything fails at once, and it would
    /// draw each call that finds the others busy.
    pub(super) fn pending_by_lot(&self, member: &Member) -> Score {
        let vitals = &member.endpoint.vitals;
        if vitals.has_its_share(self.slow_from) {
            return Score {
                value: vitals.pending() as f32 / member.weight as f32,
                quality: 1.0,
            };
        }
        let score = self.pending(member);
        let well = self.well(vitals);
        if well >= 1.0 || score.value > 0.0 {
            return score;
        }
        let quality = score.quality / well;
        let value = match fastrand::f32() < well {
            true => 0.0,
            false => 1.0 / (member.weight as f32 * score.quality),
        };
        Score { value, quality }
    }

    /// Peak latency × calls per weight. What was never measured counts as the median, so that it is tried.
    pub(super) fn peak(&self, member: &Member) -> Score {
        let vitals = &member.endpoint.vitals;
        let quality = self.quality(vitals);
        let latency = match vitals.samples() {
            // Nothing but failures so far, maybe before there is any median.
            0 if self.failing(vitals) > 0.0 => self.median.max(SLOW_MICROS),
            0 => self.median,
            _ => vitals.peak(self.now),
        };
        let calls = (vitals.pending() as f32 + 1.0) * (1.0 + self.failing(vitals));
        Score {
            value: latency.max(1.0) * calls / (member.weight as f32 * quality),
            quality,
        }
    }

    /// Whether an endpoint is to be avoided where another one is at hand.
    pub(super) fn is_failing(&self, vitals: &Vitals) -> bool {
        self.avoids && vitals.failures(self.now) > FAILING
    }

    /// What reported load, failures and warm-up leave of a weight: above 0, at most 1.
    pub(super) fn quality(&self, vitals: &Vitals) -> f32 {
        let load = vitals.load(self.now);
        let share = self.warm_up(vitals) * self.well(vitals);
        if load == 0.0 {
            return share;
        }
        let steps = (load * LOAD_STEPS + 0.5) as u32;
        share / (1.0 + steps as f32 / LOAD_STEPS).min(GREATEST_LOAD)
    }

    /// What failures leave of a share.
    fn well(&self, vitals: &Vitals) -> f32 {
        let well = 1.0 - vitals.failures(self.now);
        (well * well).max(LEAST_SHARE)
    }

    /// The part of its share that a new instance has by now.
    pub(super) fn warm_up(&self, vitals: &Vitals) -> f32 {
        let Some(age) = vitals.warming(self.now) else {
            return 1.0;
        };
        let fast = vitals.samples() >= 2 * SAMPLES && vitals.mean() <= self.median * WARM_RATIO;
        if fast || age >= self.warm_up {
            vitals.end_warm_up();
            return 1.0;
        }
        (age.as_secs_f32() / self.warm_up.as_secs_f32()).max(FIRST_SHARE)
    }

    /// Failures, in pending calls.
    pub(super) fn failing(&self, vitals: &Vitals) -> f32 {
        let excess = vitals.failures(self.now) - FAILING;
        if excess <= 0.0 || !self.avoids {
            return 0.0;
        }
        FAILING_PENALTY * excess / (1.0 - FAILING)
    }

    /// Slowness, in pending calls: idle, a slow instance looks as good as the others.
    pub(super) fn slow(&self, vitals: &Vitals) -> f32 {
        if vitals.mean() <= self.slow_from || vitals.samples() < SAMPLES {
            return 0.0;
        }
        // A new one is slow by nature, and becomes fast by calls alone: its small share is all that holds it back.
        if vitals.warming(self.now).is_some() {
            return 0.0;
        }
        let latency = vitals.faded_mean(self.now);
        if latency <= self.slow_from {
            return 0.0;
        }
        latency / self.median - 1.0
    }
}

/// The median latency of a pool's members, renewed by whoever picks when it is old.
#[derive(Debug)]
pub(super) struct Median {
    /// Bits of two `f32`, microseconds: in the lower half the median, in the upper half what is slow beside it.
    micros: AtomicU64,
    /// The millisecond when it is to be renewed.
    due: AtomicU64,
}

/// How long a median holds.
const RENEWED: Duration = Duration::from_millis(250);
/// Of longer lists so many members are looked at.
const LOOKED_AT: usize = 64;

impl Median {
    /// The median, and the mean latency beyond which a member is slow.
    #[inline(always)]
    pub(super) fn get(&self, members: &[Member], now: Moment) -> (f32, f32) {
        let due = self.due.load(Relaxed);
        if now.millis() >= due {
            self.renew(members, now, due);
        }
        let micros = self.micros.load(Relaxed);
        (
            f32::from_bits(micros as u32),
            f32::from_bits((micros >> 32) as u32),
        )
    }

    #[cold]
    fn renew(&self, members: &[Member], now: Moment, due: u64) {
        let next = now.millis() + RENEWED.as_millis() as u64;
        if self.due.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            let median = median(members);
            let slow = u64::from(slow_from(median).to_bits());
            self.micros
                .store(slow << 32 | u64::from(median.to_bits()), Relaxed);
        }
    }
}

impl Default for Median {
    fn default() -> Self {
        Median {
            micros: AtomicU64::new(u64::from(slow_from(0.0).to_bits()) << 32),
            due: AtomicU64::new(0),
        }
    }
}

/// Of two middle ones the lower, so that of two instances the slow one is the slow one.
fn median(members: &[Member]) -> f32 {
    let step = members.len().div_ceil(LOOKED_AT).max(1);
    let first = fastrand::usize(..step);
    let mut seen = [0.0; LOOKED_AT];
    let mut count = 0;
    for member in members.iter().skip(first).step_by(step).take(LOOKED_AT) {
        let vitals = &member.endpoint.vitals;
        if vitals.samples() > 0 {
            seen[count] = vitals.mean();
            count += 1;
        }
    }
    if count == 0 {
        return 0.0;
    }
    let seen = &mut seen[..count];
    *seen.select_nth_unstable_by((count - 1) / 2, f32::total_cmp).1
}
