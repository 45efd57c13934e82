//! A semaphore whose size is policy: it grows and shrinks while permits are out.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// A number of permits that can change while they are in use.
#[derive(Debug)]
pub(crate) struct Permits {
    semaphore: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    wanted: usize,
    /// Permits that are out and must not come back.
    excess: usize,
}

/// One permit; it returns on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Arc::new(Permits {
            semaphore: Semaphore::new(size),
            size: Mutex::new(Size {
                wanted: size,
                excess: 0,
            }),
        })
    }

    /// Changes the size. Permits that are out stay valid; a smaller size is reached as they return.
    pub(crate) fn resize(&self, wanted: usize) {
        let mut size = self.size.lock();
        if wanted > size.wanted {
            let more = wanted - size.wanted;
            let forgiven = more.min(size.excess);
            size.excess -= forgiven;
            self.semaphore.add_permits(more - forgiven);
        } else {
            let fewer = size.wanted - wanted;
            size.excess += fewer - self.semaphore.forget_permits(fewer);
        }
        size.wanted = wanted;
    }

    /// A permit if one is free now.
    #[allow(dead_code, reason = "callbacks wait for theirs; the tests do not")]
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.semaphore.try_acquire().ok()?;
        permit.forget();
        Some(Permit(self.clone()))
    }

    /// Waits for a permit, in order of arrival.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        // The semaphore is never closed, so waiting ends with a permit.
        if let Ok(permit) = self.semaphore.acquire().await {
            permit.forget();
        }
        Permit(self.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut size = self.0.size.lock();
        if size.excess > 0 {
            size.excess -= 1;
        } else {
            self.0.semaphore.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_takes_permits_as_they_return() {
        let permits = Permits::new(3);
        let out: Vec<_> = (0..3).filter_map(|_| permits.try_acquire()).collect();
        assert_eq!(out.len(), 3);
        permits.resize(1);
        drop(out);
        let _one = permits.try_acquire().unwrap();
        assert!(permits.try_acquire().is_none());
        permits.resize(2);
        assert!(permits.try_acquire().is_some());
    }

    #[test]
    fn growing_again_forgives_what_is_still_out() {
        let permits = Permits::new(2);
        let out = [permits.try_acquire().unwrap(), permits.try_acquire().unwrap()];
        permits.resize(0);
        permits.resize(2);
        assert!(permits.try_acquire().is_none());
        drop(out);
        assert!(permits.try_acquire().is_some());
    }

    #[tokio::test]
    async fn waiting_ends_when_the_size_grows() {
        let permits = Permits::new(0);
        let waiting = tokio::spawn({
            let permits = permits.clone();
            async move { drop(permits.acquire().await) }
        });
        permits.resize(1);
        waiting.await.unwrap();
    }
}
