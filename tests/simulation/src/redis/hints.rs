//! Notifications as hints, checked every other second as RSF's own client does.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rsf_registry::{Hint, StoreError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::RedisClient;
use super::server::Notification;

/// The pause between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn subscribe(client: RedisClient) -> Result<BoxStream<'static, Hint>, StoreError> {
    let notifications = connect(&client).await?;
    let (hints, waiting) = mpsc::channel(10_000);
    tokio::spawn(run(client, notifications, hints));
    Ok(ReceiverStream::new(waiting).boxed())
}

async fn connect(client: &RedisClient) -> Result<mpsc::UnboundedReceiver<Notification>, StoreError> {
    client
        .redis
        .ask(&client.process, |state, _| Ok(state.subscribe()))
        .await
}

/// Passes notifications on; tells of a gap where some may be missing.
async fn run(
    client: RedisClient,
    mut notifications: mpsc::UnboundedReceiver<Notification>,
    hints: mpsc::Sender<Hint>,
) {
    let mut check_at = Instant::now() + CHECK_EVERY;
    let mut away = false;
    loop {
        client.process.running().await;
        tokio::select! {
            biased;
            () = hints.closed() => return,
            notification = notifications.recv() => match notification {
                Some(notification) => {
                    sleep_until(notification.at + client.redis.chance.millis(0, 3)).await;
                    if hints.send(Hint::Changed(notification.instance)).await.is_err() {
                        return;
                    }
                }
                None => {
                    notifications = loop {
                        if hints.is_closed() {
                            return;
                        }
                        sleep(client.redis.chance.millis(100, 2_000)).await;
                        if let Ok(notifications) = connect(&client).await {
                            break notifications;
                        }
                    };
                    if hints.send(Hint::Gap).await.is_err() {
                        return;
                    }
                }
            },
            () = sleep_until(check_at) => {
                check_at = Instant::now() + CHECK_EVERY;
                let seen = client.redis.ask(&client.process, |state, _| Ok((state.notifies, state.identity()?)));
                let Ok((notifies, source)) = seen.await else {
                    away = true;
                    continue;
                };
                let kept = client.swept.lock().as_ref().is_none_or(|swept| *swept == source);
                let gap = !notifies || !kept || std::mem::take(&mut away);
                if gap && hints.send(Hint::Gap).await.is_err() {
                    return;
                }
            }
        }
    }
}
