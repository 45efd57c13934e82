//! What a choice goes by: what a consumer has measured of one endpoint, in one cache line that no other endpoint shares.
//!
//! All values are atomics without a lock: an update that races with another one may be lost, which moving averages bear.
//! Values that age keep their time beside them in one word, so that readers never see one without the other.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::moment::{Moment, nanos};

/// Time in which a measurement fades to 1/e (Finagle's Peak-EWMA has the same).
const DECAY: Duration = Duration::from_secs(10);
/// How much one outcome moves the failure score.
const FAILURE_STEP: f32 = 0.1;
/// Age at which a reported load says nothing any more.
const LOAD_STALE: Duration = Duration::from_secs(10);

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
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    pending: AtomicU32,
    /// Answers that had a latency, up to `u32::MAX`.
    samples: AtomicU32,
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
    /// 0 without a connection, else 1.
    connected: AtomicU8,
    /// What is being done for a connection; the endpoint's, and here because each draw looks at it.
    pub(in crate::client) effort: AtomicU8,
    /// A call has come since the endpoint's keeper last looked. Here because each call looks at it.
    pub(in crate::client) used: AtomicBool,
}

/// Milliseconds before which nothing that is still new has started.
const LONG_AGO: u64 = 1 << 40;

impl Vitals {
    /// From now on the instance is new: it has been running for `age`.
    pub(crate) fn begin_warm_up(&self, now: Moment, age: Duration) {
        let now = LONG_AGO + now.millis();
        self.warming
            .store(now.saturating_sub(age.as_millis() as u64).max(1), Relaxed);
    }

    /// As if it had been made at `now`, of an instance that starts at that moment.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn begin_warm_up_at(&mut self, now: Moment) {
        *self = Vitals {
            connected: AtomicU8::new(self.connected.load(Relaxed)),
            effort: AtomicU8::new(self.effort.load(Relaxed)),
            ..Vitals::default()
        };
        self.begin_warm_up(now, Duration::ZERO);
    }

    /// Whether there is a connection.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Relaxed) != 0
    }

    /// The opposite as a number: 0 where there is one.
    #[inline(always)]
    pub(crate) fn unconnected(&self) -> u8 {
        self.connected.load(Relaxed) ^ 1
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected.into(), Relaxed);
    }

    /// Whether nothing is known of it that changes its share: it does not fail, reports a load below `least`, is not new, and
    /// its mean latency is not above `slow_from`. `unwell` is what else must be 0: one question more is cheaper here than a branch of
    /// its own.
    #[inline(always)]
    pub(crate) fn is_plain(&self, unwell: u8, least: f32, slow_from: f32) -> bool {
        let known = self.failures.bits() | self.warming.load(Relaxed) | u64::from(unwell);
        known == 0 && self.load.is_below(least) && !self.mean.is_above(slow_from)
    }

    #[inline(always)]
    pub(crate) fn enter(&self) {
        self.pending.fetch_add(1, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Relaxed)
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
            // A negative zero becomes the other one, by whose bits it is read.
            self.load.set(load.min(1000.0) + 0.0, at(now));
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
    }
}

/// A millisecond as values keep it; wraps after 49 days.
fn at(now: Moment) -> u32 {
    now.millis() as u32
}

/// A value (as the bits of an `f32`) and the millisecond when it was set.
#[derive(Debug, Default)]
struct Aged(AtomicU64);

impl Aged {
    #[inline(always)]
    fn set(&self, value: f32, at: u32) {
        self.0
            .store(u64::from(value.to_bits()) << 32 | u64::from(at), Relaxed);
    }

    #[inline(always)]
    fn bits(&self) -> u64 {
        self.0.load(Relaxed) >> 32
    }

    // The bits of positive numbers are in the order of the numbers, so no number has to be made of them.

    #[inline(always)]
    fn is_below(&self, value: f32) -> bool {
        self.0.load(Relaxed) < u64::from(value.to_bits()) << 32
    }

    #[inline(always)]
    fn is_above(&self, value: f32) -> bool {
        self.0.load(Relaxed) >= (u64::from(value.to_bits()) + 1) << 32
    }

    fn get(&self) -> f32 {
        f32::from_bits(self.bits() as u32)
    }

    #[inline(always)]
    fn age(&self, at: u32) -> u32 {
        let age = at.wrapping_sub(self.0.load(Relaxed) as u32);
        // Set by somebody who read the clock a moment later.
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// The share that is left after its age.
    #[inline(always)]
    fn kept(&self, at: u32) -> f32 {
        match self.age(at) {
            0 => 1.0,
            // The first terms of the series: right to five digits, and a call that follows the last one closely is the rule.
            age if age < DECAY.as_millis() as u32 / 10 => {
                let x = age as f32 / DECAY.as_millis() as f32;
                1.0 - x + x * x * (0.5 - x / 6.0)
            }
            age => (-(age as f32) / DECAY.as_millis() as f32).exp(),
        }
    }

    #[inline(always)]
    fn faded(&self, at: u32) -> f32 {
        self.get() * self.kept(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn failures_rise_with_failures_and_fade_with_time_and_answers() {
        let now = Moment::now();
        let vitals = Vitals::default();
        vitals.observe(now, ms(1), Observed::Answered);
        assert_eq!(vitals.failures(now), 0.0);
        for _ in 0..20 {
            vitals.observe(now, ms(1), Observed::Failed);
        }
        let risen = vitals.failures(now);
        assert!(risen > 0.85, "{risen}");
        let faded = vitals.failures(now + DECAY);
        assert!((faded / risen - 0.368).abs() < 0.01, "{faded}");
        for _ in 0..80 {
            vitals.observe(now, ms(1), Observed::Answered);
        }
        assert_eq!(vitals.failures(now), 0.0);
    }

    #[test]
    fn a_peak_counts_at_once_and_the_mean_follows() {
        let mut now = Moment::now();
        let vitals = Vitals::default();
        for _ in 0..100 {
            now = now + ms(100);
            vitals.observe(now, ms(10), Observed::Answered);
        }
        vitals.observe(now, ms(500), Observed::Answered);
        assert_eq!(vitals.peak(now), 500_000.0);
        assert!(vitals.mean() < 15_000.0, "{}", vitals.mean());
        for _ in 0..300 {
            now = now + ms(100);
            vitals.observe(now, ms(500), Observed::Answered);
        }
        assert!(vitals.mean() > 450_000.0, "{}", vitals.mean());
        assert!(vitals.faded_mean(now + ms(30_000)) < 30_000.0);
    }

    #[test]
    fn fast_failures_are_not_taken_for_speed() {
        let now = Moment::now();
        let vitals = Vitals::default();
        vitals.observe(now, ms(10), Observed::Answered);
        vitals.observe(now, Duration::ZERO, Observed::Refused);
        vitals.observe(now, Duration::ZERO, Observed::Failed);
        assert_eq!(vitals.mean(), 10_000.0);
    }

    #[test]
    fn a_load_goes_stale_and_nonsense_is_not_taken() {
        let now = Moment::now();
        let vitals = Vitals::default();
        vitals.report_load(now, 0.75);
        vitals.report_load(now, f32::NAN);
        vitals.report_load(now, -1.0);
        let other = Vitals::default();
        other.report_load(now, -0.0);
        assert!(
            other.is_plain(0, 0.1, f32::INFINITY),
            "a negative nothing is nothing"
        );
        assert_eq!(vitals.load(now + LOAD_STALE), 0.75);
        assert_eq!(vitals.load(now + LOAD_STALE + ms(1)), 0.0);
    }
}
