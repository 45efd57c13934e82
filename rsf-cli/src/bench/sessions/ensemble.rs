//! What the ZooKeeper servers say of themselves: sessions, connections, transactions, and the rate of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::bench::servers::exchange;

/// How often the rates are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The servers, by their addresses.
#[derive(Clone)]
pub(super) struct Ensemble {
    servers: Vec<String>,
}

impl Ensemble {
    pub(super) fn new(servers: Vec<String>) -> Ensemble {
        Ensemble { servers }
    }

    /// The number of the last transaction; `None` while no server leads.
    pub(super) async fn transactions(&self) -> Option<u64> {
        let mut last = None;
        for server in &self.servers {
            let Some(answer) = exchange(server, "srvr").await else {
                continue;
            };
            let zxid = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
            let zxid = zxid.and_then(|zxid| u64::from_str_radix(zxid.trim(), 16).ok());
            last = last.max(zxid);
        }
        last
    }

    /// Whether every server serves.
    pub(super) async fn is_whole(&self) -> bool {
        for server in &self.servers {
            let answer = exchange(server, "srvr").await;
            if !answer.is_some_and(|answer| answer.contains("Mode: ")) {
                return false;
            }
        }
        true
    }

    /// The place of a server that follows.
    pub(super) async fn follower(&self) -> Option<usize> {
        for (place, server) in self.servers.iter().enumerate() {
            let answer = exchange(server, "srvr").await.unwrap_or_default();
            if answer.contains("Mode: follower") {
                return Some(place);
            }
        }
        None
    }

    /// Connections of all servers.
    pub(super) async fn connections(&self) -> i64 {
        self.sum("zk_num_alive_connections").await
    }

    /// How many sessions the ensemble shares, and how many only the server knows that they are connected to.
    pub(super) async fn sessions(&self) -> Value {
        json!({ "local": self.sum("zk_local_sessions").await, "global": self.most("zk_global_sessions").await })
    }

    /// Begins to look for the highest rates.
    pub(super) fn watch(&self) -> Peak {
        let (requests, connects) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (ensemble, peaks) = (self.clone(), (Arc::clone(&requests), Arc::clone(&connects)));
        let task = tokio::spawn(async move {
            let mut before = ensemble.counters().await;
            let mut at = Instant::now();
            loop {
                sleep(LOOK).await;
                let now = ensemble.counters().await;
                let time = at.elapsed().as_secs_f64();
                // A server that was restarted begins to count anew.
                let rises = before.iter().zip(&now).map(|(&before, &now)| {
                    let rise = |before: i64, now: i64| if now < before { now } else { now - before };
                    (rise(before.0, now.0), rise(before.1, now.1))
                });
                let (read, connected) = rises.fold((0, 0), |sum, rise| (sum.0 + rise.0, sum.1 + rise.1));
                let rate = |count: i64| (count.max(0) as f64 / time) as u64;
                peaks.0.fetch_max(rate(read), Ordering::Relaxed);
                peaks.1.fetch_max(rate(connected), Ordering::Relaxed);
                (before, at) = (now, Instant::now());
            }
        });
        Peak {
            requests,
            connects,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Packets received and connections of each server, 0 for one that does not answer.
    async fn counters(&self) -> Vec<(i64, i64)> {
        let mut counters = Vec::new();
        for server in &self.servers {
            let answer = exchange(server, "mntr").await.unwrap_or_default();
            let figure = |name| figure(&answer, name).unwrap_or_default();
            counters.push((figure("zk_packets_received"), figure("zk_num_alive_connections")));
        }
        counters
    }

    async fn sum(&self, name: &str) -> i64 {
        self.figures(name).await.iter().sum()
    }

    async fn most(&self, name: &str) -> i64 {
        self.figures(name).await.into_iter().max().unwrap_or_default()
    }

    async fn figures(&self, name: &str) -> Vec<i64> {
        let mut figures = Vec::new();
        for server in &self.servers {
            let answer = exchange(server, "mntr").await;
            figures.extend(answer.and_then(|answer| figure(&answer, name)));
        }
        figures
    }
}

fn figure(answer: &str, name: &str) -> Option<i64> {
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'))?;
    line.trim().parse().ok()
}

/// The highest rates since it began.
pub(super) struct Peak {
    requests: Arc<AtomicU64>,
    connects: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Peak {
    /// They, a second.
    pub(super) fn end(self) -> Value {
        json!({
            "requests_per_s": self.requests.load(Ordering::Relaxed),
            "connections_per_s": self.connects.load(Ordering::Relaxed),
        })
    }
}
