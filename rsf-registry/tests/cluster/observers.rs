//! Observers and local sessions: consumers cost the leader nothing, and outlive the quorum.

use futures_util::future::join_all;
use rsf_registry::Observed;
use rsf_registry::cluster::{self, Cluster};
use rsf_testkit::{ZooKeeper, eventually};

use crate::{NOBODY, PATIENCE, list, observe_version};

const SERVICE: &str = "shop.v1.MemberService";
const CONSUMERS: usize = 20;

fn at(servers: &str) -> Cluster {
    let servers = servers.trim_start_matches("zk://");
    cluster::open(&format!("redis://{NOBODY}"), servers, "default").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_at_an_observer_have_local_sessions_and_keep_their_lists_without_a_quorum() {
    let (mut ensemble, observer) = ZooKeeper::ensemble_and_observer(3).await;
    assert_eq!(observer.mode().await.unwrap(), "observer");
    let pump = at(&ensemble.url());
    let term = pump.writer.lead("pump", 0).await.unwrap();
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    let leader = ensemble.leader().await;
    let global = async || {
        ensemble.servers[leader]
            .figure("zk_global_sessions")
            .await
            .unwrap()
    };
    let before = global().await;

    let consumers: Vec<Cluster> = (0..CONSUMERS).map(|_| at(&observer.url())).collect();
    let mut watches: Vec<_> = consumers
        .iter()
        .map(|consumer| consumer.directory.watch(SERVICE))
        .collect();
    for watch in &mut watches {
        observe_version(watch, term.epoch, 1).await;
    }
    let local = observer.figure("zk_local_sessions").await.unwrap();
    println!(
        "{CONSUMERS} consumers: {local} local sessions at the observer, global ones {before} -> {}",
        global().await
    );
    assert_eq!(local, CONSUMERS as i64);
    assert_eq!(global().await, before, "the leader heard of none of them");
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 2)])
        .await
        .unwrap();
    for watch in &mut watches {
        observe_version(watch, term.epoch, 2).await;
    }

    // The quorum goes and comes back: what consumers know stays, and they are told of what is new.
    ensemble.kill9().await;
    let unserved = consumers.iter().map(|consumer| {
        eventually(PATIENCE, async || match consumer.directory.services().await {
            Ok(_) => Err("the observer still serves it"),
            Err(_) => Ok(()),
        })
    });
    join_all(unserved).await;
    assert!(
        watches
            .iter()
            .all(|watch| matches!(watch.current(), Observed::Present(_)))
    );
    ensemble.restart().await;
    let next = eventually(PATIENCE, async || pump.writer.lead("pump", 0).await).await;
    eventually(PATIENCE, async || {
        pump.writer.write(&next, &[list(SERVICE, next.epoch, 1)]).await
    })
    .await;
    for watch in &mut watches {
        observe_version(watch, next.epoch, 1).await;
    }
}
