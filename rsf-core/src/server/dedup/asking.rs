//! One operation of the store, which may fail, give no answer, or panic.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::Once;
use super::store::DedupStoreError;

impl Once {
    /// One operation of the store, within its time. While the store is mute, one operation at a time asks it, and all
    /// others fail at once: they would hold their places in the pool for nothing.
    pub(super) async fn asked<T, O>(&self, operation: impl FnOnce() -> O) -> Result<T, Failed>
    where
        O: Future<Output = Result<T, DedupStoreError>>,
    {
        let Some(probe) = self.shared.mute.enter() else {
            return Err(Failed {
                asked: false,
                panicked: false,
                why: "the store of outcomes gives no answer".to_owned(),
            });
        };
        let limit = self.rules.store_timeout_ms;
        let answered = timeout(Duration::from_millis(limit), survived(operation)).await;
        let panicked = matches!(answered, Ok(None));
        let why = match answered {
            Ok(result) => {
                probe.answered();
                match result {
                    Some(Ok(answer)) => return Ok(answer),
                    Some(Err(error)) => error.to_string(),
                    None => "the store of outcomes panicked".to_owned(),
                }
            }
            Err(_) => {
                probe.gave_no_answer();
                format!(
                    "the store of outcomes gave no answer within {limit} ms (policy provider.dedup.store_timeout_ms)"
                )
            }
        };
        Err(Failed {
            asked: true,
            panicked,
            why,
        })
    }
}

/// An operation of the store; `None` where it panicked, which may happen before it gives a future. Then it is not known
/// what it has done, and the call or the worker that asked goes on.
pub(super) async fn survived<T, O: Future<Output = T>>(operation: impl FnOnce() -> O) -> Option<T> {
    // Nothing of RSF's own is changed in there.
    let caught = AssertUnwindSafe(async { operation().await }).catch_unwind().await;
    caught
        .inspect_err(|_| tracing::error!("the store of outcomes panicked"))
        .ok()
}

/// An operation of the store that came to nothing.
pub(super) struct Failed {
    /// Whether the store may have done it all the same; otherwise it was not asked.
    pub(super) asked: bool,
    pub(super) panicked: bool,
    pub(super) why: String,
}
