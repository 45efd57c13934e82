//! The watchdog: notices a handler that blocks the thread it is polled on.
//!
//! A blocked thread cannot say so. Each thread that polls handlers notes which method's it polls, and since which pass of
//! the watching thread: two relaxed stores. The watching thread, one a process, looks every 25 ms.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Once, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;

/// Between two looks.
const PASS: Duration = Duration::from_millis(25);

/// Counts the looks; the coarse clock that polls are stamped with. Zero is no stamp.
static PASSES: AtomicU64 = AtomicU64::new(1);

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

/// Starts the watching thread with the first method that is to be watched.
fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let watch = || {
            let mut suspects = HashMap::new();
            loop {
                std::thread::park_timeout(PASS);
                WATCH.look(&mut suspects);
            }
        };
        // Without the thread nothing is noticed, and calls go on.
        if let Err(error) = std::thread::Builder::new()
            .name("rsf-watchdog".to_owned())
            .spawn(watch)
        {
            tracing::warn!(%error, "no thread for the watchdog: handlers that block are not noticed");
        }
    });
}

thread_local! {
    static STAMP: Arc<Stamp> = {
        let stamp = Arc::new(Stamp::new());
        WATCH.threads.lock().push(Arc::downgrade(&stamp));
        stamp
    };
}

/// What one thread polls.
struct Stamp {
    /// [`Watched::number`].
    method: AtomicU64,
    /// The pass in which the poll began; zero where none goes on.
    since: AtomicU64,
    /// Where the system tells about the thread; none on other systems than Linux.
    task: Option<PathBuf>,
}

/// What the system says of a thread.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    /// It sleeps, or waits for something.
    Waiting,
    /// It computes, or would if it had a processor; so long it has had one in all its life.
    Computing(Duration),
}

impl Stamp {
    fn new() -> Self {
        let thread = std::fs::read_link("/proc/thread-self").ok();
        Stamp {
            method: AtomicU64::new(0),
            since: AtomicU64::new(0),
            task: thread.map(|thread| PathBuf::from("/proc").join(thread)),
        }
    }

    /// `None` where the system does not say.
    fn doing(&self) -> Option<Doing> {
        let task = self.task.as_ref()?;
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        // Behind the name, which may hold anything.
        let (_, behind) = stat.rsplit_once(')')?;
        if !behind.trim_start().starts_with('R') {
            return Some(Doing::Waiting);
        }
        let schedule = std::fs::read_to_string(task.join("schedstat")).ok()?;
        let nanos = schedule.split(' ').next()?.parse().ok()?;
        Some(Doing::Computing(Duration::from_nanos(nanos)))
    }

    fn set(&self, method: u64, since: u64) {
        self.method.store(method, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
    }
}

/// Restores what the thread polled before, after a panic too: polls nest where a handler waits for another.
struct Before<'a>(&'a Stamp, u64, u64);

impl Drop for Before<'_> {
    fn drop(&mut self) {
        self.0.set(self.1, self.2);
    }
}

#[inline(always)]
fn stamped<R>(method: u64, since: u64, work: impl FnOnce() -> R) -> R {
    STAMP.with(|stamp| {
        let before = (
            stamp.method.load(Ordering::Relaxed),
            stamp.since.load(Ordering::Relaxed),
        );
        let _before = Before(stamp, before.0, before.1);
        stamp.set(method, since);
        work()
    })
}

/// Runs `work`, which may block: the thread is lent for that.
pub(super) fn unwatched<R>(work: impl FnOnce() -> R) -> R {
    stamped(0, 0, work)
}

/// One method's handlers, as the watch sees them.
pub(crate) struct Watched {
    number: u64,
    /// As logs name it.
    name: String,
    /// Milliseconds; zero where it is not watched.
    limit: AtomicU64,
    blocks: AtomicBool,
    noticed: IntCounter,
}

impl Watched {
    pub(crate) fn new(name: &str, noticed: IntCounter) -> Arc<Self> {
        let mut methods = WATCH.methods.lock();
        methods.retain(|_, method| method.strong_count() > 0);
        let number = WATCH.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let watched = Arc::new(Watched {
            number,
            name: name.to_owned(),
            limit: AtomicU64::new(0),
            blocks: AtomicBool::new(false),
            noticed,
        });
        methods.insert(number, Arc::downgrade(&watched));
        watched
    }

    /// How long a poll may take; zero ends the watch, and forgets what it has noticed.
    pub(crate) fn set(&self, limit_ms: u64) {
        self.limit.store(limit_ms, Ordering::Relaxed);
        match limit_ms {
            0 => self.blocks.store(false, Ordering::Relaxed),
            _ => start(),
        }
    }

    /// Whether a handler of the method was noticed.
    pub(crate) fn blocks(&self) -> bool {
        self.blocks.load(Ordering::Relaxed)
    }

    /// One poll of a handler, watched; or not, where it has a thread of its own.
    #[inline(always)]
    pub(crate) fn poll<R>(&self, watched: bool, poll: impl FnOnce() -> R) -> R {
        match watched {
            true => stamped(self.number, PASSES.load(Ordering::Relaxed), poll),
            false => poll(),
        }
    }
}

#[derive(Default)]
struct Watch {
    threads: Mutex<Vec<Weak<Stamp>>>,
    methods: Mutex<HashMap<u64, Weak<Watched>>>,
    numbers: AtomicU64,
}

/// A thread that was found in one and the same poll at two looks.
struct Suspect {
    since: u64,
    doing: Option<Doing>,
    /// How long it has kept its thread from others since it was found.
    blocked: Duration,
    told: bool,
}

impl Suspect {
    /// Adds what the thread did since the last look. One that only waits for a processor keeps nobody from anything.
    fn add(&mut self, doing: Option<Doing>) {
        self.blocked += match (self.doing, doing) {
            (Some(Doing::Computing(before)), Some(Doing::Computing(now))) => {
                now.saturating_sub(before).min(PASS)
            }
            (_, Some(Doing::Computing(_))) => Duration::ZERO,
            (_, Some(Doing::Waiting) | None) => PASS,
        };
        self.doing = doing;
    }
}

impl Watch {
    fn look(&self, suspects: &mut HashMap<usize, Suspect>) {
        let pass = PASSES.fetch_add(1, Ordering::Relaxed) + 1;
        let mut threads = Vec::new();
        self.threads.lock().retain(|thread| {
            let thread = thread.upgrade();
            threads.extend(thread.iter().cloned());
            thread.is_some()
        });
        let busy = |thread: &Arc<Stamp>| {
            let since = thread.since.load(Ordering::Relaxed);
            (since != 0 && pass - since > 1).then_some(since)
        };
        suspects.retain(|place, suspect| {
            threads
                .iter()
                .any(|thread| Arc::as_ptr(thread) as usize == *place && busy(thread) == Some(suspect.since))
        });
        for thread in &threads {
            let Some(since) = busy(thread) else {
                continue;
            };
            let suspect = suspects.entry(Arc::as_ptr(thread) as usize);
            let suspect = suspect.or_insert_with(|| Suspect {
                since,
                doing: None,
                blocked: Duration::ZERO,
                told: false,
            });
            if !suspect.told {
                suspect.add(thread.doing());
                suspect.told = self.judge(thread, suspect);
            }
        }
    }

    /// Tells on the method whose handler blocks for longer than it may.
    fn judge(&self, thread: &Stamp, suspect: &Suspect) -> bool {
        let method = thread.method.load(Ordering::Relaxed);
        let method = self.methods.lock().get(&method).and_then(Weak::upgrade);
        let Some(method) = method else {
            return false;
        };
        let limit = Duration::from_millis(method.limit.load(Ordering::Relaxed));
        let still = thread.since.load(Ordering::Relaxed) == suspect.since;
        if limit.is_zero() || suspect.blocked < limit || !still {
            return false;
        }
        method.noticed.inc();
        method.blocks.store(true, Ordering::Relaxed);
        tracing::warn!(
            method = method.name,
            blocked_ms = suspect.blocked.as_millis() as u64,
            "a handler blocks its I/O thread; from now on its method's handlers run on threads of their own: mark it \
             with rsf::Blocking, or use spawn_blocking in it"
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_says_what_a_thread_is_doing() {
        let stamp = Arc::new(Stamp::new());
        // This thread computes, and is seen to: the system counts by its own ticks.
        let computed = |stamp: &Stamp| match stamp.doing() {
            Some(Doing::Computing(time)) => time,
            other => panic!("this thread computes, not {other:?}; {:?}", stamp.task),
        };
        let before = computed(&stamp);
        while computed(&stamp) == before {
            std::hint::spin_loop();
        }
        // Seen from another thread, one that waits for it waits.
        let seen = stamp.clone();
        let other = std::thread::spawn(move || {
            while seen.doing() != Some(Doing::Waiting) {
                std::thread::yield_now();
            }
        });
        other.join().unwrap();
    }

    #[test]
    fn a_thread_without_a_processor_blocks_nobody() {
        let computing = |millis| Some(Doing::Computing(Duration::from_millis(millis)));
        for (seen, blocked_ms) in [
            ([computing(100), computing(100), computing(101)], 1),
            ([computing(100), computing(110), computing(120)], 20),
            ([Some(Doing::Waiting), Some(Doing::Waiting), computing(500)], 50),
            ([None, None, None], 75),
        ] {
            let mut suspect = Suspect {
                since: 1,
                doing: None,
                blocked: Duration::ZERO,
                told: false,
            };
            seen.into_iter().for_each(|doing| suspect.add(doing));
            assert_eq!(suspect.blocked.as_millis(), blocked_ms, "{seen:?}");
        }
    }

    #[test]
    fn nested_polls_restore_what_was_polled_before() {
        let now = || {
            STAMP.with(|stamp| {
                (
                    stamp.method.load(Ordering::Relaxed),
                    stamp.since.load(Ordering::Relaxed),
                )
            })
        };
        stamped(1, 10, || {
            stamped(2, 20, || assert_eq!(now(), (2, 20)));
            assert_eq!(now(), (1, 10));
            unwatched(|| assert_eq!(now(), (0, 0)));
            let panicked = std::panic::catch_unwind(|| stamped(3, 30, || panic!("the handler's own")));
            assert!(panicked.is_err());
            assert_eq!(now(), (1, 10));
        });
        assert_eq!(now(), (0, 0));
    }
}
