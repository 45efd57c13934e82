//! Rule R's evidence: asks missing instances themselves whether they live, a few at a time.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Somebody answers at the instance's address: it stays.
    Answers,
    /// Its host says that nobody listens there: it may leave at once.
    Gone,
    /// Neither: the host or the network is silent, which a partition looks like too.
    Unclear,
}

impl Finding {
    /// All findings.
    pub const ALL: [Finding; 3] = [Finding::Answers, Finding::Gone, Finding::Unclear];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::Answers => "answers",
            Finding::Gone => "gone",
            Finding::Unclear => "unclear",
        }
    }
}

/// Asks an address whether anybody is there. The pump limits its time, rate and concurrency.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// What is found at `address`, the `host:port` of an instance's service port.
    async fn probe(&self, address: &str) -> Finding;
}

/// Opens a TCP connection and closes it again. Whether the right instance answers, each consumer checks for itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpProbe;

#[async_trait]
impl Probe for TcpProbe {
    async fn probe(&self, address: &str) -> Finding {
        match TcpStream::connect(address).await {
            Ok(_) => Finding::Answers,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Finding::Gone,
            Err(_) => Finding::Unclear,
        }
    }
}

/// How the pump probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeConfig {
    /// How long one probe may take.
    pub(crate) timeout: Duration,
    /// The least time between the beginnings of two probes.
    pub(crate) gap: Duration,
    /// How many run at once.
    pub(crate) concurrency: usize,
    /// How long a finding stands before it is asked for again.
    pub(crate) interval: Duration,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        ProbeConfig {
            timeout: Duration::from_secs(1),
            gap: Duration::from_millis(10),
            concurrency: 32,
            interval: Duration::from_secs(10),
        }
    }
}

/// An instance that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its id.
    pub instance: String,
    /// Its start.
    pub incarnation: u64,
    /// Its service port.
    pub address: String,
}

/// What is known of a suspect now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Of whom.
    pub suspect: Suspect,
    /// What was found.
    pub finding: Finding,
}

/// Probes the suspects it is given, in their order.
pub(crate) struct Prober {
    probe: Option<Arc<dyn Probe>>,
    config: ProbeConfig,
    queue: VecDeque<Suspect>,
    /// Whoever is in the queue or being probed.
    busy: BTreeSet<String>,
    running: FuturesUnordered<BoxFuture<'static, Evidence>>,
    next: Instant,
}

impl Prober {
    /// Without a probe it finds nothing out, and holds end by time.
    pub(crate) fn new(probe: Option<Arc<dyn Probe>>, config: ProbeConfig) -> Self {
        Prober {
            probe,
            config,
            queue: VecDeque::new(),
            busy: BTreeSet::new(),
            running: FuturesUnordered::new(),
            next: Instant::now(),
        }
    }

    /// Probes these from now on, and nobody else.
    pub(crate) fn want(&mut self, suspects: Vec<Suspect>) {
        if self.probe.is_none() {
            return;
        }
        for waiting in self.queue.drain(..) {
            self.busy.remove(&waiting.instance);
        }
        for suspect in suspects {
            if self.busy.insert(suspect.instance.clone()) {
                self.queue.push_back(suspect);
            }
        }
    }

    /// The next finding. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Evidence {
        loop {
            let may_start = !self.queue.is_empty() && self.running.len() < self.config.concurrency;
            tokio::select! {
                Some(evidence) = self.running.next() => {
                    self.busy.remove(&evidence.suspect.instance);
                    return evidence;
                }
                () = sleep_until(self.next), if may_start => self.start(),
                else => std::future::pending().await,
            }
        }
    }

    fn start(&mut self) {
        let (Some(suspect), Some(probe)) = (self.queue.pop_front(), self.probe.clone()) else {
            return;
        };
        self.next = Instant::now() + self.config.gap;
        let limit = self.config.timeout;
        let probing = async move {
            let found = timeout(limit, probe.probe(&suspect.address)).await;
            Evidence {
                suspect,
                finding: found.unwrap_or(Finding::Unclear),
            }
        };
        self.running.push(probing.boxed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Slow {
        running: Mutex<(usize, usize)>,
    }

    #[async_trait]
    impl Probe for Slow {
        async fn probe(&self, address: &str) -> Finding {
            {
                let mut running = self.running.lock();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            let takes = if address == "dead" { 60 } else { 1 };
            tokio::time::sleep(Duration::from_secs(takes)).await;
            self.running.lock().0 -= 1;
            Finding::Answers
        }
    }

    fn suspects(range: std::ops::Range<usize>, address: &str) -> Vec<Suspect> {
        let suspect = |index| Suspect {
            instance: format!("i{index}"),
            incarnation: 1,
            address: address.into(),
        };
        range.map(suspect).collect()
    }

    fn config() -> ProbeConfig {
        ProbeConfig {
            timeout: Duration::from_secs(2),
            gap: Duration::from_millis(100),
            concurrency: 4,
            interval: Duration::from_secs(10),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_are_few_at_once_paced_and_limited_in_time() {
        let probe = Arc::new(Slow::default());
        let mut prober = Prober::new(Some(probe.clone()), config());
        let start = Instant::now();
        prober.want(suspects(0..20, "slow"));
        for _ in 0..20 {
            assert_eq!(prober.next().await.finding, Finding::Answers);
        }
        assert_eq!(probe.running.lock().1, 4);
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
        prober.want(suspects(0..1, "dead"));
        assert_eq!(prober.next().await.finding, Finding::Unclear);
        let fast = Prober::new(
            Some(probe),
            ProbeConfig {
                concurrency: 100,
                ..config()
            },
        );
        let (mut prober, start) = (fast, Instant::now());
        prober.want(suspects(0..50, "slow"));
        for _ in 0..50 {
            prober.next().await;
        }
        assert!(
            start.elapsed() >= Duration::from_millis(4_900),
            "ten a second: {:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_probed_twice_at_once_and_who_came_back_is_not_probed() {
        let mut prober = Prober::new(Some(Arc::new(Slow::default())), config());
        prober.want(suspects(0..3, "slow"));
        prober.want(suspects(2..4, "slow"));
        let mut found = Vec::new();
        while let Ok(evidence) = timeout(Duration::from_secs(30), prober.next()).await {
            found.push(evidence.suspect.instance);
        }
        assert_eq!(found, ["i2", "i3"]);
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_gone_and_an_open_one_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        assert_eq!(TcpProbe.probe(&address).await, Finding::Answers);
        drop(listener);
        assert_eq!(TcpProbe.probe(&address).await, Finding::Gone);
        assert_eq!(TcpProbe.probe("no address").await, Finding::Unclear);
    }
}
