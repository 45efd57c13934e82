//! The intake: asks each source, at most one sweep and one read at a time, and never waits for one elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, select_all};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use rsf_registry::lease::LiveLease;
use rsf_registry::world::Guard;
use rsf_registry::{Hint, LeaseSource};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::config::PumpConfig;

/// How many leases are read in one request.
const READ_BATCH: usize = 1_000;
/// How many pages of a sweep wait to be taken in.
const PAGES_AHEAD: usize = 2;
/// How many hints are taken in before the pump looks at anything else.
const HINT_BATCH: usize = 1_024;
/// The least time between the beginnings of two sweeps.
const SWEEP_GAP: Duration = Duration::from_millis(500);
/// How long the intake waits before it asks a failing source again.
const RETRY: Duration = Duration::from_secs(1);
/// Later than anything a simulation looks at.
const NEVER: Duration = Duration::from_secs(1 << 20);

/// What the source said.
pub(crate) enum Intake {
    /// So many hints came; what they name will be read.
    Hinted(u64),
    /// Some leases were read, or not.
    Read {
        asked: Instant,
        instances: Vec<String>,
        answer: Result<Vec<Option<LiveLease>>, String>,
    },
    /// Some of the leases that a sweep reads.
    Page { asked: Instant, leases: Vec<LiveLease> },
    /// All leases were read, and this is the source's identity; or not.
    Swept {
        asked: Instant,
        answer: Result<String, String>,
    },
}

/// All sources of a pump. What one says, or that it says nothing, holds up no other.
pub(crate) struct Intakes {
    sources: Vec<Source>,
    /// Who is listened to first, in turn: a busy source must not drown the others.
    turn: usize,
}

impl Intakes {
    pub(crate) fn new(sources: Vec<Arc<dyn LeaseSource>>, config: &PumpConfig) -> Self {
        let sources = sources.into_iter().map(|source| Source::new(source, config));
        Intakes {
            sources: sources.collect(),
            turn: 0,
        }
    }

    /// Asks `source` to read these leases soon.
    pub(crate) fn want(&mut self, source: usize, instances: Vec<String>) {
        if let Some(source) = self.sources.get_mut(source) {
            source.want(instances);
        }
    }

    /// Asks for a sweep of every source as soon as its last one is [`SWEEP_GAP`] old.
    pub(crate) fn sweep_soon(&mut self) {
        self.sources.iter_mut().for_each(Source::sweep_soon);
    }

    /// Asks for a sweep of one source.
    pub(crate) fn sweep_one_soon(&mut self, source: usize) {
        if let Some(source) = self.sources.get_mut(source) {
            source.sweep_soon();
        }
    }

    /// Whether a source is being swept, which tells all that reading its leases would.
    pub(crate) fn is_sweeping(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(Source::is_sweeping)
    }

    /// The next thing that any source says, and which. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> (usize, Intake) {
        let count = self.sources.len();
        if count == 0 {
            return std::future::pending().await;
        }
        self.turn = (self.turn + 1) % count;
        let (before, after) = self.sources.split_at_mut(self.turn);
        let waiting = after.iter_mut().chain(before).map(|source| source.next().boxed());
        let (said, place, _) = select_all(waiting).await;
        ((place + self.turn) % count, said)
    }
}

/// The pump's side of one [`LeaseSource`].
struct Source {
    source: Arc<dyn LeaseSource>,
    read_timeout: Duration,
    sweep_timeout: Duration,
    interval: Duration,
    hints: Hints,
    wanted: BTreeSet<String>,
    reading: Option<BoxFuture<'static, Intake>>,
    sweeping: Option<BoxFuture<'static, Intake>>,
    pages: Option<Pages>,
    /// The end of a sweep whose last pages are not taken in yet.
    ended: Option<Intake>,
    sweep_at: Instant,
    swept_at: Option<Instant>,
    /// One was asked for while another was under way.
    again: bool,
}

/// The pages of the sweep that was asked for last.
struct Pages {
    asked: Instant,
    leases: mpsc::Receiver<Vec<LiveLease>>,
}

/// Hints are subscribed to before the sweep that makes them complete.
enum Hints {
    Retry(Instant),
    Subscribing(BoxFuture<'static, Result<BoxStream<'static, Hint>, String>>),
    Streaming(BoxStream<'static, Vec<Hint>>),
}

impl Source {
    fn new(source: Arc<dyn LeaseSource>, config: &PumpConfig) -> Self {
        let now = Instant::now();
        Source {
            source,
            read_timeout: config.read_timeout,
            sweep_timeout: config.sweep_timeout,
            interval: config.sweep,
            hints: Hints::Retry(now),
            wanted: BTreeSet::new(),
            reading: None,
            sweeping: None,
            pages: None,
            ended: None,
            // The first sweep is asked for by the end of the first subscription.
            sweep_at: now + config.read_timeout + RETRY,
            swept_at: None,
            again: false,
        }
    }

    /// Asks to read these leases soon.
    fn want(&mut self, instances: Vec<String>) {
        self.wanted.extend(instances);
    }

    /// Asks for a sweep as soon as the last one is [`SWEEP_GAP`] old.
    fn sweep_soon(&mut self) {
        let earliest = self.swept_at.map_or_else(Instant::now, |swept| swept + SWEEP_GAP);
        self.sweep_at = self.sweep_at.min(earliest);
        self.again = self.is_sweeping();
    }

    /// The next thing the source says. Safe to drop and call again.
    async fn next(&mut self) -> Intake {
        loop {
            self.begin();
            let step = tokio::select! {
                biased;
                answer = poll(&mut self.reading) => return self.answered(answer),
                page = next_page(&mut self.pages) => match page.or_else(|| self.ended.take()) {
                    Some(said) => return self.answered(said),
                    None => continue,
                },
                answer = poll(&mut self.sweeping) => {
                    if self.pages.is_none() {
                        return self.answered(answer);
                    }
                    // What it sent just now is taken in before it ends.
                    self.ended = Some(answer);
                    continue;
                }
                step = self.hints.next() => step,
                () = sleep_until(self.sweep_at), if !self.is_sweeping() => continue,
            };
            match step {
                HintStep::Retry => {
                    let (source, limit) = (self.source.clone(), self.read_timeout);
                    let subscribe = async move {
                        let answer = timeout(limit, source.hints()).await;
                        let answer =
                            answer.map_err(|_| format!("no answer to a subscription within {limit:?}"))?;
                        answer.map_err(|error| error.to_string())
                    };
                    self.hints = Hints::Subscribing(subscribe.boxed());
                }
                HintStep::Subscribed(stream) => {
                    self.hints = Hints::Streaming(stream.ready_chunks(HINT_BATCH).boxed());
                    self.sweep_soon();
                }
                HintStep::Lost(reason) => {
                    let source = self.source.name();
                    tracing::warn!(
                        source,
                        reason,
                        "no hints from the lease source; sweeps cover for them"
                    );
                    self.hints = Hints::Retry(Instant::now() + RETRY);
                    self.sweep_soon();
                }
                HintStep::Hints(hints) => return self.hinted(hints),
            }
        }
    }

    fn hinted(&mut self, hints: Vec<Hint>) -> Intake {
        let count = hints.len() as u64;
        for hint in hints {
            match hint {
                Hint::Changed(instance) => drop(self.wanted.insert(instance)),
                Hint::Gap => self.sweep_soon(),
            }
        }
        Intake::Hinted(count)
    }

    fn is_sweeping(&self) -> bool {
        self.sweeping.is_some() || self.pages.is_some()
    }

    /// Sends what may be sent.
    fn begin(&mut self) {
        let now = Instant::now();
        if !self.is_sweeping() && self.sweep_at <= now {
            self.swept_at = Some(now);
            let again = if Guard::Sweep.stands() {
                self.interval
            } else {
                NEVER
            };
            self.sweep_at = now + again;
            let (source, limit) = (self.source.clone(), self.sweep_timeout);
            let (sender, leases) = mpsc::channel(PAGES_AHEAD);
            self.pages = Some(Pages { asked: now, leases });
            let sweep = async move {
                let answer = match timeout(limit, source.sweep_into(sender)).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer to a sweep within {limit:?}")),
                };
                Intake::Swept { asked: now, answer }
            };
            self.sweeping = Some(apart(sweep));
        }
        if self.reading.is_none() && !self.wanted.is_empty() {
            let mut instances = Vec::new();
            while instances.len() < READ_BATCH {
                let Some(instance) = self.wanted.pop_first() else {
                    break;
                };
                instances.push(instance);
            }
            let (source, limit) = (self.source.clone(), self.read_timeout);
            let read = async move {
                let answer = match timeout(limit, source.read(&instances)).await {
                    Ok(Ok(leases)) if leases.len() == instances.len() => Ok(leases),
                    Ok(Ok(leases)) => Err(format!(
                        "{} answers to {} questions",
                        leases.len(),
                        instances.len()
                    )),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer to a read within {limit:?}")),
                };
                Intake::Read {
                    asked: now,
                    instances,
                    answer,
                }
            };
            self.reading = Some(apart(read));
        }
    }

    /// After a failure reads are given up: the next sweep that goes well makes up for them.
    fn answered(&mut self, answer: Intake) -> Intake {
        let now = Instant::now();
        match &answer {
            Intake::Swept { asked, answer: Ok(_) } => {
                // A fleet so large that a sweep takes about as long as their interval leaves time to everything else; but
                // no more than the interval, or the pump would believe that it had stood still.
                let took = now.saturating_duration_since(*asked).min(self.interval);
                let rest = match std::mem::take(&mut self.again) {
                    true => SWEEP_GAP,
                    false => took.max(SWEEP_GAP),
                };
                self.sweep_at = self.sweep_at.max(now + rest);
            }
            Intake::Swept { answer: Err(_), .. } => self.sweep_at = now + RETRY,
            Intake::Read { answer: Err(_), .. } => {
                self.wanted.clear();
                self.sweep_soon();
            }
            _ => {}
        }
        answer
    }
}

enum HintStep {
    Retry,
    Subscribed(BoxStream<'static, Hint>),
    Lost(String),
    Hints(Vec<Hint>),
}

impl Hints {
    async fn next(&mut self) -> HintStep {
        match self {
            Hints::Retry(at) => {
                sleep_until(*at).await;
                HintStep::Retry
            }
            Hints::Subscribing(subscribing) => match subscribing.await {
                Ok(stream) => HintStep::Subscribed(stream),
                Err(reason) => HintStep::Lost(reason),
            },
            Hints::Streaming(stream) => match stream.next().await {
                Some(hints) => HintStep::Hints(hints),
                None => HintStep::Lost("the stream of hints ended".into()),
            },
        }
    }
}

/// The next page of a sweep; `None` after the last one, which empties the slot. Waits for ever where there is no sweep.
async fn next_page(slot: &mut Option<Pages>) -> Option<Intake> {
    let Some(pages) = slot else {
        return std::future::pending().await;
    };
    let page = pages.leases.recv().await.map(|leases| Intake::Page {
        asked: pages.asked,
        leases,
    });
    if page.is_none() {
        *slot = None;
    }
    page
}

/// Work on a task of its own, so that what is decoded or compressed there holds up nobody who waits for it beside other
/// things; dropping what this answers ends it.
pub(crate) fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> BoxFuture<'static, T> {
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    async move {
        match task.await {
            Ok(output) => output,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            // The runtime ends, and with it whoever waits.
            Err(_) => std::future::pending().await,
        }
    }
    .boxed()
}

/// Waits for a future in a slot and empties it; for ever where there is none.
pub(crate) async fn poll<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_apart_goes_on_while_nobody_looks_and_ends_with_who_wanted_it() {
        let (sender, receiver) = oneshot::channel();
        let working = apart(async move { sender.send(7) });
        assert_eq!(receiver.await, Ok(7), "it was never polled");
        assert_eq!(working.await, Ok(()));

        let (sender, receiver) = oneshot::channel::<()>();
        let endless = apart(async move {
            let _kept = sender;
            std::future::pending::<()>().await;
        });
        drop(endless);
        assert!(receiver.await.is_err(), "it was ended");
    }
}
