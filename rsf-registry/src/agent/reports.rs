//! Says what this process knows of instances that the registry may be wrong about: while it holds, a bounded number at
//! once, and seldom where nobody needs it.
//!
//! All consumers of a service see the same at the same time. Each begins at a moment of its own, sends one message a third
//! of the TTL, and where the registry kept nothing of it, because enough others say the same, it pauses longer and longer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_core::control::{Seen, Sighting};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::ReportStore;
use crate::backoff::{Backoff, jittered};
use crate::limits::MAX_REPORTS;
use crate::record::{Report, ReportFinding};

/// The longest time for which a report is believed without being repeated; otherwise it is a lease's.
const LONGEST_TTL: Duration = Duration::from_secs(60);
/// How old the data path's word may be.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// Sends reports in the background.
#[derive(Debug)]
pub(super) struct Reporter {
    told: Arc<Told>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Told {
    state: Mutex<State>,
    more: Notify,
    pace: Pace,
}

#[derive(Debug)]
struct State {
    /// In whose name; nothing is said before.
    speaker: Option<String>,
    /// By id, and when that was said.
    sightings: Vec<Sighting>,
    at: Instant,
    /// Whose turn it is where there are more than one message takes.
    turn: usize,
}

/// The times of reports.
#[derive(Debug, Clone, Copy)]
struct Pace {
    ttl: Duration,
    interval: Duration,
    /// How long an instance must have refused before that is said: its lease is over by then. An ordinary crash is
    /// out of the lists sooner.
    overdue: Duration,
}

impl Pace {
    fn new(lease_ttl: Duration) -> Self {
        let ttl = lease_ttl.min(LONGEST_TTL);
        let interval = ttl / 3;
        Pace {
            ttl,
            interval,
            overdue: lease_ttl + interval,
        }
    }
}

impl Reporter {
    /// `lease_ttl` is how long leases live here, and so how soon the registry knows by itself.
    pub(super) fn start(store: Arc<dyn ReportStore>, lease_ttl: Duration) -> Self {
        let told = Arc::new(Told {
            state: Mutex::new(State {
                speaker: None,
                sightings: Vec::new(),
                at: Instant::now(),
                turn: fastrand::usize(..1 << 20),
            }),
            more: Notify::new(),
            pace: Pace::new(lease_ttl),
        });
        let task = tokio::spawn(run(told.clone(), store));
        Reporter {
            told,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// From now on speaks for this instance.
    pub(super) fn speak_for(&self, instance: &str) {
        self.told.state.lock().speaker = Some(instance.to_owned());
    }

    /// Takes in all that the data path knows now.
    pub(super) fn report(&self, sightings: Vec<Sighting>) {
        let mut state = self.told.state.lock();
        (state.sightings, state.at) = (sightings, Instant::now());
        drop(state);
        self.told.more.notify_one();
    }
}

async fn run(told: Arc<Told>, store: Arc<dyn ReportStore>) {
    let Pace { ttl, interval, .. } = told.pace;
    loop {
        told.more.notified().await;
        if told.batch().is_empty() {
            continue;
        }
        sleep(interval.mul_f64(fastrand::f64())).await;
        let mut unwanted = Backoff::new(interval * 2, interval * 12);
        loop {
            let batch = told.batch();
            if batch.is_empty() {
                break;
            }
            let pause = match store.report(&batch, ttl).await {
                Ok(0) => unwanted.next(),
                Ok(_) => {
                    unwanted.reset();
                    jittered(interval)
                }
                Err(error) => {
                    if unwanted.attempts() == 0 {
                        tracing::warn!(%error, "what this process knows of instances in doubt could not be reported");
                    }
                    unwanted.next()
                }
            };
            sleep(pause).await;
        }
    }
}

impl Told {
    /// The next message: as many as it takes, the rest in later ones.
    fn batch(&self) -> Vec<Report> {
        let mut state = self.state.lock();
        let Some(speaker) = state.speaker.clone().filter(|_| state.at.elapsed() < FORGOTTEN) else {
            return Vec::new();
        };
        let report = |sighting: &Sighting| {
            let finding = match sighting.seen {
                Seen::Answers => ReportFinding::Answers,
                Seen::Refuses { lasting } if lasting >= self.pace.overdue => ReportFinding::Gone,
                Seen::Refuses { .. } => return None,
            };
            Some(Report {
                instance: sighting.instance.to_string(),
                incarnation: sighting.incarnation,
                finding: finding.into(),
                reporter: speaker.clone(),
            })
        };
        let mut reports: Vec<Report> = state.sightings.iter().filter_map(report).collect();
        if reports.len() > MAX_REPORTS {
            let turn = state.turn % reports.len();
            reports.rotate_left(turn);
            reports.truncate(MAX_REPORTS);
            state.turn = state.turn.wrapping_add(MAX_REPORTS);
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_trait::async_trait;

    use super::*;
    use crate::StoreError;

    const LEASE_TTL: Duration = Duration::from_secs(15);

    /// Keeps nothing or everything, and notes what came when.
    struct Registry {
        needed: bool,
        came: Mutex<Vec<(Instant, Vec<Report>)>>,
    }

    #[async_trait]
    impl ReportStore for Registry {
        async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError> {
            assert_eq!(ttl, LEASE_TTL);
            crate::limits::check_reports(reports)?;
            self.came.lock().push((Instant::now(), reports.to_vec()));
            Ok(if self.needed { reports.len() } else { 0 })
        }
    }

    fn reporter(needed: bool) -> (Arc<Registry>, Reporter) {
        let registry = Arc::new(Registry {
            needed,
            came: Mutex::default(),
        });
        let reporter = Reporter::start(registry.clone(), LEASE_TTL);
        (registry, reporter)
    }

    fn sighting(number: usize, seen: Seen) -> Sighting {
        Sighting {
            instance: format!("member/{number:03}").into(),
            incarnation: 7,
            seen,
        }
    }

    /// The data path says the same each second for so many seconds.
    async fn told(reporter: &Reporter, sightings: &[Sighting], seconds: u64) {
        for _ in 0..seconds {
            reporter.report(sightings.to_vec());
            sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_speaks_while_it_is_told_and_of_nobody_who_may_just_have_crashed() {
        let (registry, reporter) = reporter(true);
        let refuses = |seconds| Seen::Refuses {
            lasting: Duration::from_secs(seconds),
        };
        let sightings = [
            sighting(1, Seen::Answers),
            sighting(2, refuses(19)),
            sighting(3, refuses(20)),
        ];
        told(&reporter, &sightings, 10).await;
        assert!(registry.came.lock().is_empty(), "in nobody's name");
        reporter.speak_for("order/1");
        told(&reporter, &sightings[1..2], 10).await;
        assert!(registry.came.lock().is_empty(), "its lease may live");
        told(&reporter, &sightings, 60).await;
        let came = std::mem::take(&mut *registry.came.lock());
        assert!((10..=14).contains(&came.len()), "about every 5 s: {}", came.len());
        for (_, reports) in came {
            let said: Vec<_> = reports
                .iter()
                .map(|report| (report.instance.as_str(), report.finding(), report.incarnation))
                .collect();
            let expected = [
                ("member/001", ReportFinding::Answers, 7),
                ("member/003", ReportFinding::Gone, 7),
            ];
            assert_eq!(said, expected);
            assert!(reports.iter().all(|report| report.reporter == "order/1"));
        }
        reporter.report(Vec::new());
        sleep(Duration::from_secs(60)).await;
        assert!(registry.came.lock().is_empty(), "nothing is left to say");
        told(&reporter, &sightings, 6).await;
        sleep(Duration::from_secs(60)).await;
        let last = registry.came.lock().len();
        assert!(last <= 3, "what nobody repeats is forgotten: {last}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_message_does_not_take_has_its_turn() {
        let (registry, reporter) = reporter(true);
        reporter.speak_for("order/1");
        let many: Vec<_> = (0..150).map(|number| sighting(number, Seen::Answers)).collect();
        told(&reporter, &many, 30).await;
        let came = registry.came.lock();
        assert!(came.iter().all(|(_, reports)| reports.len() == MAX_REPORTS));
        let first = came.iter().take(3).flat_map(|(_, reports)| reports);
        let named: BTreeSet<_> = first.map(|report| &report.instance).collect();
        assert_eq!(named.len(), 150, "all in three messages");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_needed_comes_back_seldom() {
        let (registry, reporter) = reporter(false);
        reporter.speak_for("order/1");
        told(&reporter, &[sighting(1, Seen::Answers)], 600).await;
        let came = registry.came.lock();
        assert!((10..=24).contains(&came.len()), "{} in ten minutes", came.len());
        let last: Vec<_> = came.windows(2).map(|two| two[1].0 - two[0].0).collect();
        assert!(
            last.last().is_some_and(|pause| *pause >= Duration::from_secs(30)),
            "{last:?}"
        );
    }
}
