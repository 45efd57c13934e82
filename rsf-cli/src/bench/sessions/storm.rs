//! The consumers: what each session watches, and how many of its lists have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rsf_registry::record::ServiceList;
use rsf_registry::{Backend, Observed, RegistryUrl, Watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::{NAMESPACE, NO_REDIS, SessionsArguments, service_key};
use crate::Failure;

/// Sequences that lists have at most.
const ROUNDS: usize = 8;

/// All consumers. They end with it.
pub(super) struct Storm {
    /// How many lists with each sequence, or a later one, have come to somebody.
    arrived: Arc<[AtomicU64; ROUNDS]>,
    expected: u64,
    running: JoinSet<Result<(), Failure>>,
}

impl Storm {
    /// Begins to start them.
    pub(super) fn start(servers: String, arguments: &SessionsArguments) -> Storm {
        let arrived: Arc<[AtomicU64; ROUNDS]> = Arc::default();
        let (sessions, watched) = (arguments.sessions, arguments.watched.min(arguments.services));
        let (services, starts) = (arguments.services, arguments.starts);
        let counted = Arc::clone(&arrived);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut consumers = JoinSet::new();
            let mut ticks = interval(Duration::from_secs(1) / starts);
            for session in 0..sessions {
                ticks.tick().await;
                let own = (0..watched).map(move |n| (session * 7 + n) % services);
                consumers.spawn(consume(servers.clone(), own, Arc::clone(&counted)));
            }
            while let Some(ended) = consumers.join_next().await {
                ended??;
            }
            Ok(())
        });
        Storm {
            arrived,
            expected: (sessions * watched) as u64,
            running,
        }
    }

    /// Waits until every list with this sequence has come to everybody who watches it; whether it did in time.
    pub(super) async fn complete(&self, sequence: u64, patience: Duration) -> Result<bool, Failure> {
        let end = Instant::now() + patience;
        let place = usize::try_from(sequence)?;
        while self.arrived[place].load(Ordering::Relaxed) < self.expected {
            if self.running.is_empty() {
                return Err("the consumers have ended".into());
            }
            if Instant::now() > end {
                return Ok(false);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }
}

/// One consumer: a session, its watches, and no more.
async fn consume(
    servers: String,
    services: impl Iterator<Item = usize>,
    arrived: Arc<[AtomicU64; ROUNDS]>,
) -> Result<(), Failure> {
    let registry: RegistryUrl = format!("{NO_REDIS},zk://{servers}").parse()?;
    let backend = Backend::open(&registry, NAMESPACE)?;
    let mut waiting: FuturesUnordered<_> = services
        .map(|service| next(backend.directory.watch(&service_key(service)), 0))
        .collect();
    while let Some((watch, seen, list)) = waiting.next().await {
        let Some(list) = list else { continue };
        let now = usize::try_from(list).map_or(0, |list| list.min(ROUNDS - 1));
        for sequence in seen + 1..=now {
            arrived[sequence].fetch_add(1, Ordering::Relaxed);
        }
        waiting.push(next(watch, now.max(seen)));
    }
    Ok(())
}

/// The sequence of the next list of this watch; 0 for none.
async fn next(mut watch: Watch<ServiceList>, seen: usize) -> (Watch<ServiceList>, usize, Option<u64>) {
    let sequence = |list: &ServiceList| list.version.map_or(0, |version| version.sequence);
    let list = watch.changed().await.map(|state| match state {
        Observed::Present(list) => sequence(&list),
        Observed::Unknown | Observed::Absent => 0,
    });
    (watch, seen, list)
}
