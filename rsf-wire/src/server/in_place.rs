//! How long handlers are polled in the connection's own task before the rest of what came become tasks at once.
//!
//! A handler that has its answer at once is cheapest where its request was read. One that computes delays all that came
//! with it, and keeps a connection's calls on one core. Which of both it is only the clock can tell, and that is read ever
//! less often in a batch, as long as handlers are short.

use std::time::Duration;

use tokio::time::Instant;

/// Handlers between two looks at the clock at most.
const STRIDE: u32 = 8;
/// A handler that takes no longer, its request's reading included, costs less than a task would; it takes from no budget.
const SHORT: Duration = Duration::from_micros(8);

/// The budget of one connection.
#[derive(Debug)]
pub(super) struct InPlace {
    budget: Duration,
    /// What is left of it in this turn of the connection.
    left: Duration,
    /// When the clock was read last in this batch.
    looked: Option<Instant>,
    /// Handlers between two looks by now.
    stride: u32,
    /// Those until the next one.
    unseen: u32,
}

impl InPlace {
    pub(super) fn new(budget: Duration) -> Self {
        InPlace {
            budget,
            left: budget,
            looked: None,
            stride: 1,
            unseen: 0,
        }
    }

    /// The connection has its turn.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.left = self.budget;
    }

    /// It has read, perhaps not for the first time in its turn. How long that took is no handler's fault.
    #[inline]
    pub(super) fn begin_batch(&mut self) {
        (self.looked, self.stride, self.unseen) = (None, 1, 0);
    }

    /// Whether the next handler is polled in place.
    #[inline]
    pub(super) fn allows(&mut self) -> bool {
        if self.unseen > 0 {
            self.unseen -= 1;
            return true;
        }
        self.look()
    }

    #[inline(never)]
    fn look(&mut self) -> bool {
        if self.left.is_zero() {
            return false;
        }
        let now = Instant::now();
        if let Some(looked) = self.looked {
            let took = now.saturating_duration_since(looked);
            if took <= SHORT * self.stride {
                self.stride = STRIDE.min(2 * self.stride);
            } else {
                self.stride = 1;
                self.left = self.left.saturating_sub(took);
            }
        }
        self.looked = Some(now);
        if self.left.is_zero() {
            return false;
        }
        self.unseen = self.stride - 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a batch of handlers that take so many milliseconds are polled in place.
    async fn in_place(budget: &mut InPlace, milliseconds: &[u64]) -> usize {
        budget.begin_batch();
        let mut count = 0;
        for took in milliseconds {
            if budget.allows() {
                count += 1;
                tokio::time::advance(Duration::from_millis(*took)).await;
            }
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_holds_for_a_turn_and_only_long_handlers_use_it() {
        let mut budget = InPlace::new(Duration::from_millis(10));
        assert_eq!(in_place(&mut budget, &[0; 100]).await, 100);
        assert_eq!(in_place(&mut budget, &[2; 3]).await, 3);
        assert_eq!(in_place(&mut budget, &[2; 100]).await, 3, "it is the same turn");
        assert_eq!(in_place(&mut budget, &[0; 100]).await, 0);
        budget.begin_turn();
        assert_eq!(in_place(&mut budget, &[2; 100]).await, 5);
        budget.begin_turn();
        assert_eq!(in_place(&mut budget, &[20; 100]).await, 1);
        budget.begin_turn();
        let late = [vec![0; 40], vec![20; 60]].concat();
        let count = in_place(&mut budget, &late).await;
        assert!((41..=40 + STRIDE as usize).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_budget_nothing_is_polled_in_place() {
        assert_eq!(in_place(&mut InPlace::new(Duration::ZERO), &[0; 9]).await, 0);
    }
}
