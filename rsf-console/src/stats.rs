//! Live figures: consecutive scrapes → calls a second, failures a second and p99, per service and method.

mod scrape;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::history::unix_ms;
use crate::metrics::{Durations, Histogram, Series, Side};
use crate::model::{Figures, MethodStats, Point, Scrapes, ServiceStats, Stats};

pub use scrape::{HttpScraper, ScrapeError, Scraper};

/// Points kept per service: five minutes of seconds.
pub const MAX_POINTS: usize = 300;
/// Rounds that a p99 looks back over; one second alone holds too few calls to say what the slowest 1 % do.
const QUANTILE_ROUNDS: usize = 5;
/// Services that figures are kept for, so that hostile metrics cannot fill the memory.
const MAX_SERVICES: usize = 5_000;
/// Instances that are named among those that did not answer.
const MAX_NAMED_FAILURES: usize = 20;

/// Collects the live figures.
pub struct StatsCollector {
    fleet: Arc<Fleet>,
    scraper: Arc<dyn Scraper>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at_unix_ms: u64,
    scrapes: Scrapes,
    services: BTreeMap<String, ServiceState>,
}

#[derive(Default)]
struct ServiceState {
    methods: BTreeMap<(String, Side), Window>,
    whole: BTreeMap<Side, Window>,
    instances: BTreeMap<String, f64>,
    points: VecDeque<Point>,
    seen_by_consumers: bool,
}

/// The newest rates, and the durations of the last rounds.
#[derive(Default)]
struct Window {
    calls: f64,
    failures: f64,
    rounds: VecDeque<Durations>,
}

/// What one instance counted between two scrapes.
pub(crate) struct Delta {
    pub(crate) instance: String,
    pub(crate) seconds: f64,
    pub(crate) series: Vec<(Series, Histogram)>,
}

impl StatsCollector {
    /// Figures of the instances in `fleet`, read by `scraper`.
    pub fn new(fleet: Arc<Fleet>, scraper: Arc<dyn Scraper>) -> Self {
        StatsCollector {
            fleet,
            scraper,
            state: Mutex::default(),
        }
    }

    /// Scrapes every `interval` until `shutdown`. A round that takes longer puts off the next one.
    pub async fn run(&self, interval: Duration, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = scrape::Rounds::new(self.scraper.clone());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let instances = self.fleet.instances();
            tokio::select! {
                round = rounds.next(&instances) => self.fold(unix_ms(), round.deltas, round.scrapes),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// The newest figures with the last `points` seconds of each service; of one service only where it is named.
    pub fn stats(&self, service: Option<&str>, points: usize) -> Stats {
        let state = self.state.lock();
        let services = state
            .services
            .iter()
            .filter(|(name, _)| service.is_none_or(|wanted| wanted == *name))
            .map(|(name, service)| (name.clone(), service.stats(points)))
            .collect();
        Stats {
            at_unix_ms: state.at_unix_ms,
            scrapes: state.scrapes.clone(),
            services,
        }
    }

    fn fold(&self, at_unix_ms: u64, deltas: Vec<Delta>, mut scrapes: Scrapes) {
        while scrapes.failed.len() > MAX_NAMED_FAILURES {
            scrapes.failed.pop_last();
        }
        let mut state = self.state.lock();
        state.at_unix_ms = at_unix_ms;
        state.scrapes = scrapes;
        state.services.values_mut().for_each(ServiceState::begin_round);
        let mut durations: HashMap<(String, Series), Durations> = HashMap::new();
        for delta in deltas {
            for (series, histogram) in delta.series {
                let Some((name, _)) = series.method.rsplit_once('/') else {
                    continue;
                };
                if !state.services.contains_key(name) && state.services.len() >= MAX_SERVICES {
                    continue;
                }
                let service = state.services.entry(name.to_owned()).or_default();
                service.count(&delta.instance, delta.seconds, &series, &histogram);
                durations
                    .entry((name.to_owned(), series))
                    .or_default()
                    .add(&histogram);
            }
        }
        for ((name, series), calls) in durations {
            if let Some(service) = state.services.get_mut(&name) {
                service.add_durations(&series, &calls);
            }
        }
        for service in state.services.values_mut() {
            service.end_round(at_unix_ms);
        }
        // A service that nobody has called or provided for the whole window is forgotten.
        state.services.retain(|_, service| !service.is_over());
    }
}

impl ServiceState {
    fn begin_round(&mut self) {
        self.instances.clear();
        for window in self.methods.values_mut().chain(self.whole.values_mut()) {
            window.begin_round();
        }
    }

    fn count(&mut self, instance: &str, seconds: f64, series: &Series, histogram: &Histogram) {
        let calls = histogram.count / seconds;
        let failures = if series.error.is_empty() { 0.0 } else { calls };
        let method = series.method.rsplit_once('/').map_or("", |(_, method)| method);
        let of_method = self.methods.entry((method.to_owned(), series.side)).or_default();
        of_method.calls += calls;
        of_method.failures += failures;
        let whole = self.whole.entry(series.side).or_default();
        whole.calls += calls;
        whole.failures += failures;
        match series.side {
            Side::Server => *self.instances.entry(instance.to_owned()).or_default() += calls,
            Side::Client => self.seen_by_consumers = true,
        }
    }

    fn add_durations(&mut self, series: &Series, calls: &Durations) {
        let method = series.method.rsplit_once('/').map_or("", |(_, method)| method);
        let of_method = self.methods.entry((method.to_owned(), series.side)).or_default();
        of_method.newest().merge(calls);
        self.whole.entry(series.side).or_default().newest().merge(calls);
    }

    fn end_round(&mut self, at_unix_ms: u64) {
        let figures = self.figures(if self.seen_by_consumers {
            Side::Client
        } else {
            Side::Server
        });
        if self.points.len() >= MAX_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point { at_unix_ms, figures });
    }

    fn is_over(&self) -> bool {
        self.points.len() >= MAX_POINTS
            && self
                .points
                .iter()
                .all(|point| point.figures.calls_per_second == 0.0)
    }

    fn figures(&self, side: Side) -> Figures {
        self.whole
            .get(&side)
            .map_or_else(Figures::default, Window::figures)
    }

    fn stats(&self, points: usize) -> ServiceStats {
        let mut methods: BTreeMap<String, MethodStats> = BTreeMap::new();
        for ((name, side), window) in &self.methods {
            let method = methods.entry(name.clone()).or_default();
            match side {
                Side::Client => method.client = window.figures(),
                Side::Server => method.server = window.figures(),
            }
        }
        let skip = self.points.len().saturating_sub(points);
        ServiceStats {
            client: self.figures(Side::Client),
            server: self.figures(Side::Server),
            methods,
            instances: self.instances.clone(),
            points: self.points.iter().skip(skip).copied().collect(),
        }
    }
}

impl Window {
    fn begin_round(&mut self) {
        (self.calls, self.failures) = (0.0, 0.0);
        if self.rounds.len() >= QUANTILE_ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Durations::default());
    }

    fn newest(&mut self) -> &mut Durations {
        if self.rounds.is_empty() {
            self.rounds.push_back(Durations::default());
        }
        let last = self.rounds.len() - 1;
        &mut self.rounds[last]
    }

    fn figures(&self) -> Figures {
        let mut all = Durations::default();
        self.rounds.iter().for_each(|round| all.merge(round));
        Figures {
            calls_per_second: self.calls,
            failures_per_second: self.failures,
            p99_ms: all.quantile(0.99).map(|seconds| seconds * 1000.0),
        }
    }
}

#[cfg(test)]
mod tests;
