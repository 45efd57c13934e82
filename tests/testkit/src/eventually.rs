//! Waiting for a condition instead of sleeping and hoping.

use std::fmt::Display;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

/// The pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `condition` every 10 ms until it returns `Ok`, and returns that value.
///
/// `Err` says what was seen instead: after `within` the last one is in the panic. A call that hangs is cut off then.
///
/// ```
/// # use std::time::Duration;
/// # use rsf_testkit::eventually;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut providers = 0;
/// eventually(Duration::from_secs(5), async || {
///     providers += 1; // stands for a look at the list
///     if providers == 3 { Ok(()) } else { Err(format!("{providers} of 3 providers")) }
/// })
/// .await;
/// # }
/// ```
///
/// # Panics
/// When `within` has passed; the message names the calling line and the last observation.
#[track_caller]
pub fn eventually<T, E: Display>(
    within: Duration,
    condition: impl AsyncFnMut() -> Result<T, E>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match poll(within, condition).await {
            Ok(value) => value,
            Err(last) => panic!("{caller}: not within {within:?}; last seen: {last}"),
        }
    }
}

/// As [`eventually`], with the last observation returned.
pub(crate) async fn poll<T, E: Display>(
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, String> {
    let deadline = Instant::now() + within;
    let mut last = None;
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = Some(seen.to_string()),
            Err(_) => return Err(last.unwrap_or_else(|| "nothing: the condition itself hung".to_owned())),
        }
        if Instant::now() >= deadline {
            return Err(last.unwrap_or_default());
        }
        sleep_until((Instant::now() + PAUSE).min(deadline)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_value_comes_back_once_the_condition_holds() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(1), async || {
            looks += 1;
            if looks == 3 { Ok("there") } else { Err("not yet") }
        })
        .await;
        assert_eq!((value, looks), ("there", 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_observation_is_reported() {
        let mut looks = 0;
        let last = poll(Duration::from_millis(100), async || {
            looks += 1;
            Err::<(), _>(format!("look {looks}"))
        })
        .await;
        assert_eq!(last, Err("look 11".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "eventually.rs:")]
    async fn the_panic_names_the_line() {
        eventually(Duration::from_millis(50), async || Err::<(), _>("never")).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_hangs_is_cut_off() {
        let start = Instant::now();
        let hung = poll(Duration::from_secs(2), async || {
            std::future::pending::<()>().await;
            Ok::<(), String>(())
        })
        .await;
        assert_eq!(hung, Err("nothing: the condition itself hung".to_owned()));
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
}
