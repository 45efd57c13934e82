//! What a running consumer sees of a service, watched in the background.

use std::collections::BTreeMap;
use std::time::Duration;

use rsf::{Application, Channel, Client};
use rsf_testkit::eventually;
use shop::v1::MemberServiceClient;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often the list is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The list of the members' service in one consumer, watched for how short it ever was.
#[derive(Debug)]
pub struct Lists {
    stop: CancellationToken,
    shortest: JoinHandle<usize>,
}

impl Lists {
    /// Begins to watch.
    pub fn watch(consumer: &Application) -> Lists {
        let (channel, stop) = (members(consumer), CancellationToken::new());
        let stopped = stop.clone();
        let shortest = tokio::spawn(async move {
            let mut shortest = usize::MAX;
            while !stopped.is_cancelled() {
                shortest = shortest.min(listed(&channel));
                tokio::time::sleep(LOOK).await;
            }
            shortest
        });
        Lists { stop, shortest }
    }

    /// Ends watching; how many instances the list had when it was shortest.
    pub async fn shortest(self) -> usize {
        self.stop.cancel();
        self.shortest.await.expect("the list is watched to the end")
    }

    /// Waits until the consumer may call exactly these instances of the members' service.
    ///
    /// # Panics
    /// When it does not within `within`, with what it sees instead.
    #[track_caller]
    pub fn become_these(
        consumer: &Application,
        instances: &[&str],
        within: Duration,
    ) -> impl Future<Output = ()> {
        let channel = members(consumer);
        let mut wanted: Vec<String> = instances.iter().map(|&id| id.to_owned()).collect();
        wanted.sort();
        eventually(within, async move || {
            let seen = weights(&channel);
            if seen.keys().eq(&wanted) {
                Ok(())
            } else {
                Err(format!("{seen:?} instead of {wanted:?}"))
            }
        })
    }
}

/// How many instances the list has, without those that it lost and that are called because they still answer.
fn listed(channel: &Channel) -> usize {
    let view = channel.view();
    let lost = |instance: &str| view.kept.iter().any(|kept| kept == instance);
    view.instances.iter().filter(|seen| !lost(&seen.instance)).count()
}

/// The channel to the members' service.
pub fn members(consumer: &Application) -> Channel {
    consumer.channel(MemberServiceClient::descriptor(), "")
}

/// The instances that may be called, with their weights after policy.
pub fn weights(channel: &Channel) -> BTreeMap<String, u32> {
    let instances = channel.view().instances;
    instances
        .into_iter()
        .map(|instance| (instance.instance, instance.weight))
        .collect()
}
