//! A subscriber of Redis' notifications without any of the pump's guards: what the cases of notifications measure against.

use std::sync::{Arc, Mutex, PoisonError};

use rsf_testkit::{RedisServer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// It subscribes once, believes what it is told, and never looks itself.
pub(crate) struct PlainSubscriber {
    told: Arc<Mutex<String>>,
    _task: AbortOnDropHandle<()>,
}

impl PlainSubscriber {
    pub(crate) async fn start(redis: &RedisServer) -> PlainSubscriber {
        let mut connection = TcpStream::connect(redis.address()).await.expect("Redis answers");
        connection
            .write_all(b"PSUBSCRIBE __keyspace@0__:*\r\n")
            .await
            .expect("Redis answers");
        let told: Arc<Mutex<String>> = Arc::default();
        let heard = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(read @ 1..) = connection.read(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..read]);
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        let subscriber = PlainSubscriber {
            told,
            _task: AbortOnDropHandle::new(task),
        };
        eventually(rsf_suite::SOON, async || {
            let subscribed = subscriber.heard_of("psubscribe");
            subscribed.then_some(()).ok_or("no answer")
        })
        .await;
        subscriber
    }

    /// Whether it was told something with `text` in it.
    pub(crate) fn heard_of(&self, text: &str) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.contains(text)
    }
}
