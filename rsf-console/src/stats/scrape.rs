//! One round of scrapes: every instance's admin port, bounded in number, time and size.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::Delta;
use crate::metrics::{self, Histogram, Series};
use crate::model::{Instance, Scrapes};

/// Scrapes under way at once.
const CONCURRENCY: usize = 64;
/// For one scrape.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Of one metrics text.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Instances asked at all, first ones by id.
const MAX_INSTANCES: usize = 2_000;
/// Rounds that an instance which does not answer is left out of at most.
const MAX_SKIPPED_ROUNDS: u32 = 30;

/// Reads an instance's metrics.
#[async_trait]
pub trait Scraper: Send + Sync + 'static {
    /// The Prometheus text at `http://<admin_address>/metrics`, of at most 4 MiB, within one second.
    async fn scrape(&self, admin_address: &str) -> Result<String, ScrapeError>;
}

/// Why an instance's metrics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No connection, no answer in time, or a broken one.
    #[error("the admin port does not answer: {0}")]
    Unreachable(String),
    /// Another status than 200.
    #[error("the admin port answers /metrics with {0}")]
    Status(u16),
    /// Past 4 MiB.
    #[error("the metrics are larger than 4 MiB")]
    TooLarge,
    /// It is not the Prometheus text format.
    #[error(transparent)]
    Invalid(#[from] metrics::MetricsError),
}

/// Scrapes over HTTP/1.1, keeping connections open between the rounds.
#[derive(Debug, Clone)]
pub struct HttpScraper {
    client: reqwest::Client,
}

impl HttpScraper {
    /// A scraper that follows no redirect and uses no proxy.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(HttpScraper { client })
    }
}

#[async_trait]
impl Scraper for HttpScraper {
    async fn scrape(&self, admin_address: &str) -> Result<String, ScrapeError> {
        let unreachable = |error: reqwest::Error| ScrapeError::Unreachable(innermost(&error));
        let url = format!("http://{admin_address}/metrics");
        let mut response = self.client.get(url).send().await.map_err(unreachable)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(ScrapeError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(ScrapeError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| ScrapeError::Unreachable("the answer is no text".to_owned()))
    }
}

/// The cause at the bottom, which says more than the wrappers around it.
fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}

/// What a round brought.
pub(super) struct Round {
    pub(super) deltas: Vec<Delta>,
    pub(super) scrapes: Scrapes,
}

/// Rounds of scrapes, and what each instance had counted at the last one.
pub(super) struct Rounds {
    scraper: Arc<dyn Scraper>,
    earlier: HashMap<String, Earlier>,
}

#[derive(Default)]
struct Earlier {
    incarnation: u64,
    counted: Option<(Instant, HashMap<Series, Histogram>)>,
    failures: u32,
    skip: u32,
    why: String,
}

impl Rounds {
    pub(super) fn new(scraper: Arc<dyn Scraper>) -> Self {
        Rounds {
            scraper,
            earlier: HashMap::new(),
        }
    }

    /// Scrapes `instances` once and says what each counted since the round before.
    pub(super) async fn next(&mut self, instances: &[Instance]) -> Round {
        let reachable: Vec<&Instance> = instances.iter().filter(|i| !i.admin_address.is_empty()).collect();
        let left_out = reachable.len().saturating_sub(MAX_INSTANCES);
        let asked = &reachable[..reachable.len() - left_out];
        self.forget_others(asked);
        let mut scrapes = Scrapes {
            left_out,
            ..Scrapes::default()
        };
        let due = self.due(asked, &mut scrapes);
        let answers = ask(&self.scraper, due).await;
        let mut deltas = Vec::new();
        for (id, at, counted) in answers {
            let earlier = self.earlier.entry(id.clone()).or_default();
            match counted {
                Ok(counted) => {
                    scrapes.answered += 1;
                    deltas.extend(earlier.advance(id, at, counted));
                }
                Err(error) => {
                    earlier.fail(&error);
                    scrapes.failures += 1;
                    scrapes.failed.insert(id, earlier.why.clone());
                }
            }
        }
        Round { deltas, scrapes }
    }

    /// The instances to ask in this round; the others are counted among the failures with their last cause.
    fn due(&mut self, asked: &[&Instance], scrapes: &mut Scrapes) -> Vec<(String, String)> {
        let mut due = Vec::new();
        for instance in asked {
            let earlier = self.earlier.entry(instance.instance.clone()).or_default();
            if earlier.incarnation != instance.incarnation {
                *earlier = Earlier {
                    incarnation: instance.incarnation,
                    ..Earlier::default()
                };
            }
            if earlier.skip > 0 {
                earlier.skip -= 1;
                scrapes.failures += 1;
                scrapes
                    .failed
                    .insert(instance.instance.clone(), earlier.why.clone());
            } else {
                due.push((instance.instance.clone(), instance.admin_address.clone()));
            }
        }
        due
    }

    fn forget_others(&mut self, asked: &[&Instance]) {
        let ids: std::collections::HashSet<&str> = asked.iter().map(|i| i.instance.as_str()).collect();
        self.earlier.retain(|id, _| ids.contains(id.as_str()));
    }
}

/// What one instance answered, and when.
type Answer = (String, Instant, Result<HashMap<Series, Histogram>, ScrapeError>);

/// Scrapes each `(instance, admin address)`, a bounded number at once.
async fn ask(scraper: &Arc<dyn Scraper>, due: Vec<(String, String)>) -> Vec<Answer> {
    let one = |(id, address): (String, String)| {
        let scraper = scraper.clone();
        async move {
            let answer = match tokio::time::timeout(TIMEOUT, scraper.scrape(&address)).await {
                Ok(answer) => answer,
                Err(_) => Err(ScrapeError::Unreachable("no answer within 1 s".to_owned())),
            };
            let counted = answer.and_then(|text| Ok(metrics::parse(&text)?));
            (id, Instant::now(), counted)
        }
    };
    futures_util::stream::iter(due.into_iter().map(one))
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

impl Earlier {
    /// What was counted since the last scrape; nothing yet at the first.
    fn advance(&mut self, id: String, at: Instant, counted: HashMap<Series, Histogram>) -> Option<Delta> {
        (self.failures, self.skip) = (0, 0);
        let nothing = Histogram::default();
        let delta = self.counted.as_ref().and_then(|(before, earlier)| {
            let seconds = at.duration_since(*before).as_secs_f64();
            let since = |(series, now): (&Series, &Histogram)| {
                let before = earlier.get(series).unwrap_or(&nothing);
                (series.clone(), now.since(before))
            };
            (seconds > 0.0).then(|| Delta {
                instance: id,
                seconds,
                series: counted.iter().map(since).collect(),
            })
        });
        self.counted = Some((at, counted));
        delta
    }

    /// An instance that does not answer is asked ever more rarely, so that a dead zone does not slow the living.
    fn fail(&mut self, error: &ScrapeError) {
        self.why = error.to_string();
        self.skip = (1_u32 << self.failures.min(5))
            .saturating_sub(1)
            .min(MAX_SKIPPED_ROUNDS);
        self.failures += 1;
    }
}
