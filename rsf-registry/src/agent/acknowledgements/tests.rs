//! How often acknowledgements are said, on a paused clock.

use async_trait::async_trait;

use super::*;
use crate::StoreError;

/// Writes down what it is told, and for how long.
#[derive(Default)]
struct Told {
    durable: bool,
    said: Mutex<Vec<(Instant, String, Duration)>>,
}

impl Told {
    fn times(&self, scope: &str) -> Vec<(Instant, Duration)> {
        let said = self.said.lock();
        let of = said.iter().filter(|(_, told, _)| told == scope);
        of.map(|(at, _, ttl)| (*at, *ttl)).collect()
    }
}

#[async_trait]
impl Acknowledgements for Told {
    async fn acknowledge(&self, some: &[Acknowledgement], ttl: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        let some = some.iter().map(|one| (now, one.scope.clone(), ttl));
        self.said.lock().extend(some);
        Ok(())
    }

    async fn acknowledged(&self, _scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        Ok(Vec::new())
    }

    fn lost_with_leases(&self) -> bool {
        self.durable
    }
}

fn started(durable: bool) -> (Arc<Told>, Acknowledger, watch::Sender<RegistrationStatus>) {
    let told = Arc::new(Told {
        durable,
        ..Told::default()
    });
    let acknowledger = Acknowledger::start(told.clone(), Duration::from_secs(5));
    let (status, registration) = watch::channel(RegistrationStatus::default());
    let lease = Lease {
        instance: "order/1".into(),
        ..Lease::default()
    };
    acknowledger.speak_for(&lease, registration);
    (told, acknowledger, status)
}

fn registered(lease_writes: u64) -> RegistrationStatus {
    RegistrationStatus {
        registered: true,
        written: 1,
        lease_writes,
        ..RegistrationStatus::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_as_long_as_the_lease_is_hardly_repeated() {
    let (told, acknowledger, status) = started(true);
    status.send_replace(registered(1));
    let begun = Instant::now();
    acknowledger.acknowledge("fleet", 3, None);
    acknowledger.acknowledge("service/a.A", 3, None);
    sleep(Duration::from_secs(600)).await;
    for scope in ["fleet", "service/a.A"] {
        let times = told.times(scope);
        assert!(times[0].0 - begun <= FLEET_ACKNOWLEDGED_WITHIN, "{scope}: soon");
        assert!((9..=13).contains(&times.len()), "{scope}: {} times", times.len());
        let apart = times.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        assert!(apart < Some(LONG_TTL / 2), "{scope} ends before it is repeated");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_the_lease_is_told_at_once() {
    let (told, acknowledger, status) = started(true);
    acknowledger.acknowledge("fleet", 3, None);
    sleep(Duration::from_secs(2)).await;
    status.send_replace(registered(1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        told.times("fleet").len(),
        1,
        "with the first lease nothing was lost"
    );
    status.send_replace(registered(2));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(told.times("fleet").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_left_runs_nothing_any_more() {
    let (told, acknowledger, status) = started(true);
    acknowledger.acknowledge("fleet", 3, None);
    status.send_replace(registered(1));
    sleep(Duration::from_secs(2)).await;
    let left = RegistrationStatus {
        registered: false,
        written: 2,
        ..registered(2)
    };
    status.send_replace(left);
    sleep(Duration::from_secs(600)).await;
    let ttls: Vec<_> = told.times("fleet").into_iter().map(|(_, ttl)| ttl).collect();
    assert_eq!(ttls, [LONG_TTL, LEFT_TTL]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_may_forget_is_told_with_every_renewal() {
    let (told, acknowledger, _status) = started(false);
    acknowledger.acknowledge("fleet", 3, None);
    sleep(Duration::from_secs(60)).await;
    let times = told.times("fleet").len();
    assert!((10..=15).contains(&times), "{times} times");
}
