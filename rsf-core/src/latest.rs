//! A value that every call reads and that is replaced now and then.
//!
//! A reader counts itself as one more holder, under a lock that its thread shares with few others and that nobody holds for
//! longer than that takes. Where threads are no more than copies it costs one exchange of a word that no other core holds.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::thread_number::thread_number;

/// Copies of the pointer at most, however many threads there are: each has a cache line.
const MOST_COPIES: usize = 8;

/// The latest value; nothing before the first.
pub(crate) struct Latest<T> {
    /// As many as a power of two.
    copies: Box<[Copy<T>]>,
    /// Held by the one who replaces the value, so that all copies end up the same.
    replacing: Mutex<()>,
}

/// One copy of the pointer, in a cache line of its own.
#[repr(align(64))]
struct Copy<T>(Mutex<Option<Arc<T>>>);

impl<T> Latest<T> {
    /// Without a value.
    pub(crate) fn empty() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let copies = threads.next_power_of_two().min(MOST_COPIES);
        Latest {
            copies: (0..copies).map(|_| Copy(Mutex::default())).collect(),
            replacing: Mutex::default(),
        }
    }

    /// The value that holds now. No thread reads an older one after a newer one; a task that changes threads may, while the
    /// value is replaced.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.copies[thread_number() & (self.copies.len() - 1)]
            .0
            .lock()
            .clone()
    }

    /// Replaces the value. When this returns, every thread reads the new one; before, some do already.
    pub(crate) fn set(&self, value: Arc<T>) {
        let _replacing = self.replacing.lock();
        for copy in &self.copies {
            let before = copy.0.lock().replace(value.clone());
            // Outside the lock: the end of a value may take its time.
            drop(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn every_thread_reads_what_has_been_set_and_none_goes_back() {
        let latest = Latest::empty();
        assert_eq!(latest.get(), None);
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    let mut seen = 0;
                    while !over.load(Ordering::Relaxed) {
                        let now = latest.get().map_or(0, |value| *value);
                        assert!(now >= seen, "{now} after {seen}");
                        seen = now;
                        std::thread::yield_now();
                    }
                });
            }
            for value in 1..=100 {
                latest.set(Arc::new(value));
                assert_eq!(latest.get().as_deref(), Some(&value));
                let read = || latest.get().map(|value| *value);
                assert_eq!(threads.spawn(read).join().unwrap(), Some(value));
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_value_that_is_replaced_ends_when_nobody_holds_it_any_more() {
        let latest = Latest::empty();
        let first = Arc::new(1);
        latest.set(first.clone());
        let held = latest.get();
        latest.set(Arc::new(2));
        assert_eq!(Arc::strong_count(&first), 2);
        drop(held);
        assert_eq!(Arc::strong_count(&first), 1);
    }
}
