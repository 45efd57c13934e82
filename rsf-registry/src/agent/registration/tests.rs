//! Two starts under one name, on a paused clock: a registry that forgets does not decide between them.

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::*;

const TTL: Duration = Duration::from_secs(15);

/// A registry with one lease: its incarnation, and until when it lives.
#[derive(Default)]
struct Registry {
    lease: Mutex<Option<(u64, Instant)>>,
    refused: Mutex<Option<Instant>>,
    /// Until when it refuses writes, as a replica does.
    read_only: Mutex<Option<Instant>>,
    /// The sequences that were written, in order.
    written: Mutex<Vec<u64>>,
}

impl Registry {
    fn held(&self) -> Option<u64> {
        let lease = self.lease.lock().filter(|(_, end)| *end > Instant::now());
        lease.map(|(incarnation, _)| incarnation)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only.lock().is_none_or(|end| end <= Instant::now()) {
            return Ok(());
        }
        Err(StoreError::Refused {
            backend: "redis",
            reason: "READONLY it is a replica".to_owned(),
        })
    }

    /// Does what the owner of the lease does; whether it was out.
    fn keep(&self, incarnation: u64) -> bool {
        let out = self.held() != Some(incarnation);
        assert!(self.held().is_none_or(|held| held <= incarnation), "thrown out");
        *self.lease.lock() = Some((incarnation, Instant::now() + TTL));
        out
    }
}

#[async_trait]
impl LeaseStore for Registry {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.check_writable()?;
        if let Some(incarnation) = self.held().filter(|held| *held > lease.incarnation) {
            *self.refused.lock() = Some(Instant::now());
            return Err(StoreError::Superseded {
                instance: lease.instance.clone(),
                incarnation,
                sequence: 1,
                left: false,
            });
        }
        *self.lease.lock() = Some((lease.incarnation, Instant::now() + ttl));
        self.written.lock().push(lease.sequence);
        Ok(())
    }

    async fn renew(&self, _: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        self.check_writable()?;
        if self.held() != Some(incarnation) {
            return Ok(Renewal::Unknown);
        }
        *self.lease.lock() = Some((incarnation, Instant::now() + ttl));
        Ok(Renewal::Renewed)
    }
}

fn register(registry: &Arc<Registry>) -> Registration {
    let request = RegistrationRequest {
        application: "order".to_owned(),
        instance: Some("1".to_owned()),
        address: "127.0.0.1:7001".to_owned(),
        ..RegistrationRequest::default()
    };
    let beat = Arc::new(Beat::new(TTL / 3));
    Registration::start(registry.clone(), request, "default", TTL, beat).expect("a sound request")
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_was_emptied_throws_no_living_owner_out() {
    let registry = Arc::new(Registry::default());
    let owner = unix_ms() + 3_600_000;
    registry.keep(owner);
    let registration = register(&registry);
    let first = registration.lease().incarnation;
    let mut met = 0;
    for _ in 0..50 {
        sleep(Duration::from_millis(10_200)).await;
        *registry.lease.lock() = None;
        // Until its owner finds that out, the other is alone there.
        sleep(Duration::from_millis(5400)).await;
        met += usize::from(registry.held() == Some(first));
        assert!(registry.keep(owner), "it was emptied");
    }
    assert!(met > 5, "the other got in {met} times");
    assert_eq!(registration.lease().incarnation, first);
}

#[tokio::test(start_paused = true)]
async fn who_was_silent_for_a_whole_ttl_is_followed_by_a_greater_incarnation() {
    let registry = Arc::new(Registry::default());
    let owner = unix_ms() + 3_600_000;
    registry.keep(owner);
    let registration = register(&registry);
    let mut status = registration.status();
    let taken = status.wait_for(|status| status.incarnation > owner).await;
    assert_eq!(taken.expect("the task lives").incarnation, owner + 1);
    let silent = registry.refused.lock().expect("refused at first").elapsed();
    assert!(silent >= TTL && silent < TTL * 2, "{silent:?}");
    assert_eq!(registry.held(), Some(owner + 1));
    drop(registration);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_repeated_until_no_replica_can_go_back_behind_it() {
    let registry = Arc::new(Registry::default());
    let registration = register(&registry);
    sleep(TTL * 2).await;
    assert_eq!(*registry.written.lock(), [1], "renewed, not written");
    registration.update(Vec::new()).await.expect("written");
    sleep(TTL).await;
    let written = registry.written.lock().clone();
    assert!(written.len() >= 4, "{written:?}");
    assert!(written[1..].iter().all(|sequence| *sequence == 2), "{written:?}");
    sleep(TTL).await;
    let written = registry.written.lock().len();
    sleep(TTL * 4).await;
    assert_eq!(registry.written.lock().len(), written, "renewed again");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_a_replica_refused_is_tried_again_before_the_next_is_due() {
    let registry = Arc::new(Registry::default());
    let registration = register(&registry);
    let mut status = registration.status();
    for _ in 0..20 {
        status
            .wait_for(|status| status.registered)
            .await
            .expect("the task lives");
        let refusing = Duration::from_secs(1);
        let before = registry.lease.lock().expect("a lease").1;
        // It begins to refuse shortly before the next renewal, and does so for a second.
        sleep(TTL / 3 - Duration::from_millis(500)).await;
        *registry.read_only.lock() = Some(Instant::now() + refusing);
        sleep(refusing + TTL / 5).await;
        let after = registry.lease.lock().expect("a lease").1;
        assert!(after > before, "renewed within a fifth of the TTL");
        sleep(TTL).await;
    }
}
