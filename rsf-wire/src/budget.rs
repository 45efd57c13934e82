//! Bytes that connections hold for their peers, counted for each of them and for the process.

use std::sync::atomic::{AtomicUsize, Ordering};

/// All of them together.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes of one kind that one connection holds; given back when it ends.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: AtomicUsize,
    most: usize,
    most_of_all: usize,
}

impl Held {
    /// At most `most` here, and `most_of_all` in the process.
    pub(crate) fn new(most: usize, most_of_all: usize) -> Self {
        Held {
            bytes: AtomicUsize::new(0),
            most,
            most_of_all,
        }
    }

    /// Takes `bytes` more; `false`, and nothing taken, where that passes a limit.
    pub(crate) fn grow(&self, bytes: usize) -> bool {
        let fits = self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.most
            && HELD.load(Ordering::Relaxed).saturating_add(bytes) <= self.most_of_all;
        if fits {
            self.keep(bytes);
        }
        fits
    }

    /// Takes `bytes` more that are there already, whatever the limits say.
    pub(crate) fn keep(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives `bytes` back, as far as they were taken.
    pub(crate) fn shrink(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let taken = |held: usize| Some(held.saturating_sub(bytes));
        let held = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        HELD.fetch_sub(bytes.min(held.unwrap_or_default()), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.shrink(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_here_and_everywhere_and_given_back() {
        let all = 1 << 40;
        let one = Held::new(100, all);
        assert!(one.grow(60) && one.grow(40) && !one.grow(1));
        one.shrink(10);
        assert!(one.grow(10));
        one.shrink(1_000);
        assert!(one.grow(100));
        // A limit that is met by what stands already, whoever holds it.
        assert!(!Held::new(100, 50).grow(1));
        drop(one);
        assert!(Held::new(100, all).grow(100));
    }
}
