//! A budget of bytes for the large request bodies that a process holds at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies up to this many bytes are free. They come before their calls meet pool and queue: what bounds them is the time
/// that a body may take to come, and the connections and streams that a port allows (`ServerOptions`).
pub(crate) const FREE_BYTES: usize = 64 * 1024;

/// Bytes that may be held, and bytes that are.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    most: AtomicUsize,
    held: AtomicUsize,
}

/// A body's part of the budget; it returns on drop.
#[derive(Debug)]
pub struct BodyPlace(Arc<BodyBudget>, usize);

impl BodyBudget {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(BodyBudget {
            most: AtomicUsize::new(usize::MAX),
            held: AtomicUsize::new(0),
        })
    }

    pub(crate) fn set(&self, bytes: usize) {
        self.most.store(bytes, Ordering::Relaxed);
    }

    /// A body's part, which holds nothing yet.
    pub(crate) fn place(self: &Arc<Self>) -> BodyPlace {
        BodyPlace(self.clone(), 0)
    }
}

impl BodyPlace {
    /// Makes the part cover `bytes`. A budget smaller than one body still takes one at a time.
    ///
    /// # Errors
    /// The bytes that others hold, where these would be too many.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), usize> {
        let BodyPlace(budget, own) = self;
        let (more, most) = (bytes.saturating_sub(*own), budget.most.load(Ordering::Relaxed));
        let fits = |held: usize| (held == *own || held.saturating_add(more) <= most).then_some(held + more);
        match budget
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => {
                *own += more;
                Ok(())
            }
            Err(held) => Err(held - *own),
        }
    }
}

impl Drop for BodyPlace {
    fn drop(&mut self) {
        self.0.held.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back() {
        let budget = BodyBudget::new();
        budget.set(100);
        let (mut first, mut second) = (budget.place(), budget.place());
        first.grow(50).unwrap();
        first.grow(60).unwrap();
        assert_eq!(second.grow(60), Err(60));
        second.grow(40).unwrap();
        assert_eq!(first.grow(61), Err(40));
        drop((first, second));
        let mut large = budget.place();
        large.grow(500).unwrap();
        assert_eq!(budget.place().grow(1), Err(500));
        drop(large);
        assert_eq!(budget.place().grow(100), Ok(()));
    }
}
