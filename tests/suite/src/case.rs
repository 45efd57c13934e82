//! One case of RELIABILITY: what was broken, what was measured, and whether what must hold held.

use std::fmt::Write as _;

use crate::LoadReport;

/// Names the seed of a case that is to be run again (`RSF_SEED`).
const SEED: &str = "RSF_SEED";

/// A case under way. It ends with one line, `RSF-REL T05 calls=… failed=… PASS`.
#[derive(Debug)]
pub struct Case {
    id: &'static str,
    figures: String,
    broken: Vec<String>,
}

impl Case {
    /// Begins the case `id` (`T05`; a negative control as `T05-control`).
    pub fn begin(id: &'static str) -> Case {
        Case {
            id,
            figures: String::new(),
            broken: Vec::new(),
        }
    }

    /// What the case itself draws: which node dies, and when. Its seed, `RSF_SEED` where that is set, enters the line, and
    /// the same seed draws the same. What the processes under test draw, each of their threads for itself, is not in it.
    ///
    /// # Panics
    /// Where `RSF_SEED` is no number.
    pub fn chance(&mut self) -> fastrand::Rng {
        let seed = std::env::var(SEED).map_or_else(
            |_| fastrand::u64(..1_000_000),
            |seed| seed.parse().expect("RSF_SEED is a number"),
        );
        self.figure("seed", seed);
        fastrand::Rng::with_seed(seed)
    }

    /// Adds a figure to the line.
    pub fn figure(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.figures, " {name}={value}");
    }

    /// Adds the figures of a load: its calls, how many failed, and their 99th percentile.
    pub fn load(&mut self, report: &LoadReport) {
        let total = &report.total;
        self.figure("calls", total.succeeded + total.failed);
        self.figure("failed", total.failed);
        self.figure(
            "p99_ms",
            format!("{:.1}", f64::from(total.percentile_us(99)) / 1000.0),
        );
    }

    /// Notes whether something that must hold does; `what` says what it is.
    pub fn hold(&mut self, what: impl Into<String>, holds: bool) {
        if !holds {
            self.broken.push(what.into());
        }
    }

    /// Ends the case.
    ///
    /// # Panics
    /// Where something that must hold does not.
    #[allow(clippy::print_stdout, reason = "the line is what the case is for")]
    pub fn end(self) {
        let verdict = if self.broken.is_empty() { "PASS" } else { "FAIL" };
        println!("RSF-REL {}{} {verdict}", self.id, self.figures);
        assert!(self.broken.is_empty(), "{}: {}", self.id, self.broken.join("; "));
    }

    /// Ends a negative control: with its guard switched off the case must be red.
    ///
    /// # Panics
    /// Where everything holds all the same, and so the case proves nothing.
    #[allow(clippy::print_stdout, reason = "the line is what the case is for")]
    pub fn end_red(self) {
        let verdict = if self.broken.is_empty() { "FAIL" } else { "PASS" };
        let seen = self.broken.join("; ");
        println!("RSF-REL {}{} red=[{seen}] {verdict}", self.id, self.figures);
        assert!(
            !self.broken.is_empty(),
            "{}: nothing went wrong without the guard",
            self.id
        );
    }

    /// Says aloud that the case cannot run here.
    #[allow(clippy::print_stdout, reason = "the line is what the case is for")]
    pub fn skip(self, why: &str) {
        println!("RSF-REL {}{} SKIPPED: {why}", self.id, self.figures);
    }
}
