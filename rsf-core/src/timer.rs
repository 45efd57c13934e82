//! Coarse timers: many are set, nearly all are cancelled before their time.
//!
//! Each call has a deadline that almost never passes. A timer of the runtime would cost it about a thousand
//! instructions; here setting and cancelling are a few dozen, since a timer is a place in a list ([`blocks`]) that only a
//! task of its own looks at, when the first of them can be due. Timers fire at most two milliseconds late, never early, and
//! follow tokio's clock, paused or not.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::moment::Moment;
use crate::thread_number::thread_number;

mod blocks;

use blocks::{Blocks, Place};

/// The timers of one runtime, in shards, so that its threads rarely meet. Clones share them.
#[derive(Clone)]
pub(crate) struct Timers {
    /// As many as a power of two.
    shards: Arc<[Arc<Shard>]>,
}

struct Shard {
    begun: Moment,
    state: Mutex<State>,
    /// Rung where a timer is due before the driver would look, and at the end.
    earlier: Arc<Notify>,
}

struct State {
    waiting: Blocks<Waker>,
    /// The tick at which the driver looks next; `u64::MAX` while it only waits to be rung.
    looks_at: u64,
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers")
            .field("shards", &self.shards.len())
            .finish()
    }
}

impl Timers {
    /// Timers whose driver runs on `runtime`, for as long as anybody holds them.
    pub(crate) fn start(runtime: &tokio::runtime::Handle, shards: usize) -> Timers {
        let _timers = runtime.enter();
        let shards = (0..shards.next_power_of_two()).map(|_| {
            let shard = Arc::new(Shard {
                begun: Moment::now(),
                state: Mutex::new(State {
                    waiting: Blocks::new(),
                    looks_at: u64::MAX,
                }),
                earlier: Arc::default(),
            });
            runtime.spawn(drive(Arc::downgrade(&shard), shard.earlier.clone()));
            shard
        });
        Timers {
            shards: shards.collect(),
        }
    }

    /// A timer for `at`. It is set when it is first polled.
    #[inline(always)]
    pub(crate) fn at(&self, at: Moment) -> Timer {
        Timer {
            shard: self.shards[thread_number() & (self.shards.len() - 1)].clone(),
            at,
            place: None,
        }
    }
}

/// Waits until a moment. Dropped, it is cancelled.
pub(crate) struct Timer {
    shard: Arc<Shard>,
    at: Moment,
    place: Option<Place>,
}

impl Timer {
    /// The moment it waits for.
    pub(crate) fn moment(&self) -> Moment {
        self.at
    }

    /// Another moment instead.
    pub(crate) fn reset(&mut self, at: Moment) {
        self.cancel();
        self.at = at;
    }

    /// Whether the moment has come. Once it has, the timer stays there until it is reset.
    #[inline(always)]
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.place {
            Some(place) => self.poll_again(place, cx),
            None => {
                self.set(cx);
                Poll::Pending
            }
        }
    }

    #[inline(always)]
    fn set(&mut self, cx: &Context<'_>) {
        let tick = self.shard.tick_of(self.at);
        let waker = cx.waker().clone();
        let mut state = self.shard.state.lock();
        self.place = Some(state.waiting.insert(tick, waker));
        let earlier = tick < state.looks_at;
        if earlier {
            state.looks_at = tick;
        }
        drop(state);
        if earlier {
            self.shard.earlier.notify_one();
        }
    }

    #[cold]
    fn poll_again(&self, place: Place, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shard.state.lock();
        match state.waiting.get(place) {
            // The driver has taken it out: its time has come.
            None => Poll::Ready(()),
            Some(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
            Some(waker) => {
                let replaced = std::mem::replace(waker, cx.waker().clone());
                // Outside the lock: the end of a waker may run anything.
                drop(state);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    #[inline(always)]
    fn cancel(&mut self) {
        if let Some(place) = self.place.take() {
            let waker = self.shard.state.lock().waiting.remove(place);
            // Outside the lock: a waker may run anything.
            drop(waker);
        }
    }
}

/// Waits until `time`; for ever where there is none. For what is rarely set: a timer of the runtime.
pub(crate) async fn at_or_never(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The future's outcome, or nothing where `at` comes first. Where both are there, the outcome wins.
pub(crate) async fn until<F: Future>(timers: &Timers, at: Moment, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    // Only where it is needed: most handlers are done when they are first polled.
    let mut timer = None;
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => timer.get_or_insert_with(|| timers.at(at)).poll(cx).map(|()| None),
    })
    .await
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Shard {
    /// The first tick that is not before `at`.
    #[inline(always)]
    fn tick_of(&self, at: Moment) -> u64 {
        // One more, because a tick's moment is its beginning.
        at.nanos_since(self.begun) / 1_000_000 + 1
    }

    /// Wakes all whose time has come and returns when to look next.
    fn fire(&self, due: &mut Vec<(u64, Waker)>) -> Option<Moment> {
        let since = Moment::now().since(self.begun);
        let next = {
            let mut state = self.state.lock();
            let next = state.waiting.advance(since.as_millis() as u64, due);
            state.looks_at = next.unwrap_or(u64::MAX);
            next
        };
        // Outside the lock: a waker may run anything.
        due.drain(..).for_each(|(_, waker)| waker.wake());
        next.map(|tick| self.begun + Duration::from_millis(tick))
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.earlier.notify_one();
    }
}

/// Fires what is due, until nobody holds the shard any more.
async fn drive(shard: Weak<Shard>, earlier: Arc<Notify>) {
    let mut due = Vec::new();
    loop {
        let Some(held) = shard.upgrade() else { return };
        let next = held.fire(&mut due);
        drop(held);
        match next {
            Some(moment) => drop(tokio::time::timeout_at(moment.instant(), earlier.notified()).await),
            None => earlier.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wait(timer: &mut Timer) {
        std::future::poll_fn(|cx| timer.poll(cx)).await;
    }

    fn timers() -> Timers {
        Timers::start(&tokio::runtime::Handle::current(), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_at_its_time_and_never_before() {
        let timers = timers();
        for milliseconds in [0, 1, 2, 255, 256, 257, 1000, 65_535, 65_536, 3_600_000] {
            let begun = Moment::now();
            let wanted = Duration::from_millis(milliseconds);
            wait(&mut timers.at(begun + wanted)).await;
            let took = Moment::now().since(begun);
            assert!(took >= wanted, "{took:?} for {milliseconds} ms");
            assert!(
                took <= wanted + Duration::from_millis(2),
                "{took:?} for {milliseconds} ms"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_one_is_not_kept_waiting_by_a_later_one() {
        let timers = timers();
        let begun = Moment::now();
        let mut later = timers.at(begun + Duration::from_secs(100));
        let mut earlier = timers.at(begun + Duration::from_millis(10));
        tokio::select! {
            () = wait(&mut later) => panic!("the later one"),
            () = wait(&mut earlier) => {}
        }
        assert!(Moment::now().since(begun) < Duration::from_millis(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_reset_waits_again() {
        let timers = timers();
        let begun = Moment::now();
        let mut timer = timers.at(begun + Duration::from_millis(5));
        wait(&mut timer).await;
        wait(&mut timer).await;
        timer.reset(begun + Duration::from_millis(50));
        wait(&mut timer).await;
        assert!(Moment::now().since(begun) >= Duration::from_millis(50));
    }

    /// Notes whether the shard was free when the waker ended.
    struct Looking(Arc<Shard>, Arc<std::sync::atomic::AtomicBool>);

    impl std::task::Wake for Looking {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Looking {
        fn drop(&mut self) {
            let free = self.0.state.try_lock().is_some();
            self.1.store(free, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waker_that_is_replaced_ends_outside_the_lock() {
        let timers = timers();
        let mut timer = timers.at(Moment::now() + Duration::from_secs(1));
        let free = Arc::default();
        let waker = Waker::from(Arc::new(Looking(timers.shards[0].clone(), Arc::clone(&free))));
        assert!(timer.poll(&Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert!(timer.poll(&Context::from_waker(Waker::noop())).is_pending());
        assert!(free.load(std::sync::atomic::Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_one_leaves_nothing_behind() {
        let timers = timers();
        let shard = Arc::downgrade(&timers.shards[0]);
        for _ in 0..1000 {
            let mut timer = timers.at(Moment::now() + Duration::from_secs(3));
            assert!(futures_util::poll!(std::future::poll_fn(|cx| timer.poll(cx))).is_pending());
        }
        // What was cancelled is looked for once more, at its time, and never again.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(
            shard
                .upgrade()
                .unwrap()
                .state
                .lock()
                .waiting
                .next_tick()
                .is_none()
        );
        drop(timers);
        assert!(
            shard.upgrade().is_none(),
            "the driver holds nothing while it waits"
        );
    }
}
