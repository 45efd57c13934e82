//! Twice the capacity, and the limit that learns what the capacity is.

use super::*;

/// What became of an offered load.
#[derive(Debug, Default)]
struct Tally {
    good: AtomicU32,
    refused: AtomicU32,
    other: AtomicU32,
    /// Milliseconds that each refusal and each success took.
    refused_ms: parking_lot::Mutex<Vec<u64>>,
    good_ms: parking_lot::Mutex<Vec<u64>>,
}

impl Tally {
    fn p99(times: &parking_lot::Mutex<Vec<u64>>) -> u64 {
        let mut times = times.lock();
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().unwrap_or(0)
    }
}

/// Calls at a steady rate for a time, whatever becomes of them.
async fn offer(peer: &Peer, every: Duration, time: Duration, timeout: Duration) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let mut tick = tokio::time::interval(every);
    let end = Instant::now() + time;
    while Instant::now() < end {
        tick.tick().await;
        let (call, tally) = (peer.put(note("")).timeout(timeout).into_future(), tally.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            let result = call.await;
            let took = begun.elapsed().as_millis() as u64;
            match result.map_err(|error| error.reason()) {
                Ok(_) => {
                    tally.good.fetch_add(1, Ordering::Relaxed);
                    tally.good_ms.lock().push(took);
                }
                Err(Reason::QueueTimeout | Reason::QueueFull | Reason::ProviderLimit) => {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    tally.refused_ms.lock().push(took);
                }
                Err(_) => {
                    tally.other.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    tokio::time::sleep(timeout).await;
    tally
}

/// Takes 20 to 60 ms, 40 in the mean.
fn uneven() -> Arc<Echo> {
    Echo::with(|_, request| async move {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..60))).await;
        Ok(Response::new(request.into_inner()))
    })
}

#[tokio::test(start_paused = true)]
async fn goodput_stays_at_twice_the_capacity() {
    fastrand::seed(7);
    let fleet = Fleet::in_test();
    let echo = uneven();
    let (node, peer) = alone(&fleet, &echo).await;
    // Four at 40 ms: 100 a second. 200 are offered for a minute, each with 500 ms; a queue of 4096 would make each wait
    // forty seconds.
    provider(&fleet, INSTANCE, 1, r#"{"pool":4,"queue":4096}"#).await;
    let peak = offer(&peer, ms(10), Duration::from_secs(20), ms(4000)).await;
    let peak = f64::from(peak.good.load(Ordering::Relaxed)) / 20.0;
    let tally = offer(&peer, ms(5), Duration::from_secs(60), ms(500)).await;
    let goodput = f64::from(tally.good.load(Ordering::Relaxed)) / 60.0;
    let refused = tally.refused.load(Ordering::Relaxed);
    let other = tally.other.load(Ordering::Relaxed);
    let (refused_p99, good_p99) = (Tally::p99(&tally.refused_ms), Tally::p99(&tally.good_ms));
    println!(
        "peak {peak}/s, goodput {goodput}/s, refused {refused} (p99 {refused_p99} ms), other {other}, good p99 {good_p99} ms"
    );
    assert!(peak > 80.0, "{peak}");
    assert!(goodput >= 0.9 * peak, "{goodput} of {peak}");
    assert!(
        refused > 5_000 && other <= refused / 100,
        "{refused} refused, {other} others"
    );
    assert!(refused_p99 <= 5, "refused within {refused_p99} ms");
    assert_eq!(
        echo.counts().dropped,
        0,
        "no place was given to what could not end"
    );
    let waited = counted(&node.registry, "rsf_server_queue_wait_seconds", "");
    assert!(waited > 3_000, "{waited}");
    assert_eq!(counted(&node.registry, "rsf_server_pool_running", ""), 0);
    assert_eq!(counted(&node.registry, "rsf_server_pool_waiting", ""), 0);
}

/// Serves 16 at once in 80 ms each; with more in flight each takes longer.
fn backend() -> Arc<Echo> {
    let served = Arc::new(Semaphore::new(16));
    Echo::with(move |_, request| {
        let served = served.clone();
        async move {
            let _served = served.acquire().await.unwrap();
            tokio::time::sleep(ms(80)).await;
            Ok(Response::new(request.into_inner()))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limit_finds_the_capacity_and_protects_latency() {
    fastrand::seed(11);
    let fleet = Fleet::in_test();
    let (node, peer) = alone(&fleet, &backend()).await;
    let size = || counted(&node.registry, "rsf_server_pool_size", "");
    let adaptive = r#"{"pool":1000,"queue":4,"adaptive":{"enabled":true,"window_ms":800}}"#;
    provider(&fleet, INSTANCE, 1, adaptive).await;
    assert_eq!(size(), 20, "initial");
    // Half of the capacity for ten seconds: what the handlers take when nothing is wrong.
    offer(&peer, ms(10), Duration::from_secs(10), ms(4000)).await;
    // Twice the capacity, which is 200 a second, for a minute.
    let tally = offer(
        &peer,
        Duration::from_micros(2_500),
        Duration::from_secs(40),
        ms(4000),
    )
    .await;
    let goodput = f64::from(tally.good.load(Ordering::Relaxed)) / 40.0;
    let (limit, p99) = (size(), Tally::p99(&tally.good_ms));
    println!("limit {limit}, goodput {goodput}/s, p99 {p99} ms");
    assert!((16..=40).contains(&limit), "{limit}");
    assert!(goodput >= 180.0, "{goodput}");
    assert!(p99 <= 250, "{p99} ms, where 80 are usual");
    // Without it, the same load piles up in the backend until the callers give up.
    provider(&fleet, INSTANCE, 2, r#"{"pool":1000,"queue":4}"#).await;
    assert_eq!(size(), 1000);
    let tally = offer(
        &peer,
        Duration::from_micros(2_500),
        Duration::from_secs(15),
        ms(4000),
    )
    .await;
    let p99 = Tally::p99(&tally.good_ms);
    assert!(p99 > 1000, "the control: {p99} ms");
}

#[tokio::test(start_paused = true)]
async fn the_adaptive_limits_bounds_and_pace_change_live() {
    let fleet = Fleet::in_test();
    let (node, peer) = alone(&fleet, &backend()).await;
    let size = || counted(&node.registry, "rsf_server_pool_size", "");
    let set = |revision, fields: &str| {
        let document = format!(r#"{{"queue":0,"adaptive":{{"enabled":true,"window_ms":400{fields}}}}}"#);
        let fleet = &fleet;
        async move { provider(fleet, INSTANCE, revision, &document).await }
    };
    set(1, r#","initial":50"#).await;
    assert_eq!(size(), 50);
    set(2, r#","initial":50,"max":30"#).await;
    assert_eq!(size(), 30);
    set(3, r#","initial":50,"max":100,"min":60"#).await;
    assert_eq!(size(), 60);
    // A higher tolerance lets it grow where the default one would not; a slower pace grows less.
    let grown = |revision, fields: &'static str| {
        let (set, size, peer) = (&set, &size, &peer);
        async move {
            // Learned anew: switched off and on.
            set(revision, r#","enabled":false"#).await;
            set(revision + 1, fields).await;
            offer(peer, ms(10), Duration::from_secs(5), ms(4000)).await;
            offer(peer, ms(2), Duration::from_secs(12), ms(4000)).await;
            size()
        }
    };
    let usual = grown(4, r#","initial":20"#).await;
    let tolerant = grown(6, r#","initial":20,"tolerance":4.0"#).await;
    let slow = grown(8, r#","initial":20,"tolerance":4.0,"smoothing":0.02"#).await;
    let seldom = grown(10, r#","initial":20,"tolerance":4.0,"window_ms":10000"#).await;
    println!("usual {usual}, tolerant {tolerant}, slow {slow}, seldom {seldom}");
    assert!(usual < 40 && tolerant > usual + 10, "{usual}, {tolerant}");
    assert!(
        slow < tolerant - 10 && seldom < tolerant - 10,
        "{tolerant}, {slow}, {seldom}"
    );
}

#[test]
fn policies_that_contradict_themselves_are_refused() {
    use rsf_core::policy::PolicyDocument;
    let fleet = "fleet".parse().unwrap();
    let json = r#"{"provider":{"adaptive":{"min":50,"max":10},"groups":{
        "empty":{"concurrency":1},"idle":{"methods":["Get"]},"twice":{"methods":["Get","Get"],"pool_share":10}}}}"#;
    let errors = PolicyDocument::parse(&fleet, json).unwrap_err();
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "provider.groups.empty",
            "provider.groups.idle",
            "provider.groups.twice.methods[1]",
            "provider.adaptive.min"
        ]
    );
}
