//! What a choice goes by: what a consumer has measured of one endpoint, in one cache line that no other endpoint shares.
//!
//! All values are atomics without a lock: an update that races with another one may be lost, which moving averages bear.
//! What a choice looks at of each member is in two words: its pending calls with all that is known of it beside them, and
//! its mean latency.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Relaxed};
use std::time::Duration;

use super::aged::Aged;
use crate::moment::{Moment, nanos};

/// How much one outcome moves the failure score.
const FAILURE_STEP: f32 = 0.1;
/// Age at which a reported load says nothing any more.
const LOAD_STALE: Duration = Duration::from_secs(10);
/// Steps in which a reported load counts: without them the smallest difference would send every consumer's next call to
/// one and the same instance.
pub(super) const LOAD_STEPS: f32 = 8.0;
/// The least load that counts.
const LEAST_LOAD: f32 = 0.5 / LOAD_STEPS;

/// What may be known of an endpoint that a choice has to weigh; above the bits of its pending calls.
mod known {
    /// There is no connection.
    pub(super) const UNCONNECTED: u64 = 1 << 32;
    /// Some of its latest outcomes were failures.
    pub(super) const FAILING: u64 = 1 << 33;
    /// It has reported a load that counts.
    pub(super) const LOADED: u64 = 1 << 34;
    /// It is new.
    pub(super) const WARMING: u64 = 1 << 35;
    /// What changes its share.
    pub(super) const WEIGHED: u64 = FAILING | LOADED | WARMING;
}

/// What an attempt says about its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// It answered, be it with the application's own error.
    Answered,
    /// It failed, or was silent for too long.
    Failed,
    /// It was silent while another attempt of the call succeeded.
    Overtaken,
    /// It refused before the handler. Not ill, but who refuses fast must not draw more for it.
    Refused,
}

/// One endpoint's measurements.
///
/// The beginning of an endpoint's first cache line; the rest of the line is the breaker's first word.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// Pending calls in the lower half, what is [`known`] in the upper.
    glance: AtomicU64,
    /// 0 to 1: the share of failures among the latest outcomes; fades with time.
    failures: Aged,
    /// Mean latency, microseconds.
    mean: Aged,
    /// Latency that rises at once and falls slowly, microseconds.
    peak: Aged,
    /// Reported load, 1 is full.
    load: Aged,
    /// 0: has its full share. Else the millisecond when it started, from [`LONG_AGO`] on.
    warming: AtomicU64,
    /// Answers that had a latency, up to `u32::MAX`.
    samples: AtomicU32,
    /// What is being done for a connection; the endpoint's, and here because each draw looks at it.
    pub(in crate::client) effort: AtomicU8,
    /// A call has come since the endpoint's keeper last looked. Here because each call looks at it.
    pub(in crate::client) used: AtomicBool,
}

/// Milliseconds before which nothing that is still new has started.
const LONG_AGO: u64 = 1 << 40;

/// What a choice looks at of one member, or of several: whether pending calls are all that counts, and of one how many.
#[derive(Debug, Default)]
pub(super) struct Glance {
    /// [`Vitals::glance`]; of several, all bits of theirs.
    known: u64,
    /// The greatest mean latency, as [`Aged`] keeps it.
    mean: u64,
    /// The breakers'.
    trouble: u8,
}

impl Glance {
    #[inline(always)]
    pub(super) fn add(&mut self, other: &Glance) {
        self.known |= other.known;
        self.mean = self.mean.max(other.mean);
        self.trouble |= other.trouble;
    }

    /// The pending calls of one; more where something else is known.
    #[inline(always)]
    pub(super) fn pending(&self) -> u64 {
        self.known
    }

    /// Whether nothing else counts: connected, without trouble, with the full share, and not slow.
    #[inline(always)]
    pub(super) fn is_plain(&self, slow_from: f32) -> bool {
        self.known >> 32 | u64::from(self.trouble) == 0 && !Aged::is_word_above(self.mean, slow_from)
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Vitals {
            glance: AtomicU64::new(known::UNCONNECTED),
            failures: Aged::default(),
            mean: Aged::default(),
            peak: Aged::default(),
            load: Aged::default(),
            warming: AtomicU64::new(0),
            samples: AtomicU32::new(0),
            effort: AtomicU8::new(0),
            used: AtomicBool::new(false),
        }
    }
}

impl Vitals {
    /// From now on the instance is new: it has been running for `age`.
    pub(crate) fn begin_warm_up(&self, now: Moment, age: Duration) {
        let now = LONG_AGO + now.millis();
        self.warming
            .store(now.saturating_sub(age.as_millis() as u64).max(1), Relaxed);
        self.tell(known::WARMING, || self.warming.load(Relaxed) != 0);
    }

    /// As if it had been made at `now`, of an instance that starts at that moment.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn begin_warm_up_at(&mut self, now: Moment) {
        *self = Vitals {
            glance: AtomicU64::new(self.glance.load(Relaxed) & known::UNCONNECTED),
            effort: AtomicU8::new(self.effort.load(Relaxed)),
            ..Vitals::default()
        };
        self.begin_warm_up(now, Duration::ZERO);
    }

    /// Whether there is a connection.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        self.glance.load(Relaxed) & known::UNCONNECTED == 0
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        match connected {
            true => self.glance.fetch_and(!known::UNCONNECTED, Relaxed),
            false => self.glance.fetch_or(known::UNCONNECTED, Relaxed),
        };
    }

    /// What a choice looks at. `trouble` is the breaker's, 0 where there is none.
    #[inline(always)]
    pub(super) fn glance(&self, trouble: u8) -> Glance {
        Glance {
            known: self.glance.load(Relaxed),
            mean: self.mean.word(),
            trouble,
        }
    }

    /// Whether nothing is known that changes its share, connected or not.
    #[inline(always)]
    pub(crate) fn has_its_share(&self, slow_from: f32) -> bool {
        self.glance.load(Relaxed) & known::WEIGHED == 0 && !self.mean.is_above(slow_from)
    }

    /// Makes a bit of what is [`known`] say what `is` says, after a change of that and whoever else changes it meanwhile: the
    /// last one to write the bit looks again.
    #[cold]
    fn tell(&self, bit: u64, is: impl Fn() -> bool) {
        loop {
            let told = is();
            match told {
                true => self.glance.fetch_or(bit, AcqRel),
                false => self.glance.fetch_and(!bit, AcqRel),
            };
            if is() == told {
                return;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn enter(&self) {
        self.glance.fetch_add(1, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        self.glance.fetch_sub(1, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn pending(&self) -> u32 {
        self.glance.load(Relaxed) as u32
    }

    /// Takes in what an attempt that took `latency` says.
    pub(crate) fn observe(&self, now: Moment, latency: Duration, observed: Observed) {
        self.observe_nanos(now, nanos(latency), observed);
    }

    /// The same with the latency in nanoseconds.
    #[inline(always)]
    pub(crate) fn observe_nanos(&self, now: Moment, latency: u64, observed: Observed) {
        let at = at(now);
        let failed = observed != Observed::Answered;
        let before = match self.failures.get() {
            0.0 => 0.0,
            _ => self.failures.faded(at),
        };
        if failed || before > 0.0 {
            let target = if failed { 1.0 } else { 0.0 };
            let after = before + FAILURE_STEP * (target - before);
            // Small enough to be nothing, so that a well endpoint's score is exactly nothing again.
            self.failures.set(if after < 0.001 { 0.0 } else { after }, at);
            self.tell(known::FAILING, || self.failures.get() != 0.0);
        }
        let micros = (latency as f32 / 1e3).max(0.1);
        match observed {
            Observed::Answered => self.timed(micros, at),
            // At least that long, and maybe for ever: who never answers has no other latency.
            // Where the mean is longer, it is as true as it was.
            Observed::Overtaken => self.timed(micros.max(self.mean()), at),
            // The answer would have taken longer still. Fast failures and refusals say nothing about the speed.
            Observed::Failed if self.samples() > 0 && micros > self.mean() => self.timed(micros, at),
            Observed::Failed | Observed::Refused => {}
        }
    }

    #[inline(always)]
    fn timed(&self, micros: f32, at: u32) {
        let samples = self.samples.load(Relaxed);
        if samples < u32::MAX {
            self.samples.store(samples + 1, Relaxed);
        }
        // Mean and peak are of one age.
        let (mean, faded) = (self.mean.get(), self.mean.kept(at));
        // The first few count alike; later ones by the time since the last.
        let kept = faded.min(samples as f32 / (samples as f32 + 1.0));
        self.mean.set(mean * kept + micros * (1.0 - kept), at);
        let (peak, kept) = (self.peak.get(), faded);
        let peak = if micros >= peak {
            micros
        } else {
            peak * kept + micros * (1.0 - kept)
        };
        self.peak.set(peak, at);
    }

    /// Takes in a reported load; 1 is full.
    pub(crate) fn report_load(&self, now: Moment, load: f32) {
        if load.is_finite() && load >= 0.0 {
            self.load.set(load.min(1000.0), at(now));
            self.tell(known::LOADED, || self.load.get() >= LEAST_LOAD);
        }
    }

    /// The share of failures among the latest outcomes, 0 to 1; fades with time, so that the endpoint is tried again.
    pub(crate) fn failures(&self, now: Moment) -> f32 {
        match self.failures.get() {
            0.0 => 0.0,
            _ => self.failures.faded(at(now)),
        }
    }

    /// The mean latency in microseconds, 0 where nothing was measured. Does not fade.
    #[inline(always)]
    pub(crate) fn mean(&self) -> f32 {
        self.mean.get()
    }

    /// The mean latency as far as it is still news.
    pub(crate) fn faded_mean(&self, now: Moment) -> f32 {
        self.mean.faded(at(now))
    }

    /// The peak latency in microseconds, faded; 0 where nothing was measured.
    pub(crate) fn peak(&self, now: Moment) -> f32 {
        self.peak.faded(at(now))
    }

    /// How many answers the latencies stand on.
    pub(crate) fn samples(&self) -> u32 {
        self.samples.load(Relaxed)
    }

    /// The load that the instance reported lately; 0 where none did.
    pub(crate) fn load(&self, now: Moment) -> f32 {
        match self.load.get() {
            0.0 => 0.0,
            load if self.load.age(at(now)) <= LOAD_STALE.as_millis() as u32 => load,
            _ => 0.0,
        }
    }

    /// Time since the instance started, while it is new.
    pub(crate) fn warming(&self, now: Moment) -> Option<Duration> {
        match self.warming.load(Relaxed) {
            0 => None,
            started => {
                let now = LONG_AGO + now.millis();
                Some(Duration::from_millis(now.saturating_sub(started)))
            }
        }
    }

    pub(crate) fn end_warm_up(&self) {
        self.warming.store(0, Relaxed);
        self.tell(known::WARMING, || self.warming.load(Relaxed) != 0);
    }
}

/// A millisecond as values keep it; wraps after 49 days.
fn at(now: Moment) -> u32 {
    now.millis() as u32
}

#[cfg(test)]
mod tests;
