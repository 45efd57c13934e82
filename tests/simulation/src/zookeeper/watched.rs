//! The consumers' side: lists watched by watches that fire once and late, through a server that may be behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsf_registry::record::ServiceList;
use rsf_registry::{Directory, Observed, StoreError, Watch};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::{Link, ZooKeeper, ZooKeeperClient};

#[async_trait]
impl Directory for ZooKeeperClient {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        let (sender, receiver) = watch::channel(Observed::Unknown);
        let task = tokio::spawn(keep(
            self.zookeeper.clone(),
            self.link.clone(),
            service.to_owned(),
            sender,
        ));
        Watch::new(receiver, Some(task))
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        self.link
            .ask(&self.zookeeper, |_, state| {
                Ok(state.sealed.keys().cloned().collect())
            })
            .await
    }
}

/// Reads the list and arms a watch; again after each event, each reconnect, and half a minute.
async fn keep(
    zookeeper: Arc<ZooKeeper>,
    link: Arc<Link>,
    service: String,
    sender: watch::Sender<Observed<ServiceList>>,
) {
    let mut last: Option<Option<Arc<ServiceList>>> = None;
    loop {
        let number = link.connected(&zookeeper).await;
        let (watched, fired) = (service.clone(), Arc::new(Notify::new()));
        let (armed, server) = (fired.clone(), link.server());
        let read = link.ask(&zookeeper, move |_, state| {
            state.watchers.entry(watched.clone()).or_default().push(armed);
            Ok((state.seen(&watched, state.lags[server]), state.lags[server]))
        });
        let Ok((list, lag)) = read.await else {
            sleep(zookeeper.chance.millis(50, 2_000)).await;
            continue;
        };
        if last.as_ref() != Some(&list) {
            last = Some(list.clone());
            sender.send_replace(list.map_or(Observed::Absent, Observed::Present));
        }
        tokio::select! {
            biased;
            () = fired.notified() => sleep(lag + zookeeper.chance.millis(0, 5)).await,
            () = link.moved_on(&zookeeper, number) => {
                link.connected(&zookeeper).await;
                sleep(zookeeper.chance.millis(0, 1_000)).await;
            }
            () = sleep(Duration::from_secs(27) + zookeeper.chance.millis(0, 6_000)) => {}
        }
    }
}
