//! The judge: knows the truth about every instance, sees every list that is stored or shown, and says what may not be.

mod life;

mod calm;
mod lists;
mod memory;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::record::ServiceList;
use tokio::time::Instant;

use crate::trace::Trace;
use calm::Calm;
pub(crate) use calm::Part;
pub(crate) use life::{Life, State, Trouble};
use lists::Shrinking;
use memory::Memory;
use views::View;

/// The TTL of all leases, as instances and pumps have it by default.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// What the invariants of one run are checked against.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) trace: Arc<Trace>,
    pub(crate) hold: Duration,
    known: Mutex<Known>,
}

/// A pump and which start of it.
pub(crate) type Writer = (String, u64);

/// What the judge knows.
#[derive(Debug, Default)]
struct Known {
    /// Instance → its newest start.
    lives: BTreeMap<String, Life>,
    /// Starts of instances whose leases may have run out before their successors of the same names came.
    died: Vec<Life>,
    calm: Calm,
    /// Service → the list in the directory.
    stored: BTreeMap<String, ServiceList>,
    /// Service → what left it lately.
    shrinking: BTreeMap<String, Shrinking>,
    /// Service, instance and incarnation: whom any list called draining.
    announced: BTreeSet<(String, String, u64)>,
    /// (consumer, service) → what it sees.
    views: BTreeMap<(String, String), View>,
    epoch: u64,
    /// The greatest that ever began.
    greatest_epoch: u64,
    /// What each pump knows of the lists' versions.
    memory: Memory,
    /// Who leads.
    leader: Option<Writer>,
    /// What of these epochs was written, the directory has lost, or may have lost.
    lost_epoch: Option<u64>,
    /// Service → when the directory lost its list last, until one is written that shows the truth: what it does not have it
    /// cannot lose again.
    lost_at: BTreeMap<String, Instant>,
    /// Services whose lists are a backup's: no pump has written them since.
    restored: BTreeSet<String>,
    /// Service, instance and incarnation: who had left the lists that a backup replaced by such as have them. A leader that
    /// knows that needs not let them go once more.
    departed: BTreeSet<(String, String, u64)>,
    /// Services whose lists a stranger overwrote.
    tampered: BTreeSet<String>,
    /// Those of them whose lists no pump has written since.
    emptied: BTreeSet<String>,
    violation: Option<String>,
}

impl Judge {
    pub(crate) fn new(trace: Arc<Trace>, hold: Duration) -> Arc<Self> {
        Arc::new(Judge {
            trace,
            hold,
            known: Mutex::default(),
        })
    }

    /// The first invariant that was broken.
    pub(crate) fn violation(&self) -> Option<String> {
        self.known.lock().violation.clone()
    }

    /// An instance starts.
    pub(crate) fn born(&self, life: Life) {
        self.trace.note(
            &life.id,
            format_args!("starts at {} with {:?}", life.address, life.services.keys()),
        );
        let mut known = self.known.lock();
        let former = known.lives.insert(life.id.clone(), life);
        known.died.extend(former.filter(Life::may_have_expired));
    }

    /// Something becomes different about an instance.
    pub(crate) fn change(&self, id: &str, what: &str, change: impl FnOnce(&mut Life)) {
        self.trace.note(id, format_args!("{what}"));
        if let Some(life) = self.known.lock().lives.get_mut(id) {
            change(life);
        }
    }

    /// A pump starts, with the state file of its name.
    pub(crate) fn pump_starts(&self, name: &str) {
        self.trace.note(name, format_args!("starts"));
        self.known.lock().memory.starts(name);
    }

    /// A pump has ended in good order.
    pub(crate) fn pump_stopped(&self, pump: &Writer) {
        self.known.lock().memory.stops(pump);
    }

    /// A pump begins to lead, and goes on with the holds that it found published.
    pub(crate) fn leads(&self, pump: Writer) {
        let mut known = self.known.lock();
        let Known {
            stored,
            shrinking,
            emptied,
            memory,
            leader,
            ..
        } = &mut *known;
        memory.leads(&pump, stored.values());
        *leader = Some(pump);
        for (service, shrinking) in shrinking {
            shrinking.goes_on(stored.get(service), emptied.contains(service));
        }
    }

    /// A stranger overwrites a service's list.
    pub(crate) fn tampered(&self, service: &str) {
        let mut known = self.known.lock();
        known.tampered.insert(service.to_owned());
        known.emptied.insert(service.to_owned());
    }

    /// Whether a fault begins in, or ends at, one part of the site.
    pub(crate) fn fault(&self, part: Part, what: &str, begins: bool) {
        let word = if begins { "begins" } else { "ends" };
        self.trace.note(part.name(), format_args!("{what} {word}"));
        let mut known = self.known.lock();
        known.calm.fault(part, begins);
        known.interrupt(part);
    }

    /// A fault that takes no time.
    pub(crate) fn blow(&self, part: Part, what: &str) {
        self.trace.note(part.name(), format_args!("{what}"));
        let mut known = self.known.lock();
        known.calm.fault(part, true);
        known.calm.fault(part, false);
        known.interrupt(part);
    }

    /// Checks what must hold at any time; call it once a second or so.
    pub(crate) fn look(&self) {
        let mut known = self.known.lock();
        let now = Instant::now();
        if let Err(broken) = known.check_liveness(now).and_then(|()| known.check_starts(now)) {
            self.break_with(&mut known, broken);
        }
    }

    /// Why the site has not come to rest yet: directory and every consumer show the truth, and nothing else.
    pub(crate) fn unrest(&self) -> Option<String> {
        let known = self.known.lock();
        known.check_directory().and_then(|()| known.check_views()).err()
    }

    /// How many instances died.
    pub(crate) fn dead(&self) -> usize {
        let known = self.known.lock();
        let died = |life: &&Life| matches!(life.state, State::Dead | State::Left { .. });
        known.lives.values().filter(died).count()
    }

    /// Notes that something may not be.
    pub(crate) fn broken(&self, broken: String) {
        let mut known = self.known.lock();
        self.break_with(&mut known, broken);
    }

    fn break_with(&self, known: &mut Known, broken: String) {
        if known.violation.is_none() {
            self.trace.note("judge", format_args!("BROKEN: {broken}"));
            known.violation = Some(broken);
        }
    }
}
