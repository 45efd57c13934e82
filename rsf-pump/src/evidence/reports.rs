//! Asks the consumers: what they report, from their own connections and calls, of instances that are held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use prometheus::{IntCounterVec, Opts, Registry};
use rsf_registry::ReportSource;
use rsf_registry::record::ReportFinding;

use super::{Evidence, Finding, Kind, Suspect};

/// How many must say that an instance is gone.
const AGREED: usize = 2;

/// What consumers say. One that is answered is believed; that an instance is gone must be said by two, of whom none is
/// answered.
///
/// A consumer that is cut off sees everybody gone; it notices that itself and says nothing, for only it knows whom else it
/// reaches. What is left of the doubt is the pump's: consumers that say of a living instance, too, that it is gone
/// are not believed.
pub struct ConsumerReports {
    source: Arc<dyn ReportSource>,
    read: IntCounterVec,
    failing: AtomicBool,
}

impl ConsumerReports {
    /// Reads what is in `source`; its counter `rsf_pump_reports_total` goes into `registry`.
    ///
    /// # Errors
    /// Where `registry` has a metric of that name already.
    pub fn new(source: Arc<dyn ReportSource>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(
            "rsf_pump_reports_total",
            "Consumers' reports that were read of held instances.",
        );
        let read = IntCounterVec::new(opts, &["what"])?;
        registry.register(Box::new(read.clone()))?;
        Ok(ConsumerReports {
            source,
            read,
            failing: AtomicBool::new(false),
        })
    }

    fn count(&self, what: &str, count: usize) {
        if count > 0 {
            self.read.with_label_values(&[what]).inc_by(count as u64);
        }
    }
}

#[async_trait]
impl Evidence for ConsumerReports {
    fn kind(&self) -> Kind {
        Kind::Reports
    }

    async fn of(&self, suspect: &Suspect) -> Finding {
        let reported = match self.source.reports(std::slice::from_ref(&suspect.instance)).await {
            Ok(reported) => reported,
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "consumers' reports cannot be read");
                }
                return Finding::Unclear;
            }
        };
        self.failing.store(false, Ordering::Relaxed);
        self.count("ill_formed", reported.ill_formed);
        let (mut answers, mut other) = (0, 0);
        let mut gone = BTreeSet::new();
        for report in &reported.reports {
            match report.finding() {
                _ if report.instance != suspect.instance => other += 1,
                _ if report.incarnation != suspect.incarnation => other += 1,
                ReportFinding::Answers => answers += 1,
                ReportFinding::Gone => drop(gone.insert(report.reporter.as_str())),
                ReportFinding::Unspecified => other += 1,
            }
        }
        self.count("answers", answers);
        self.count("gone", gone.len());
        self.count("other_start", other);
        match answers {
            0 if gone.len() >= AGREED => Finding::Gone,
            0 => Finding::Unclear,
            _ => Finding::Answers,
        }
    }

    async fn sees(&self, living: &Suspect) -> bool {
        self.of(living).await != Finding::Gone
    }
}

#[cfg(test)]
mod tests {
    use rsf_registry::record::Report;
    use rsf_registry::{Reported, StoreError};

    use super::*;

    /// Says what it was told to say, whoever is asked about.
    struct Told(Result<Reported, StoreError>);

    #[async_trait]
    impl ReportSource for Told {
        async fn reports(&self, _: &[String]) -> Result<Reported, StoreError> {
            self.0.clone()
        }
    }

    fn suspect() -> Suspect {
        Suspect {
            instance: "a/1".into(),
            incarnation: 7,
            address: "h:1".into(),
        }
    }

    fn report(reporter: &str, incarnation: u64, finding: ReportFinding) -> Report {
        Report {
            instance: "a/1".into(),
            incarnation,
            finding: finding.into(),
            reporter: reporter.into(),
        }
    }

    async fn found(reports: &[Report]) -> Finding {
        let reported = Reported {
            reports: reports.to_vec(),
            ill_formed: 0,
        };
        let evidence = ConsumerReports::new(Arc::new(Told(Ok(reported))), &Registry::new());
        evidence.expect("a fresh registry").of(&suspect()).await
    }

    #[tokio::test]
    async fn one_that_is_answered_is_believed_and_two_that_are_refused() {
        use ReportFinding::{Answers, Gone, Unspecified};
        let (one, two) = (report("c/1", 7, Gone), report("c/2", 7, Gone));
        let again = one.clone();
        for (reports, finding, why) in [
            (&[][..], Finding::Unclear, "nobody says anything"),
            (&[report("c/1", 7, Answers)], Finding::Answers, "one is enough"),
            (std::slice::from_ref(&one), Finding::Unclear, "one is not enough"),
            (&[one.clone(), again], Finding::Unclear, "the same one twice"),
            (&[one.clone(), two.clone()], Finding::Gone, "two agree"),
            (
                &[one.clone(), report("c/2", 6, Gone)],
                Finding::Unclear,
                "another start",
            ),
            (
                &[report("c/1", 8, Answers)],
                Finding::Unclear,
                "another start answers",
            ),
            (
                &[one.clone(), two, report("c/3", 7, Answers)],
                Finding::Answers,
                "somebody is answered",
            ),
            (&[report("c/1", 7, Unspecified)], Finding::Unclear, "says nothing"),
        ] {
            assert_eq!(found(reports).await, finding, "{why}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_no_evidence_and_is_counted() {
        let away = StoreError::Unavailable {
            backend: "twin",
            address: "memory".into(),
            reason: "down".into(),
        };
        let evidence = ConsumerReports::new(Arc::new(Told(Err(away))), &Registry::new());
        let evidence = evidence.expect("a fresh registry");
        assert_eq!(evidence.of(&suspect()).await, Finding::Unclear);
        let (registry, bad) = (
            Registry::new(),
            Reported {
                reports: Vec::new(),
                ill_formed: 3,
            },
        );
        let evidence = ConsumerReports::new(Arc::new(Told(Ok(bad))), &registry).expect("fresh");
        assert_eq!(evidence.of(&suspect()).await, Finding::Unclear);
        assert_eq!(evidence.read.with_label_values(&["ill_formed"]).get(), 3);
    }
}
