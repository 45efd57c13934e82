//! What the directory says of a simulated fleet, watched for whom it leaves out wrongly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsf_registry::record::ServiceList;
use rsf_registry::{Backend, Observed};
use rsf_testkit::eventually;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Case;
use crate::fleet::{Fleet, Membership};

/// How often lists are compared with those who live.
const LOOK: Duration = Duration::from_millis(50);

/// How many of how many.
pub type Share = (usize, usize);

/// The lists of a fleet's services as a consumer's watches bring them. They are watched until this is dropped.
pub struct FleetLists {
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    living: Box<dyn Fn() -> Membership + Send + Sync>,
    _watches: JoinSet<()>,
}

/// What was seen of one service.
#[derive(Debug, Default)]
struct Seen {
    version: (u64, u64),
    listed: BTreeSet<String>,
    /// The living that left the list all the same.
    wrong: BTreeSet<String>,
    /// How many were listed when the watching began, and the fewest since.
    full: usize,
    least: usize,
    went_back: usize,
    lists: usize,
}

impl FleetLists {
    /// Begins to watch, and returns when every list is as it should be.
    ///
    /// # Panics
    /// When one is not in time.
    pub async fn watch(fleet: &Fleet) -> FleetLists {
        let seen: Arc<Mutex<BTreeMap<String, Seen>>> = Arc::default();
        let mut watches = JoinSet::new();
        for key in fleet.living().into_keys() {
            let (seen, living) = (Arc::clone(&seen), fleet.watcher());
            watches.spawn(watch(fleet.backend().clone(), key, seen, living));
        }
        let living = Box::new(fleet.watcher());
        let lists = FleetLists {
            seen,
            living,
            _watches: watches,
        };
        lists.become_right(crate::SOON).await;
        // What was there while the fleet came into being is no shrinking.
        lists.mark();
        for seen in lists.lock().values_mut() {
            (seen.wrong, seen.went_back, seen.lists) = Default::default();
        }
        lists
    }

    /// From now on lists are measured against what they are now.
    pub fn mark(&self) {
        for seen in self.lock().values_mut() {
            (seen.full, seen.least) = (seen.listed.len(), seen.listed.len());
        }
    }

    /// The fewest instances that a service had since the mark.
    pub fn least(&self, key: &str) -> usize {
        self.lock().get(key).map_or(0, |seen| seen.least)
    }

    /// Waits until each list has exactly those who live, and says how long that took; `None` when they do not `within`.
    pub async fn right_within(&self, within: Duration) -> Option<Duration> {
        self.right_but_for(&[], within).await
    }

    /// The same, whatever the lists of these services have.
    pub async fn right_but_for(&self, services: &[String], within: Duration) -> Option<Duration> {
        let begun = Instant::now();
        while self.differing().iter().any(|(key, _)| !services.contains(key)) {
            if begun.elapsed() > within {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
        Some(begun.elapsed())
    }

    /// Waits until each list has exactly those who live, and says how long that took.
    ///
    /// # Panics
    /// When one does not `within`.
    pub async fn become_right(&self, within: Duration) -> Duration {
        let begun = Instant::now();
        eventually(within, async || match self.differences().as_slice() {
            [] => Ok(()),
            differences => Err(format!("{} lists differ: {}", differences.len(), differences[0])),
        })
        .await;
        begun.elapsed()
    }

    /// In which lists somebody is missing, or too much, and who.
    pub fn differences(&self) -> Vec<String> {
        let differing = self.differing().into_iter();
        differing.map(|(key, how)| format!("{key} {how}")).collect()
    }

    fn differing(&self) -> Vec<(String, String)> {
        let (living, seen) = ((self.living)(), self.lock());
        let nobody = BTreeSet::new();
        let differs = |(key, members): (&String, &BTreeSet<String>)| {
            let listed = seen.get(key).map_or(&nobody, |seen| &seen.listed);
            let missing: Vec<_> = members.difference(listed).take(3).collect();
            let dead: Vec<_> = listed.difference(members).take(3).collect();
            (listed != members).then(|| (key.clone(), format!("lacks {missing:?} and has {dead:?}")))
        };
        living.iter().filter_map(differs).collect()
    }

    /// The list that was the shortest since the mark, against what its service had then.
    pub fn shortest(&self) -> Share {
        let seen = self.lock();
        let shares = seen.values().map(|seen| (seen.least, seen.full));
        shares
            .min_by(|(a, of_a), (b, of_b)| (a * of_b).cmp(&(b * of_a)))
            .unwrap_or((1, 1))
    }

    /// How often a living instance was left out of a list that had it before.
    pub fn wrongly_removed(&self) -> usize {
        self.lock().values().map(|seen| seen.wrong.len()).sum()
    }

    /// How often a version was not greater than the one before.
    pub fn went_back(&self) -> usize {
        self.lock().values().map(|seen| seen.went_back).sum()
    }

    /// How many lists arrived.
    pub fn arrived(&self) -> usize {
        self.lock().values().map(|seen| seen.lists).sum()
    }

    /// Adds the figures to a case's line, and that nobody was left out wrongly and no version went back.
    pub fn judge(&self, case: &mut Case) {
        let ((least, of), wrong) = (self.shortest(), self.wrongly_removed());
        case.figure("list_min", format!("{least}/{of}"));
        case.figure("wrong_removed", wrong);
        case.hold(
            format!("{wrong} living instances were left out of lists"),
            wrong == 0,
        );
        case.hold(
            format!("{} lists went back", self.went_back()),
            self.went_back() == 0,
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch(
    backend: Backend,
    key: String,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
    living: impl Fn() -> Membership,
) {
    let mut watch = backend.directory.watch(&key);
    while let Some(state) = watch.changed().await {
        // A consumer keeps the list that it has where there is none.
        if let Observed::Present(list) = state {
            let living = living().remove(&key).unwrap_or_default();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry(key.clone()).or_default().arrived(&list, &living);
        }
    }
}

impl Seen {
    fn arrived(&mut self, list: &ServiceList, living: &BTreeSet<String>) {
        let version = list.version.unwrap_or_default();
        let version = (version.epoch, version.sequence);
        // The same list is read again after a reconnect.
        self.went_back += usize::from(version < self.version);
        self.lists += usize::from(version != self.version);
        self.version = version;
        let listed: BTreeSet<String> = list.instances.iter().map(|one| one.instance.clone()).collect();
        self.least = self.least.min(listed.len());
        let lost = self.listed.difference(&listed).filter(|id| living.contains(*id));
        self.wrong.extend(lost.cloned());
        self.listed = listed;
    }
}
