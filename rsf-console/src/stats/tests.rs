//! Figures from canned metrics texts.

use std::collections::HashMap;

use async_trait::async_trait;

use super::scrape::Rounds;
use super::*;
use crate::model::Instance;

/// Answers each admin address with a text that the test sets.
#[derive(Default)]
struct Canned(Mutex<HashMap<String, String>>);

#[async_trait]
impl Scraper for Canned {
    async fn scrape(&self, admin_address: &str) -> Result<String, ScrapeError> {
        let text = self.0.lock().get(admin_address).cloned();
        text.ok_or_else(|| ScrapeError::Unreachable("refused".to_owned()))
    }
}

fn text(side: &str, good: u64, bad: u64) -> String {
    let name = format!("rpc_{side}_call_duration_seconds");
    let mut out = String::new();
    for (error, count) in [("", good), ("unavailable", bad)] {
        let labels = format!("rpc_method=\"shop.v1.MemberService/Get\",error_type=\"{error}\"");
        out += &format!("{name}_bucket{{{labels},le=\"0.01\"}} {count}\n");
        out += &format!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n");
        out += &format!("{name}_count{{{labels}}} {count}\n");
    }
    out
}

fn instance(id: &str, incarnation: u64) -> Instance {
    Instance {
        instance: id.to_owned(),
        incarnation,
        admin_address: id.to_owned(),
        ..Instance::default()
    }
}

struct Bench {
    canned: Arc<Canned>,
    rounds: Rounds,
    collector: StatsCollector,
}

impl Bench {
    fn new() -> Self {
        let canned = Arc::new(Canned::default());
        let fleet = Arc::new(Fleet::new(Arc::new(NoDirectory), Vec::new()));
        Bench {
            rounds: Rounds::new(canned.clone()),
            collector: StatsCollector::new(fleet, canned.clone()),
            canned,
        }
    }

    fn set(&self, id: &str, text: Option<String>) {
        let mut texts = self.canned.0.lock();
        match text {
            Some(text) => drop(texts.insert(id.to_owned(), text)),
            None => drop(texts.remove(id)),
        }
    }

    async fn round(&mut self, instances: &[Instance]) -> Stats {
        let round = self.rounds.next(instances).await;
        self.collector.fold(1, round.deltas, round.scrapes);
        tokio::time::advance(Duration::from_secs(1)).await;
        self.collector.stats(None, MAX_POINTS)
    }
}

/// A directory without services.
struct NoDirectory;

#[async_trait]
impl rsf_registry::Directory for NoDirectory {
    fn watch(&self, _: &str) -> rsf_registry::Watch<rsf_registry::record::ServiceList> {
        rsf_registry::Watch::new(
            tokio::sync::watch::channel(rsf_registry::Observed::Absent).1,
            None,
        )
    }

    async fn services(&self) -> Result<Vec<String>, rsf_registry::StoreError> {
        Ok(Vec::new())
    }
}

#[tokio::test(start_paused = true)]
async fn rates_come_from_consecutive_scrapes_of_both_sides() {
    let mut bench = Bench::new();
    let fleet = [
        instance("order/1", 1),
        instance("member/1", 1),
        instance("member/2", 1),
    ];
    bench.set("order/1", Some(text("client", 1000, 10)));
    bench.set("member/1", Some(text("server", 500, 0)));
    bench.set("member/2", Some(text("server", 500, 0)));
    assert!(
        bench.round(&fleet).await.services.is_empty(),
        "one scrape says nothing about rates"
    );
    bench.set("order/1", Some(text("client", 1100, 15)));
    bench.set("member/1", Some(text("server", 570, 0)));
    bench.set("member/2", Some(text("server", 530, 0)));
    let stats = bench.round(&fleet).await;
    let service = &stats.services["shop.v1.MemberService"];
    assert_eq!(service.client.calls_per_second, 105.0);
    assert_eq!(service.client.failures_per_second, 5.0);
    assert_eq!(service.server.calls_per_second, 100.0);
    assert_eq!(service.instances["member/1"], 70.0);
    assert_eq!(service.instances["member/2"], 30.0);
    assert_eq!(service.methods["Get"].client, service.client);
    let p99 = service.client.p99_ms.unwrap();
    assert!((p99 - 9.9).abs() < 1e-6, "{p99}");
    assert_eq!(service.points.last().unwrap().figures, service.client);
    assert_eq!(stats.scrapes.answered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_restart_counts_from_nothing_and_never_below() {
    let mut bench = Bench::new();
    bench.set("member/1", Some(text("server", 500, 0)));
    bench.round(&[instance("member/1", 1)]).await;
    // The same incarnation with smaller counters: the counters were reset.
    bench.set("member/1", Some(text("server", 20, 0)));
    let stats = bench.round(&[instance("member/1", 1)]).await;
    assert_eq!(
        stats.services["shop.v1.MemberService"].server.calls_per_second,
        20.0
    );
    // Another incarnation: its first scrape says nothing about rates.
    bench.set("member/1", Some(text("server", 900, 0)));
    let stats = bench.round(&[instance("member/1", 2)]).await;
    assert_eq!(
        stats.services["shop.v1.MemberService"].server.calls_per_second,
        0.0
    );
}

#[tokio::test(start_paused = true)]
async fn the_silent_and_the_broken_are_named_and_asked_ever_more_rarely() {
    let mut bench = Bench::new();
    let fleet = [instance("a", 1), instance("b", 1), instance("c", 1)];
    bench.set("b", Some("rpc_server_call_duration_seconds_count{ 1".to_owned()));
    bench.set("c", Some(text("server", 1, 0)));
    let stats = bench.round(&fleet).await;
    assert_eq!((stats.scrapes.answered, stats.scrapes.failures), (1, 2));
    assert!(stats.scrapes.failed["b"].contains("line 1"), "{stats:?}");
    bench.round(&fleet).await;
    // Comes back while it is being left out: seen again within the bound, and its counters start a new pair.
    bench.set("a", Some(text("server", 1, 0)));
    let mut rounds = 0;
    while bench.round(&fleet).await.scrapes.failed.contains_key("a") {
        rounds += 1;
        assert!(rounds < 3, "left out for too long");
    }
}

#[tokio::test(start_paused = true)]
async fn points_are_bounded_and_silent_services_are_forgotten() {
    let mut bench = Bench::new();
    bench.set("a", Some(text("server", 1, 0)));
    bench.round(&[instance("a", 1)]).await;
    bench.set("a", Some(text("server", 2, 0)));
    bench.round(&[instance("a", 1)]).await;
    for _ in 0..MAX_POINTS - 1 {
        let stats = bench.round(&[]).await;
        assert!(stats.services["shop.v1.MemberService"].points.len() <= MAX_POINTS);
    }
    assert!(bench.round(&[]).await.services.is_empty());
}

#[tokio::test(start_paused = true)]
async fn instances_beyond_the_bound_are_left_out_aloud() {
    let mut bench = Bench::new();
    let fleet: Vec<_> = (0..2_010).map(|n| instance(&format!("i/{n:05}"), 1)).collect();
    let stats = bench.round(&fleet).await;
    assert_eq!(stats.scrapes.left_out, 10);
    assert_eq!(stats.scrapes.failures, 2_000);
    assert_eq!(stats.scrapes.failed.len(), 20);
}
