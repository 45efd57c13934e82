//! A measured value with its age, in one word, so that readers never see one without the other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Time in which a measurement fades to 1/e (Finagle's Peak-EWMA has the same).
pub(super) const DECAY: Duration = Duration::from_secs(10);

/// A value (as the bits of an `f32`) and the millisecond when it was set.
#[derive(Debug, Default)]
pub(super) struct Aged(AtomicU64);

impl Aged {
    #[inline(always)]
    pub(super) fn set(&self, value: f32, at: u32) {
        self.0
            .store(u64::from(value.to_bits()) << 32 | u64::from(at), Relaxed);
    }

    #[inline(always)]
    pub(super) fn bits(&self) -> u64 {
        self.0.load(Relaxed) >> 32
    }

    /// The whole word. Words of greater values are greater: the bits of positive numbers are in the order of the numbers.
    #[inline(always)]
    pub(super) fn word(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Whether a [`word`](Aged::word)'s value is above this one.
    #[inline(always)]
    pub(super) fn is_word_above(word: u64, value: f32) -> bool {
        word >= (u64::from(value.to_bits()) + 1) << 32
    }

    #[inline(always)]
    pub(super) fn is_above(&self, value: f32) -> bool {
        Aged::is_word_above(self.word(), value)
    }

    pub(super) fn get(&self) -> f32 {
        f32::from_bits(self.bits() as u32)
    }

    #[inline(always)]
    pub(super) fn age(&self, at: u32) -> u32 {
        let age = at.wrapping_sub(self.0.load(Relaxed) as u32);
        // Set by somebody who read the clock a moment later.
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// The share that is left after its age.
    #[inline(always)]
    pub(super) fn kept(&self, at: u32) -> f32 {
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
    pub(super) fn faded(&self, at: u32) -> f32 {
        self.get() * self.kept(at)
    }
}
