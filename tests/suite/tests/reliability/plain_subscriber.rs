//! A subscriber of Redis' notifications without any of the pump's guards: what the cases of notifications measure against.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsf_suite::{Case, Fleet, Kind, Site};
use rsf_testkit::{RedisServer, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::t09::without_sweeps;

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

/// The control of cases in which instances come after `silence`, a command to Redis: who only subscribes is to miss some of
/// `changes` newcomers for as long as the pump had to see them.
pub(crate) async fn misses_changes(id: &'static str, silence: &str, changes: usize, within: Duration) {
    let mut case = Case::begin(id);
    let mut site = Site::start_with(Kind::Cluster, without_sweeps()).await;
    let fleet = Fleet::start(&site, 30, 10).await;
    let subscriber = PlainSubscriber::start(site.redis()).await;
    site.redis().tell(silence).await;
    let ids: Vec<String> = (0..changes)
        .map(|n| fleet.join(&format!("new-{n}"), &[0]))
        .collect();
    fleet.all_registered().await;
    sleep(within).await;
    let seen = ids.iter().filter(|id| subscriber.heard_of(id)).count();
    case.figure("changes", changes);
    case.figure("seen", seen);
    case.hold(format!("{seen} of {changes} changes are seen"), seen == changes);
    site.stop().await;
    case.end_red();
}
