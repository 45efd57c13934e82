//! Two pumps: only one writes, whatever becomes of the other.

use std::path::PathBuf;
use std::time::Duration;

use rsf_registry::{StoreError, cluster};
use rsf_testkit::{Process, Program, TempDir, ZooKeeper, eventually};

use tokio::time::Instant;

use crate::{NOBODY, PATIENCE, list, observe_version, with_zookeeper};

const SERVICE: &str = "shop.v1.MemberService";
/// Names the child's ZooKeeper, and the file that tells it to write.
const CHILD: [&str; 2] = ["RSF_TEST_ZOOKEEPER", "RSF_TEST_GO"];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_froze_past_its_session_is_fenced_when_it_goes_on() {
    let zookeeper = ZooKeeper::start().await;
    let folder = TempDir::new("pumps");
    let go = folder.join("go");
    let child = Program::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "pumps::the_leader_that_freezes",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD[0], zookeeper.address().to_string())
        .env(CHILD[1], &go)
        .start();
    let first = epoch(&child.line("leads", PATIENCE).await);
    let second = with_zookeeper(&zookeeper);
    child.pause().await;
    let term = tokio::time::timeout(PATIENCE, second.writer.lead("second", 0))
        .await
        .unwrap()
        .unwrap();
    assert!(term.epoch > first, "{} after {first}", term.epoch);
    second
        .writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    std::fs::write(&go, "").unwrap();
    child.resume();
    let outcome = child.line("outcome", PATIENCE).await;
    assert!(outcome.contains("Fenced"), "{outcome}");
    let told = child.line("term", PATIENCE).await;
    assert!(told.contains("lost"), "{told}");
    assert!(!term.lost.is_cancelled());
    assert_eq!(
        second.writer.lists().await.unwrap(),
        [list(SERVICE, term.epoch, 1)]
    );
}

/// Not a test by itself: the other process of the one above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_leader_that_froze_past_its_session_is_fenced_when_it_goes_on"]
async fn the_leader_that_freezes() {
    let [Ok(zookeeper), Ok(go)] = CHILD.map(std::env::var) else {
        return;
    };
    let pump = cluster::open(&format!("redis://{NOBODY}"), &zookeeper, "default").unwrap();
    let term = pump.writer.lead("first", 0).await.unwrap();
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    println!("leads {}", term.epoch);
    let go = PathBuf::from(go);
    eventually(PATIENCE * 2, async || {
        if go.exists() {
            Ok(())
        } else {
            Err("not told to go on")
        }
    })
    .await;
    let outcome = eventually(PATIENCE, async || {
        match pump.writer.write(&term, &[list(SERVICE, term.epoch, 2)]).await {
            Err(StoreError::Unavailable { reason, .. }) => Err(reason),
            outcome => Ok(outcome),
        }
    })
    .await;
    println!("outcome {outcome:?}");
    tokio::time::timeout(PATIENCE, term.lost.cancelled())
        .await
        .unwrap();
    println!("term lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_ends_the_term_and_the_next_one_is_later() {
    let mut zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    zookeeper.kill9().await;
    tokio::time::timeout(Duration::from_secs(5), term.lost.cancelled())
        .await
        .expect("in doubt at once");
    zookeeper.restart().await;
    let next = tokio::time::timeout(PATIENCE, pump.writer.lead("pump", 0))
        .await
        .unwrap()
        .unwrap();
    assert!(next.epoch > term.epoch);
    let refused = pump.writer.write(&term, &[list(SERVICE, term.epoch, 1)]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    pump.writer
        .write(&next, &[list(SERVICE, next.epoch, 1)])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidacy_given_up_stands_in_nobodys_way() {
    let zookeeper = ZooKeeper::start().await;
    let pumps = [0; 3].map(|_| with_zookeeper(&zookeeper));
    let term = pumps[0].writer.lead("a", 0).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(500), pumps[1].writer.lead("b", 0)).await;
    assert!(waiting.is_err(), "two pumps must not lead at once");
    term.lost.cancel();
    let next = tokio::time::timeout(PATIENCE, pumps[2].writer.lead("c", 0))
        .await
        .unwrap()
        .unwrap();
    assert!(next.epoch > term.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_written_by_somebody_else_ends_the_term() {
    let zookeeper = ZooKeeper::start().await;
    let pump = with_zookeeper(&zookeeper);
    let term = pump.writer.lead("pump", 0).await.unwrap();
    let operator = zookeeper_client::Client::connect(&zookeeper.address().to_string())
        .await
        .unwrap();
    let later = (term.epoch + 5).to_string();
    operator
        .set_data("/rsf/default/pump/epoch", later.as_bytes(), None)
        .await
        .unwrap();
    let refused = pump.writer.write(&term, &[list(SERVICE, term.epoch, 1)]).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    tokio::time::timeout(PATIENCE, term.lost.cancelled())
        .await
        .unwrap();
    let next = pump.writer.lead("pump", 0).await.unwrap();
    assert_eq!(next.epoch, term.epoch + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_whose_leader_dies_is_written_again_soon() {
    written_again(
        async |leader: &Process| assert!(!leader.kill9().await.success()),
        Duration::from_secs(5),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_whose_leader_freezes_is_written_again_soon() {
    written_again(
        async |leader: &Process| leader.pause().await,
        Duration::from_secs(15),
    )
    .await;
}

async fn written_again(fault: impl AsyncFn(&Process), within: Duration) {
    let ensemble = ZooKeeper::ensemble(3).await;
    let servers = ensemble.url().replace("zk://", "");
    let open = || cluster::open(&format!("redis://{NOBODY}"), &servers, "default").unwrap();
    let (pump, consumers) = (open(), [0; 6].map(|_| open()));
    let term = pump.writer.lead("pump", 0).await.unwrap();
    pump.writer
        .write(&term, &[list(SERVICE, term.epoch, 1)])
        .await
        .unwrap();
    let mut watches = consumers
        .each_ref()
        .map(|consumer| consumer.directory.watch(SERVICE));
    for watch in &mut watches {
        observe_version(watch, term.epoch, 1).await;
    }
    let leader = ensemble.leader().await;
    fault(ensemble.servers[leader].process()).await;
    let begun = Instant::now();
    let epoch = eventually(PATIENCE, async || {
        let term = pump
            .writer
            .lead("pump", 0)
            .await
            .map_err(|error| error.to_string())?;
        let written = pump.writer.write(&term, &[list(SERVICE, term.epoch, 2)]).await;
        written.map(|()| term.epoch).map_err(|error| error.to_string())
    })
    .await;
    println!("written again after {:?}", begun.elapsed());
    assert!(begun.elapsed() < within, "{:?}", begun.elapsed());
    for watch in &mut watches {
        observe_version(watch, epoch, 2).await;
    }
    println!("all consumers told after {:?}", begun.elapsed());
}

fn epoch(line: &str) -> u64 {
    line.rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("no epoch in `{line}`"))
}
