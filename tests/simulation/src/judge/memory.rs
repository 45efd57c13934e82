//! What each pump knows of the lists' versions: in its process, and in the state file of its name.

use std::collections::BTreeMap;
use std::time::Duration;

use rsf_registry::record::{ListVersion, ServiceList};
use tokio::time::Instant;

use super::Writer;

/// What a pump wrote so shortly before it was killed its state file may lack: it saves every few seconds, while it does not
/// stand still.
const UNSAVED: Duration = Duration::from_secs(60);

type Version = (u64, u64);

/// What all pumps know.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Start of a pump → service → the newest version that it wrote or read back.
    processes: BTreeMap<Writer, BTreeMap<String, Version>>,
    /// Pump → what it wrote or read back of any list, in whichever start.
    files: BTreeMap<String, Vec<Noted>>,
    /// The newest version that the leader remembered when it found only older ones: it writes all lists anew.
    missed: Option<Version>,
}

#[derive(Debug)]
struct Noted {
    at: Instant,
    version: Version,
    /// Which start of the pump.
    start: u64,
    saved: bool,
}

/// Epoch and sequence of a list.
pub(super) fn version(list: &ServiceList) -> Version {
    list.version.as_ref().map_or((0, 0), ListVersion::order)
}

impl Memory {
    /// A pump writes a list or reads it back.
    pub(super) fn note(&mut self, pump: &Writer, list: &ServiceList) {
        let version = version(list);
        let process = self.processes.entry(pump.clone()).or_default();
        let newest = process.entry(list.service.clone()).or_default();
        *newest = version.max(*newest);
        let file = self.files.entry(pump.0.clone()).or_default();
        if file.last().is_none_or(|last| last.version < version) {
            file.push(Noted {
                at: Instant::now(),
                version,
                start: pump.1,
                saved: false,
            });
        }
    }

    /// A pump begins to lead a directory that has these lists.
    pub(super) fn leads<'a>(&mut self, pump: &Writer, stored: impl Iterator<Item = &'a ServiceList> + Clone) {
        let newest = stored.clone().map(version).max();
        let file = self.files.get(&pump.0);
        let remembered = file.and_then(|file| file.iter().map(|noted| noted.version).max());
        self.missed = remembered.filter(|remembered| newest.is_some_and(|newest| newest < *remembered));
        for list in stored {
            self.note(pump, list);
        }
    }

    /// A pump ended in good order.
    pub(super) fn stops(&mut self, pump: &Writer) {
        let file = self.files.get_mut(&pump.0).into_iter().flatten();
        for noted in file.filter(|noted| noted.start == pump.1) {
            noted.saved = true;
        }
    }

    /// A pump starts, and knows what its state file has.
    pub(super) fn starts(&mut self, name: &str) {
        if let Some(file) = self.files.get_mut(name) {
            file.retain(|noted| noted.saved || noted.at.elapsed() >= UNSAVED);
        }
    }

    /// Whether the leader knows that there was a list of this service so new.
    pub(super) fn knows(&self, leader: &Writer, service: &str, version: Version) -> bool {
        let process = self.processes.get(leader);
        let known = process.and_then(|process| process.get(service));
        known.is_some_and(|known| *known >= version) || self.missed.is_some_and(|missed| missed >= version)
    }
}
