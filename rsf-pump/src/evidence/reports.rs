//! What consumers report of the instances that they call.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Evidence, Finding, Suspect};

/// How long a report counts.
const LIFE: Duration = Duration::from_secs(30);
/// How many consumers have to say that an instance is gone.
const CONSUMERS: usize = 2;
/// How many reports of one instance are kept, the newest; more say nothing more.
const EACH: usize = 16;
/// Of how many instances reports are kept; beyond it those of further instances are ignored until others are too old.
const INSTANCES: usize = 100_000;
/// The least time between two looks for what is too old.
const PRUNE: Duration = Duration::from_secs(1);

/// What one consumer says of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The id of the instance that reports. Whoever takes reports in has to know who sends them.
    pub consumer: String,
    /// The instance that it called.
    pub instance: String,
    /// The start of that instance.
    pub incarnation: u64,
    /// [`Finding::Answers`] where a connection to it is open and alive, [`Finding::Gone`] where the last try to connect was
    /// refused. [`Finding::Unclear`] takes an earlier report back.
    pub finding: Finding,
}

/// The reports of consumers as evidence. Feed it with [`Reports::take`].
///
/// A report counts for 30 seconds. One consumer is enough to say that an instance answers. That it is gone, two consumers
/// have to say, each of which reports in the same time that another instance answers: one that is cut off from the network
/// says nothing of anybody. So consumers report both, and repeat it every 10 seconds while it is so.
#[derive(Debug, Default)]
pub struct Reports {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By instance.
    said: HashMap<String, Vec<Said>>,
    /// When a consumer last said that somebody answers, and who.
    reaching: HashMap<String, (Instant, String)>,
    /// When what is too old was last looked for.
    pruned: Option<Instant>,
}

#[derive(Debug)]
struct Said {
    consumer: String,
    incarnation: u64,
    finding: Finding,
    at: Instant,
}

impl Reports {
    /// No reports yet.
    pub fn new() -> Reports {
        Reports::default()
    }

    /// Takes in a report; it replaces what the same consumer said of the same instance before.
    pub async fn take(&self, report: Report) {
        let (mut state, now) = (self.state.lock().await, Instant::now());
        let State {
            said,
            reaching,
            pruned,
        } = &mut *state;
        if said.len() >= INSTANCES && !said.contains_key(&report.instance) {
            if pruned.is_none_or(|pruned| now >= pruned + PRUNE) {
                *pruned = Some(now);
                said.retain(|_, reports| reports.iter().any(|said| is_fresh(said.at, now)));
                reaching.retain(|_, (at, _)| is_fresh(*at, now));
            }
            if said.len() >= INSTANCES {
                return;
            }
        }
        if report.finding == Finding::Answers {
            reaching.insert(report.consumer.clone(), (now, report.instance.clone()));
        }
        let reports = said.entry(report.instance).or_default();
        reports.retain(|said| said.consumer != report.consumer && is_fresh(said.at, now));
        if report.finding == Finding::Unclear {
            return;
        }
        if reports.len() >= EACH {
            reports.remove(0);
        }
        reports.push(Said {
            consumer: report.consumer,
            incarnation: report.incarnation,
            finding: report.finding,
            at: now,
        });
    }
}

#[async_trait]
impl Evidence for Reports {
    async fn of(&self, suspect: &Suspect) -> Finding {
        let (state, now) = (self.state.lock().await, Instant::now());
        let reaches = |consumer: &str| {
            let other = |(at, who): &(Instant, String)| is_fresh(*at, now) && *who != suspect.instance;
            state.reaching.get(consumer).is_some_and(other)
        };
        let mut gone = 0;
        for said in state.said.get(&suspect.instance).into_iter().flatten() {
            if said.incarnation != suspect.incarnation || !is_fresh(said.at, now) {
                continue;
            }
            match said.finding {
                Finding::Answers => return Finding::Answers,
                Finding::Gone if reaches(&said.consumer) => gone += 1,
                Finding::Gone | Finding::Unclear => {}
            }
        }
        if gone >= CONSUMERS {
            Finding::Gone
        } else {
            Finding::Unclear
        }
    }

    /// Only consumers that reach somebody are counted in the first place.
    async fn sees(&self, _living: &Suspect) -> bool {
        true
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now < at + LIFE
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn say(reports: &Reports, consumer: &str, instance: &str, finding: Finding) {
        let report = Report {
            consumer: consumer.into(),
            instance: instance.into(),
            incarnation: 7,
            finding,
        };
        reports.take(report).await;
    }

    async fn of(reports: &Reports, instance: &str, incarnation: u64) -> Finding {
        let suspect = Suspect {
            instance: instance.into(),
            incarnation,
            address: "h:1".into(),
        };
        reports.of(&suspect).await
    }

    #[tokio::test(start_paused = true)]
    async fn two_consumers_that_reach_others_say_who_is_gone_and_one_who_answers() {
        let reports = Reports::new();
        assert_eq!(of(&reports, "s/1", 7).await, Finding::Unclear);
        for consumer in ["c/1", "c/1", "cut-off"] {
            say(&reports, consumer, "s/1", Finding::Gone).await;
        }
        say(&reports, "c/1", "s/2", Finding::Answers).await;
        let alone = of(&reports, "s/1", 7).await;
        assert_eq!(
            alone,
            Finding::Unclear,
            "one says it twice, the other reaches nobody"
        );
        say(&reports, "c/2", "s/1", Finding::Gone).await;
        say(&reports, "c/2", "s/2", Finding::Answers).await;
        assert_eq!(of(&reports, "s/1", 7).await, Finding::Gone);
        assert_eq!(of(&reports, "s/1", 8).await, Finding::Unclear, "another start");
        say(&reports, "c/3", "s/1", Finding::Answers).await;
        assert_eq!(of(&reports, "s/1", 7).await, Finding::Answers);
        say(&reports, "c/3", "s/1", Finding::Unclear).await;
        assert_eq!(of(&reports, "s/1", 7).await, Finding::Gone, "taken back");
        tokio::time::advance(LIFE).await;
        assert_eq!(of(&reports, "s/1", 7).await, Finding::Unclear, "too old");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let reports = Reports::new();
        for consumer in 0..100 {
            say(&reports, &format!("c/{consumer}"), "s/1", Finding::Gone).await;
        }
        for instance in 0..INSTANCES + 100 {
            say(&reports, "c/1", &format!("t/{instance}"), Finding::Gone).await;
        }
        {
            let state = reports.state.lock().await;
            assert_eq!(state.said["s/1"].len(), EACH);
            assert_eq!(state.said.len(), INSTANCES);
        }
        tokio::time::advance(LIFE).await;
        say(&reports, "c/1", "new", Finding::Gone).await;
        assert_eq!(
            reports.state.lock().await.said.len(),
            1,
            "what is too old makes room"
        );
    }
}
