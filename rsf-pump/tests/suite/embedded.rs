//! The pump over the embedded registry: a real file, real fencing, the same clock.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rsf_pump::{Pump, PumpHandle, PumpSettings};
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedStore};
use rsf_registry::record::{LeaseState, RemovalCause, ServiceList};
use rsf_registry::{DirectoryWriter, LeaseStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::twin::{RENEWAL, TTL, lease};
use crate::world::secs;

struct Site {
    store: EmbeddedStore,
    namespace: EmbeddedNamespace,
    handle: PumpHandle,
    pump: AbortOnDropHandle<()>,
    shutdown: CancellationToken,
}

impl Site {
    async fn open(folder: &Path) -> Site {
        let store = EmbeddedStore::open(&folder.join("registry"), &["test"])
            .await
            .expect("a file");
        let namespace = store.namespace("test").expect("served");
        let settings = PumpSettings {
            state_file: Some(folder.join("pump")),
            ..PumpSettings::default()
        };
        let config = settings.validate().expect("valid");
        let (source, writer) = (Arc::new(namespace.clone()), Arc::new(namespace.clone()));
        let pump = Pump::new(vec![source], writer, config, &Registry::new()).expect("a fresh registry");
        let (handle, shutdown) = (pump.handle(), CancellationToken::new());
        let pump = AbortOnDropHandle::new(tokio::spawn(pump.run(shutdown.clone())));
        Site {
            store,
            namespace,
            handle,
            pump,
            shutdown,
        }
    }

    async fn close(self) {
        self.shutdown.cancel();
        self.pump.await.expect("the pump does not panic");
        self.store.close().await;
    }

    async fn renew(&self, instances: std::ops::Range<usize>) {
        for index in instances {
            let lease = lease("s", index);
            self.namespace.put(&lease, TTL).await.expect("put");
        }
    }

    async fn list(&self) -> ServiceList {
        let lists = self.namespace.lists().await.expect("lists");
        lists
            .into_iter()
            .find(|list| list.service == "s")
            .unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn instances_come_leave_and_die_and_survive_a_restart_of_the_registry() {
    let folder = tempfile::tempdir().expect("folder");
    let site = Site::open(folder.path()).await;
    site.renew(0..5).await;
    secs(2).await;
    assert_eq!(site.list().await.instances.len(), 5);

    let mut leaving = lease("s", 4);
    leaving.sequence += 1;
    leaving.set_state(LeaseState::Deregistered);
    site.namespace
        .put(&leaving, Duration::from_secs(3))
        .await
        .expect("tombstone");
    for _ in 0..5 {
        tokio::time::sleep(RENEWAL).await;
        site.renew(0..3).await;
    }
    let list = site.list().await;
    assert_eq!(list.instances.len(), 3, "{:?}", site.handle.status());
    let causes: Vec<_> = list
        .removed
        .iter()
        .map(|gone| (gone.instance.as_str(), gone.cause()))
        .collect();
    assert_eq!(
        causes,
        [
            ("s/0004", RemovalCause::Deregistered),
            ("s/0003", RemovalCause::Expired)
        ]
    );
    let before = list.version.expect("version");
    site.close().await;

    let site = Site::open(folder.path()).await;
    secs(2).await;
    assert_eq!(site.list().await.instances.len(), 3, "a restart shrinks nothing");
    site.renew(0..4).await;
    secs(2).await;
    let list = site.list().await;
    assert_eq!(list.instances.len(), 4);
    assert!(list.version.expect("version").order() > before.order());
    assert!(site.handle.status().ready, "{:?}", site.handle.status());
    site.close().await;
}
