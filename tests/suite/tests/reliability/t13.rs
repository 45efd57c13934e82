//! T13: a twentieth of all instances dies, then six of ten lose their leases at once and live on, and then they die too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rsf_suite::{Case, Kind, Membership, SiteOptions};
use tokio::time::{Instant, sleep};

use crate::ground::{Ground, seconds};
use crate::source_fault::WITHOUT_PROTECTION;

/// The pump asks an instance that it holds again after so long, and once more before it believes that it is gone; what a
/// round and a busy machine take is on top.
const ASKED_AGAIN: Duration = Duration::from_secs(10 + 3 + 5);
/// Rule R's window and a little more: what was lost before does not count after it.
const WINDOW: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_cluster() {
    many_die("T13", Kind::Cluster, "").await.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_embedded() {
    many_die("T13-embedded", Kind::Embedded, "").await.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_control_without_protection() {
    many_die("T13-control", Kind::Cluster, WITHOUT_PROTECTION)
        .await
        .end_red();
}

async fn many_die(id: &'static str, kind: Kind, pump: &'static str) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        pump,
        ..SiteOptions::default()
    };
    let ground = Ground::start_with(kind, options).await;
    let watched = ground.watch().await;
    let ttl = ground.site.lease_ttl();
    let nodes = ground.fleet.living().values().map(BTreeSet::len).max();
    let nodes = nodes.unwrap_or_default();

    let before = ground.fleet.living();
    (0..nodes / 20).for_each(|node| ground.fleet.kill(&format!("fleet/{node}")));
    let died = Instant::now();
    // Rule R lets a service lose a fifth, or one, without a word; of the small ones that lost more the dead are asked first.
    let small = exceeding(&before, &ground.fleet.living());
    let within = ttl + Duration::from_secs(2);
    let right = watched.fleet.right_but_for(&small, within * 4).await;
    case.figure("a_twentieth_gone_s", seconds(died.elapsed()));
    case.hold(
        format!(
            "a twentieth is gone within {within:?}: {:?}",
            watched.fleet.differences()
        ),
        right.is_some_and(|took| took <= within),
    );
    let right = watched.fleet.right_within(ASKED_AGAIN).await;
    case.figure("asked", small.len());
    case.hold(
        format!("who was asked is gone: {:?}", watched.fleet.differences()),
        right.is_some(),
    );

    sleep(WINDOW).await;
    watched.fleet.mark();
    let before: BTreeMap<String, usize> = ground
        .fleet
        .living()
        .into_iter()
        .map(|(key, members)| (key, members.len()))
        .collect();
    let many: Vec<String> = (nodes / 20..nodes * 13 / 20)
        .map(|node| format!("fleet/{node}"))
        .collect();
    many.iter().for_each(|node| ground.fleet.silence(node));
    sleep(ttl * 3).await;
    let below = |(key, &of): (&String, &usize)| {
        let least = watched.fleet.least(key);
        (least * 2 < of).then(|| format!("{key}: {least} of {of}"))
    };
    let below: Vec<String> = before.iter().filter_map(below).collect();
    let (least, of) = watched.fleet.shortest();
    case.figure("six_of_ten_silent_least", format!("{least}/{of}"));
    case.hold(
        format!("{} lists fell under half: {:?}", below.len(), below.first()),
        below.is_empty(),
    );

    many.iter().for_each(|node| ground.fleet.kill(node));
    let right = watched.fleet.right_within(ASKED_AGAIN * 2).await;
    case.figure(
        "six_of_ten_gone_s",
        right.map_or_else(|| "never".to_owned(), seconds),
    );
    case.hold(
        format!("the dead are gone: {:?}", watched.fleet.differences()),
        right.is_some(),
    );
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}

/// The services that lost more than rule R lets go at once.
fn exceeding(before: &Membership, after: &Membership) -> Vec<String> {
    let exceeds = |(key, members): (&String, &BTreeSet<String>)| {
        let lost = members.len() - after.get(key).map_or(0, BTreeSet::len);
        (lost > (members.len() / 5).max(1)).then(|| key.clone())
    };
    before.iter().filter_map(exceeds).collect()
}
