//! Consumers' reports of one namespace, in memory: they are repeated while they hold.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::limits::MAX_REPORTERS;
use crate::record::{Report, ReportFinding};

/// The most instances that reports are kept of, as many as there can be leases.
const MAX_INSTANCES: usize = 100_000;

/// Instance → who says what of it, and until when.
#[derive(Debug, Default)]
pub(super) struct Reports {
    instances: HashMap<String, Vec<(Report, Instant)>>,
}

impl Reports {
    /// Takes one in, and answers whether there was a place for it.
    pub(super) fn put(&mut self, report: &Report, deadline: Instant, now: Instant) -> bool {
        if !self.instances.contains_key(&report.instance) && self.instances.len() >= MAX_INSTANCES {
            return false;
        }
        let said = self.instances.entry(report.instance.clone()).or_default();
        said.retain(|(_, alive_until)| *alive_until > now);
        let own = |(other, _): &(Report, Instant)| other.reporter == report.reporter;
        let gone = |(other, _): &(Report, Instant)| other.finding() == ReportFinding::Gone;
        let full = said.len() >= MAX_REPORTERS;
        let place = said.iter().position(own).or_else(|| {
            let instead = full && report.finding() == ReportFinding::Answers;
            said.iter().position(gone).filter(|_| instead)
        });
        match place {
            Some(place) => said[place] = (report.clone(), deadline),
            None if full => return false,
            None => said.push((report.clone(), deadline)),
        }
        true
    }

    /// What is said of `instance` now.
    pub(super) fn of(&self, instance: &str, now: Instant) -> impl Iterator<Item = Report> {
        let said = self.instances.get(instance).into_iter().flatten();
        said.filter(move |(_, deadline)| *deadline > now)
            .map(|(report, _)| report.clone())
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.instances.retain(|_, said| {
            said.retain(|(_, deadline)| *deadline > now);
            !said.is_empty()
        });
    }
}
