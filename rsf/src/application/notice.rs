//! When the directory has told consumers that an instance drains.

use futures_util::future::join_all;
use rsf_registry::record::{LeaseState, ServiceList};
use rsf_registry::{Observed, Watch};

/// Waits until none of these lists offers `instance` any more. For ever where the directory cannot be read, or nobody
/// writes it: bound it.
pub(super) async fn told(lists: Vec<Watch<ServiceList>>, instance: &str) {
    let lists = lists.into_iter().map(|mut list| async move {
        loop {
            match list.current() {
                Observed::Absent => return,
                Observed::Present(list) if !offers(&list, instance) => return,
                Observed::Present(_) | Observed::Unknown => {}
            }
            if list.changed().await.is_none() {
                return std::future::pending().await;
            }
        }
    });
    join_all(lists).await;
}

fn offers(list: &ServiceList, instance: &str) -> bool {
    let mut listed = list.instances.iter();
    let leaves = |state| matches!(state, LeaseState::Draining | LeaseState::Deregistered);
    listed.any(|listed| listed.instance == instance && !leaves(listed.state()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rsf_registry::record::ListedInstance;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;

    /// Two lists.
    struct Lists([watch::Sender<Observed<ServiceList>>; 2]);

    impl Lists {
        fn new() -> Self {
            Lists([(); 2].map(|()| watch::Sender::new(Observed::Unknown)))
        }

        fn say(&self, place: usize, instances: &[(&str, LeaseState)]) {
            let listed = |(name, state): &(&str, LeaseState)| ListedInstance {
                instance: (*name).to_owned(),
                state: (*state).into(),
                ..ListedInstance::default()
            };
            let list = ServiceList {
                instances: instances.iter().map(listed).collect(),
                ..ServiceList::default()
            };
            self.0[place].send_replace(Observed::Present(Arc::new(list)));
        }
    }

    async fn is_told(lists: &Lists) -> bool {
        let watches = lists.0.iter().map(|list| Watch::new(list.subscribe(), None));
        timeout(Duration::from_secs(60), told(watches.collect(), "x/1"))
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn every_list_must_say_so() {
        use LeaseState::{Draining, Up};
        let lists = Lists::new();
        assert!(!is_told(&lists).await, "nothing was read yet");
        lists.say(0, &[("x/1", Draining), ("x/2", Up)]);
        assert!(!is_told(&lists).await, "the other one was not read yet");
        lists.say(1, &[("x/1", Up)]);
        assert!(!is_told(&lists).await, "the other one still offers it");
        lists.say(1, &[("x/2", Up)]);
        assert!(is_told(&lists).await, "who is not listed is not offered");
        lists.say(0, &[("x/1", Up)]);
        lists.0[1].send_replace(Observed::Absent);
        assert!(!is_told(&lists).await);
        let (told, ()) = tokio::join!(is_told(&lists), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lists.say(0, &[("x/1", Draining)]);
        });
        assert!(told, "it hears of the change");
    }
}
