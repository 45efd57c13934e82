//! Renewals, gathered: what the instances of one process ask for at one moment goes to the server in one round trip.
//!
//! One script renews up to [`LEASES_PER_SCRIPT`] leases, so that Redis pays for the call once and no other client
//! waits long for its end; several scripts go out together.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::RedisLeases;
use super::lease::{incarnation_header, milliseconds};
use crate::{Renewal, StoreError};

/// How long the first renewal waits for others. The instances of a process renew at one moment, and nobody waits for it.
const GATHER: Duration = Duration::from_millis(2);
/// A script of so many leases keeps Redis busy for about 0.1 ms.
const LEASES_PER_SCRIPT: usize = 100;

/// KEYS: leases. ARGV: for each of them format and incarnation, TTL in ms. Answers for each 1, or 0 where another
/// incarnation is stored, none, or one that has left.
pub(super) const RENEW: &str = r"
local renewed = {}
for i, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, 8) == ARGV[2 * i - 1] then
    renewed[i] = redis.call('PEXPIRE', key, ARGV[2 * i])
  else
    renewed[i] = 0
  end
end
return renewed
";

/// The renewals that wait to be sent.
#[derive(Default)]
pub(super) struct Renewals {
    waiting: Mutex<Vec<Asked>>,
}

struct Asked {
    instance: String,
    incarnation: u64,
    ttl: Duration,
    answer: oneshot::Sender<Result<Renewal, StoreError>>,
}

impl RedisLeases {
    /// Renews one lease together with all others that are asked for at this moment.
    pub(super) async fn renew_in_batch(
        &self,
        instance: &str,
        incarnation: u64,
        ttl: Duration,
    ) -> Result<Renewal, StoreError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            instance: instance.to_owned(),
            incarnation,
            ttl,
            answer,
        };
        let first = {
            let mut waiting = self.renewals.waiting.lock();
            waiting.push(asked);
            waiting.len() == 1
        };
        if first {
            // On its own, so that nobody's renewal hangs on whether the first one is still waited for.
            let store = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                store.send_renewals().await;
            });
        }
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(self.unavailable("this process is ending".to_owned())),
        }
    }

    async fn send_renewals(&self) {
        let mut waiting = std::mem::take(&mut *self.renewals.waiting.lock());
        let mut scripts = Vec::new();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(LEASES_PER_SCRIPT));
            scripts.push(self.renew_some(std::mem::replace(&mut waiting, rest)));
        }
        join_all(scripts).await;
    }

    fn renew_some(&self, asked: Vec<Asked>) -> BoxFuture<'_, ()> {
        async move {
            let mut script = self.scripts.renew.prepare_invoke();
            for one in &asked {
                script
                    .key(self.lease_key(&one.instance))
                    .arg(&incarnation_header(one.incarnation)[..])
                    .arg(milliseconds(one.ttl));
            }
            match self.invoke::<Vec<i64>>(&script).await {
                Ok(renewed) if renewed.len() == asked.len() => {
                    for (one, renewed) in asked.into_iter().zip(renewed) {
                        let renewal = if renewed == 1 {
                            Renewal::Renewed
                        } else {
                            Renewal::Unknown
                        };
                        // Whoever asked may have given up.
                        let _ = one.answer.send(Ok(renewal));
                    }
                }
                Ok(renewed) => {
                    let reason = format!("{} answers to {} renewals", renewed.len(), asked.len());
                    answer_all(asked, &self.unavailable(reason));
                }
                // One lease that this user may not write, or a key of another type, must not cost the others theirs.
                Err(StoreError::Refused { .. }) if asked.len() > 1 => {
                    join_all(asked.into_iter().map(|one| self.renew_some(vec![one]))).await;
                }
                Err(error) => answer_all(asked, &error),
            }
        }
        .boxed()
    }
}

fn answer_all(asked: Vec<Asked>, error: &StoreError) {
    for one in asked {
        let _ = one.answer.send(Err(error.clone()));
    }
}
