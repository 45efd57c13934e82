//! Keyspace notifications as hints, with a check every other second that they still arrive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use redis::Msg;
use redis::aio::PubSub;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::RedisLeases;
use super::sweep::escape_glob;
use crate::backoff::Backoff;
use crate::error::REQUEST_TIMEOUT;
use crate::{Hint, StoreError};

/// Hints that may wait for the reader; more are lost and told as one gap.
const WAITING_HINTS: usize = 10_000;
/// The pause between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How long the notification of the check's own write may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// After so many checks in a row without a notification the subscription is made again.
const SILENT_CHECKS: u32 = 3;
/// `notify-keyspace-events`: by key, for writes of strings and for expired keys. Not `g`: that one would tell of every
/// renewal.
const SETTING: &str = "K$x";

impl RedisLeases {
    /// Subscribes to the changes of leases; when it returns, the subscription stands.
    pub(super) async fn subscribe(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let subscriber = Subscriber::new(self.clone());
        let pubsub = subscriber.connect().await?;
        let (hints, waiting) = mpsc::channel(WAITING_HINTS);
        let task = AbortOnDropHandle::new(tokio::spawn(subscriber.run(pubsub, hints)));
        let stream = ReceiverStream::new(waiting).map(move |hint| {
            let _ends_with_the_stream = &task;
            hint
        });
        Ok(stream.boxed())
    }
}

struct Subscriber {
    store: RedisLeases,
    /// What stands before the instance in a channel's name.
    channel_prefix: String,
    probe_key: String,
    probe_channel: String,
    /// The check's own notification arrived.
    heard: Notify,
    /// Hints were lost because the reader is slow.
    overflowed: AtomicBool,
}

impl Subscriber {
    fn new(store: RedisLeases) -> Self {
        let database = store.client.get_connection_info().redis_settings().db();
        let probe_key = format!("{}probe:{:016x}", store.prefix, fastrand::u64(..));
        Subscriber {
            channel_prefix: format!("__keyspace@{database}__:{}", store.lease_prefix()),
            probe_channel: format!("__keyspace@{database}__:{probe_key}"),
            probe_key,
            store,
            heard: Notify::new(),
            overflowed: AtomicBool::new(false),
        }
    }

    async fn connect(&self) -> Result<PubSub, StoreError> {
        let connecting = async {
            let mut pubsub = self.store.client.get_async_pubsub().await?;
            pubsub
                .psubscribe(format!("{}*", escape_glob(&self.channel_prefix)))
                .await?;
            pubsub.subscribe(&self.probe_channel).await?;
            Ok(pubsub)
        };
        tokio::time::timeout(REQUEST_TIMEOUT, connecting)
            .await
            .map_err(|_| {
                self.store
                    .unavailable(format!("no subscription within {REQUEST_TIMEOUT:?}"))
            })?
            .map_err(|error| self.store.store_error(error))
    }

    async fn run(self, mut pubsub: PubSub, hints: mpsc::Sender<Hint>) {
        loop {
            let reason = tokio::select! {
                () = self.forward(pubsub.into_on_message(), &hints) => "the connection was lost",
                () = self.check(&hints) => "it is silent",
                () = hints.closed() => return,
            };
            tracing::warn!(
                redis = self.store.address,
                reason,
                "subscribing to lease changes again"
            );
            let mut backoff = Backoff::default();
            pubsub = loop {
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => {}
                    () = hints.closed() => return,
                }
                match self.connect().await {
                    Ok(pubsub) => break pubsub,
                    Err(error) => tracing::debug!(%error, "no subscription"),
                }
            };
            if hints.send(Hint::Gap).await.is_err() {
                return;
            }
        }
    }

    /// Passes notifications on until the connection ends.
    async fn forward(&self, mut messages: impl Stream<Item = Msg> + Unpin, hints: &mpsc::Sender<Hint>) {
        while let Some(message) = messages.next().await {
            let channel = message.get_channel_name();
            if channel == self.probe_channel {
                self.heard.notify_one();
                continue;
            }
            // `expire` tells of a renewal, which changes nothing; it comes where the server notifies of everything.
            let told = matches!(message.get_payload_bytes(), b"expire" | b"persist");
            let Some(instance) = channel.strip_prefix(&self.channel_prefix).filter(|_| !told) else {
                continue;
            };
            if hints.try_send(Hint::Changed(instance.to_owned())).is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Tells of a gap at each check that gives a reason to; returns when the subscription had better be made again.
    async fn check(&self, hints: &mpsc::Sender<Hint>) {
        let mut silent = 0;
        let mut away = false;
        let mut warned = false;
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let (heard, setting, kept) = match self.probe().await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::debug!(%error, "cannot check the notifications");
                    away = true;
                    continue;
                }
            };
            silent = if heard { 0 } else { silent + 1 };
            let off = setting.as_deref().is_some_and(|setting| !suffices(setting));
            if off && !warned {
                self.warn(setting.as_deref().unwrap_or_default());
            }
            warned = off;
            let overflowed = self.overflowed.swap(false, Ordering::Relaxed);
            let gap = !heard || off || !kept || overflowed || std::mem::take(&mut away);
            if gap && hints.send(Hint::Gap).await.is_err() {
                return;
            }
            if silent >= SILENT_CHECKS && !off {
                return;
            }
        }
    }

    /// Whether a write is notified of, the server's setting where it may be read, whether the data is still there.
    async fn probe(&self) -> Result<(bool, Option<String>, bool), StoreError> {
        // One that came late belongs to an earlier probe.
        let _ = tokio::time::timeout(Duration::ZERO, self.heard.notified()).await;
        let mut write = redis::pipe();
        write
            .cmd("SET")
            .arg(&self.probe_key)
            .arg(1)
            .arg("PX")
            .arg(10_000)
            .ignore();
        self.store.query::<()>(&write).await?;
        let heard = tokio::time::timeout(PROBE_TIMEOUT, self.heard.notified())
            .await
            .is_ok();
        let mut ask = redis::pipe();
        ask.cmd("CONFIG").arg("GET").arg("notify-keyspace-events");
        let setting = match self.store.query::<(HashMap<String, String>,)>(&ask).await {
            Ok((mut settings,)) => settings.remove("notify-keyspace-events"),
            // Managed servers and careful ACLs forbid it; the probe's own notification has to do.
            Err(StoreError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let source = self.store.source().await?;
        let kept = self
            .store
            .swept
            .lock()
            .as_ref()
            .is_none_or(|swept| *swept == source);
        Ok((heard, setting, kept))
    }

    fn warn(&self, setting: &str) {
        tracing::error!(
            redis = self.store.address,
            setting,
            "Redis does not notify of lease changes, so all leases are swept every few seconds; turn it on with \
             `CONFIG SET notify-keyspace-events {SETTING}` and in redis.conf"
        );
    }
}

/// Whether a `notify-keyspace-events` setting tells by key of writes and of expired keys.
fn suffices(setting: &str) -> bool {
    let has = |class| setting.contains(class);
    has('K') && (has('A') || (has('$') && has('x')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_tell_by_key_of_writes_and_expiry_suffice() {
        for setting in [SETTING, "KEA", "AK", "xKg$"] {
            assert!(suffices(setting), "{setting}");
        }
        for setting in ["", "Ex", "EA", "K$", "Kx", "Kg"] {
            assert!(!suffices(setting), "{setting}");
        }
    }
}
