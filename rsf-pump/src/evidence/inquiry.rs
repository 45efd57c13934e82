//! Gathers all evidence of the suspects, a few at a time, and hands out what may be believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Evidence, Finding, Found, Suspect};

/// How long after the first time a *gone* is asked for again.
const CONFIRM: Duration = Duration::from_secs(3);

/// How the pump asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InquiryConfig {
    /// How long one question may take.
    pub(crate) timeout: Duration,
    /// The least time between the beginnings of two inquiries.
    pub(crate) gap: Duration,
    /// How many run at once.
    pub(crate) concurrency: usize,
    /// How long a finding stands before it is asked for again.
    pub(crate) interval: Duration,
}

impl Default for InquiryConfig {
    fn default() -> Self {
        InquiryConfig {
            timeout: Duration::from_secs(1),
            gap: Duration::from_millis(10),
            concurrency: 32,
            interval: Duration::from_secs(10),
        }
    }
}

/// Asks about the suspects it is given, in their order.
pub(crate) struct Inquiry {
    evidence: Vec<Arc<dyn Evidence>>,
    config: InquiryConfig,
    queue: VecDeque<Suspect>,
    /// Who was found to be gone once, by the time at which that is asked again.
    doubted: VecDeque<(Instant, Suspect)>,
    /// Instances that certainly live, as far as the last call of [`Inquiry::want`] knew.
    living: VecDeque<Suspect>,
    /// Who is being asked about, and whether for the second time.
    busy: BTreeMap<String, bool>,
    running: FuturesUnordered<BoxFuture<'static, Found>>,
    next: Instant,
}

impl Inquiry {
    /// Without evidence it finds nothing out, and holds end by time.
    pub(crate) fn new(evidence: Vec<Arc<dyn Evidence>>, config: InquiryConfig) -> Self {
        Inquiry {
            evidence,
            config,
            queue: VecDeque::new(),
            doubted: VecDeque::new(),
            living: VecDeque::new(),
            busy: BTreeMap::new(),
            running: FuturesUnordered::new(),
            next: Instant::now(),
        }
    }

    /// Asks about these from now on, and nobody else; `living` are others that certainly live.
    pub(crate) fn want(&mut self, suspects: Vec<Suspect>, living: Vec<Suspect>) {
        if self.evidence.is_empty() {
            return;
        }
        self.living = living.into();
        self.doubted.retain(|(_, doubted)| suspects.contains(doubted));
        let doubted: BTreeSet<String> = self
            .doubted
            .iter()
            .map(|(_, doubted)| doubted.instance.clone())
            .collect();
        let open = |suspect: &Suspect| {
            !self.busy.contains_key(&suspect.instance) && !doubted.contains(&suspect.instance)
        };
        self.queue = suspects.into_iter().filter(open).collect();
    }

    /// The next finding that may be believed. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Found {
        loop {
            let at = self.due();
            tokio::select! {
                Some(found) = self.running.next() => {
                    let again = self.busy.remove(&found.suspect.instance);
                    if found.finding == Finding::Gone && again != Some(true) {
                        self.doubted.push_back((Instant::now() + CONFIRM, found.suspect));
                        continue;
                    }
                    return found;
                }
                () = sleep_until(at.unwrap_or(self.next)), if at.is_some() => self.start(),
                else => std::future::pending().await,
            }
        }
    }

    /// When the next inquiry may begin.
    fn due(&self) -> Option<Instant> {
        if self.running.len() >= self.config.concurrency {
            return None;
        }
        let doubted = self.doubted.front().map(|(at, _)| *at);
        let at = if self.queue.is_empty() {
            doubted?
        } else {
            self.next
        };
        Some(at.max(self.next))
    }

    fn start(&mut self) {
        let now = Instant::now();
        let again = self.doubted.front().is_some_and(|(at, _)| *at <= now);
        let suspect = match again {
            true => self.doubted.pop_front().map(|(_, suspect)| suspect),
            false => self.queue.pop_front(),
        };
        let Some(suspect) = suspect else { return };
        self.next = now + self.config.gap;
        self.busy.insert(suspect.instance.clone(), again);
        let living = [self.living_beside(&suspect), self.living_beside(&suspect)];
        let living: Vec<_> = living.into_iter().flatten().collect();
        let (evidence, limit) = (self.evidence.clone(), self.config.timeout);
        let inquiry = async move {
            let said = ask(&evidence, &suspect, limit).await;
            let finding = judge(&evidence, &said, &living, limit).await;
            let kinds = evidence.iter().map(|evidence| evidence.kind());
            Found {
                suspect,
                finding,
                said: kinds.zip(said).collect(),
            }
        };
        self.running.push(inquiry.boxed());
    }

    /// One that lives at another address, in turn.
    fn living_beside(&mut self, suspect: &Suspect) -> Option<Suspect> {
        let other = |living: &Suspect| living.address != suspect.address;
        let place = self.living.iter().position(other)?;
        let living = self.living.remove(place)?;
        self.living.push_back(living.clone());
        Some(living)
    }
}

/// Asks all evidence at once.
async fn ask(evidence: &[Arc<dyn Evidence>], suspect: &Suspect, limit: Duration) -> Vec<Finding> {
    let of = |evidence: &Arc<dyn Evidence>| {
        let evidence = evidence.clone();
        async move {
            timeout(limit, evidence.of(suspect))
                .await
                .unwrap_or(Finding::Unclear)
        }
    };
    join_all(evidence.iter().map(of)).await
}

/// What it says together. *Gone* is only believed of evidence that sees one of the living.
async fn judge(
    evidence: &[Arc<dyn Evidence>],
    said: &[Finding],
    living: &[Suspect],
    limit: Duration,
) -> Finding {
    if said.contains(&Finding::Answers) {
        return Finding::Answers;
    }
    let gone = evidence
        .iter()
        .zip(said)
        .filter(|(_, finding)| **finding == Finding::Gone);
    for (evidence, _) in gone {
        for other in living {
            if timeout(limit, evidence.sees(other)).await.unwrap_or(false) {
                return Finding::Gone;
            }
        }
    }
    Finding::Unclear
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::super::Kind;
    use super::*;

    #[derive(Default)]
    struct Slow {
        running: Mutex<(usize, usize)>,
    }

    #[async_trait]
    impl Evidence for Slow {
        fn kind(&self) -> Kind {
            Kind::Probe
        }

        async fn of(&self, suspect: &Suspect) -> Finding {
            {
                let mut running = self.running.lock();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            let takes = if suspect.address == "dead" { 60 } else { 1 };
            tokio::time::sleep(Duration::from_secs(takes)).await;
            self.running.lock().0 -= 1;
            Finding::Answers
        }
    }

    /// Says of each address what it was told to say, and of others that they are gone.
    #[derive(Default)]
    struct Told {
        say: Mutex<BTreeMap<String, Finding>>,
        asked: Mutex<Vec<String>>,
    }

    impl Told {
        fn say(&self, address: &str, finding: Finding) {
            self.say.lock().insert(address.into(), finding);
        }
    }

    #[async_trait]
    impl Evidence for Told {
        fn kind(&self) -> Kind {
            Kind::Probe
        }

        async fn of(&self, suspect: &Suspect) -> Finding {
            self.asked.lock().push(suspect.address.clone());
            self.say
                .lock()
                .get(&suspect.address)
                .copied()
                .unwrap_or(Finding::Gone)
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

    fn config() -> InquiryConfig {
        InquiryConfig {
            timeout: Duration::from_secs(2),
            gap: Duration::from_millis(100),
            concurrency: 4,
            interval: Duration::from_secs(10),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn inquiries_are_few_at_once_paced_and_limited_in_time() {
        let evidence = Arc::new(Slow::default());
        let mut inquiry = Inquiry::new(vec![evidence.clone()], config());
        let start = Instant::now();
        inquiry.want(suspects(0..20, "slow"), Vec::new());
        for _ in 0..20 {
            assert_eq!(inquiry.next().await.finding, Finding::Answers);
        }
        assert_eq!(evidence.running.lock().1, 4);
        assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
        inquiry.want(suspects(0..1, "dead"), Vec::new());
        assert_eq!(inquiry.next().await.finding, Finding::Unclear);
        let fast = InquiryConfig {
            concurrency: 100,
            ..config()
        };
        let (mut inquiry, start) = (Inquiry::new(vec![evidence], fast), Instant::now());
        inquiry.want(suspects(0..50, "slow"), Vec::new());
        for _ in 0..50 {
            inquiry.next().await;
        }
        assert!(
            start.elapsed() >= Duration::from_millis(4_900),
            "ten a second: {:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_about_twice_at_once_and_who_came_back_not_at_all() {
        let mut inquiry = Inquiry::new(vec![Arc::new(Slow::default())], config());
        inquiry.want(suspects(0..3, "slow"), Vec::new());
        inquiry.want(suspects(2..4, "slow"), Vec::new());
        let mut found = Vec::new();
        while let Ok(evidence) = timeout(Duration::from_secs(30), inquiry.next()).await {
            found.push(evidence.suspect.instance);
        }
        assert_eq!(found, ["i2", "i3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn gone_is_said_twice_some_seconds_apart() {
        let told = Arc::new(Told::default());
        told.say("living", Finding::Answers);
        let mut inquiry = Inquiry::new(vec![told.clone()], config());
        let start = Instant::now();
        inquiry.want(suspects(0..1, "refuses"), suspects(9..10, "living"));
        assert_eq!(inquiry.next().await.finding, Finding::Gone);
        assert!(start.elapsed() >= CONFIRM, "{:?}", start.elapsed());
        assert_eq!(*told.asked.lock(), ["refuses", "living", "refuses", "living"]);

        // It was starting again.
        inquiry.want(suspects(1..2, "restarts"), suspects(9..10, "living"));
        assert!(timeout(CONFIRM / 2, inquiry.next()).await.is_err(), "in doubt");
        told.say("restarts", Finding::Answers);
        assert_eq!(inquiry.next().await.finding, Finding::Answers);

        // It came back before it was asked again.
        inquiry.want(suspects(2..3, "refuses"), suspects(9..10, "living"));
        assert!(timeout(CONFIRM / 2, inquiry.next()).await.is_err(), "in doubt");
        inquiry.want(Vec::new(), suspects(9..10, "living"));
        assert!(timeout(CONFIRM * 2, inquiry.next()).await.is_err(), "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_see_the_living_is_not_believed_about_the_dead() {
        let told = Arc::new(Told::default());
        let mut inquiry = Inquiry::new(vec![told.clone()], config());
        for (living, why) in [
            (suspects(9..10, "living"), "it refuses as well"),
            (suspects(9..10, "refuses"), "it is the suspect's own address"),
            (Vec::new(), "nobody is known to live"),
        ] {
            inquiry.want(suspects(0..1, "refuses"), living);
            assert_eq!(inquiry.next().await.finding, Finding::Unclear, "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_evidence_counts_and_an_answer_most() {
        let (one, other) = (Arc::new(Told::default()), Arc::new(Told::default()));
        for address in ["living", "answers"] {
            one.say(address, Finding::Answers);
        }
        one.say("silent", Finding::Unclear);
        other.say("living", Finding::Answers);
        let mut inquiry = Inquiry::new(vec![one, other], config());
        for (address, finding) in [("answers", Finding::Answers), ("silent", Finding::Gone)] {
            inquiry.want(suspects(0..1, address), suspects(9..10, "living"));
            assert_eq!(inquiry.next().await.finding, finding, "{address}");
        }
    }
}
