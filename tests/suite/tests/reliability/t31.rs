//! T31: somebody writes bad lists over a good one, past the pump: damaged, bombs, oversized, blank, impossible.

use std::time::Duration;

use rsf::Application;
use rsf_registry::directory::Reason;
use rsf_registry::record::ServiceList;
use rsf_registry::{Backend, Observed};
use rsf_suite::{Case, Kind, Lists, Load, MEMBERS, SOON, Site};
use tokio::time::{Instant, sleep};

use crate::bad_lists::{MEMORY, bad_lists, peak_memory, record};
use crate::ground::{RATE, three_and_customers};
use crate::raw_directory::RawDirectory;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t31_cluster() {
    let mut case = Case::begin("T31");
    damage(&mut case, bad_lists).await;
    case.end();
}

/// A good list in the place of the bad ones: where each one of them is nothing but dead addresses, it is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t31_control_a_good_list() {
    let mut case = Case::begin("T31-control");
    damage(&mut case, |good, _| {
        let mut list = good.clone();
        list.version.as_mut().expect("lists have one").sequence += 1;
        for instance in &mut list.instances {
            instance.address = "127.0.0.1:1".to_owned();
        }
        vec![("a good list", record(&list), Reason::Damaged)]
    })
    .await;
    case.end_red();
}

type BadLists = Vec<(&'static str, Vec<u8>, Reason)>;

async fn damage(case: &mut Case, lists: impl FnOnce(&ServiceList, &[u8]) -> BadLists) {
    let mut site = Site::start(Kind::Cluster).await;
    let (_providers, customers) = three_and_customers(&site).await;
    let good = published(&site).await;
    let namespace = site.namespace();
    let raw = RawDirectory::connect(site.zookeepers(), namespace).await;
    let (path, stored) = raw.read(MEMBERS).await.remove(0);
    let lists = lists(&good, &stored);
    let (load, seen) = (Load::start(&customers, RATE).await, Lists::watch(&customers));

    // What came before does not count.
    peak_memory();
    let before = peak_memory();
    let mut written = 0;
    for (what, bytes, reason) in lists {
        let count = refused(&customers, reason);
        raw.write_all(&[(path.clone(), bytes)]).await;
        written += 1;
        let counted = become_more(&customers, reason, count).await;
        case.hold(format!("{what} is not counted as {}", reason.as_str()), counted);
    }
    let cost = peak_memory().saturating_sub(before);
    let shortest = seen.shortest().await;
    let report = load.stop().await;
    case.figure("bad_lists", written);
    case.figure("memory_mib", cost >> 20);
    case.load(&report);
    case.figure("list_min", format!("{shortest}/3"));
    case.hold(format!("refusing them took {cost} bytes"), cost < MEMORY);
    let failures = &report.failures;
    case.hold(format!("calls failed: {failures:?}"), report.total.failed == 0);
    case.hold(format!("the list had {shortest} of 3 instances"), shortest == 3);

    // The pump's next list is taken.
    let _fourth = site.provider("4", &[]).await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3", "shop/4"], SOON).await;
    customers.shutdown().await;
    site.stop().await;
}

/// The members' list as the pump published it.
async fn published(site: &Site) -> ServiceList {
    let url = site.registry().parse().expect("the site's own registry");
    let backend = Backend::open(&url, site.namespace()).expect("the site's own registry");
    let mut watch = backend.directory.watch(MEMBERS);
    loop {
        match watch.changed().await {
            Some(Observed::Present(list)) => return (*list).clone(),
            Some(_) => {}
            None => panic!("the directory ends the watch"),
        }
    }
}

/// Waits a little until more lists were refused for this reason; whether they were.
async fn become_more(consumer: &Application, reason: Reason, than: u64) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while refused(consumer, reason) <= than {
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}

/// How many lists this consumer says that it refused for this reason.
fn refused(consumer: &Application, reason: Reason) -> u64 {
    let families = consumer.metrics().gather();
    let family = families
        .iter()
        .find(|family| family.name() == "rsf_registry_lists_refused_total");
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let counted = metrics.iter().find(|metric| {
        metric
            .get_label()
            .iter()
            .any(|label| label.value() == reason.as_str())
    });
    counted.map_or(0, |metric| metric.get_counter().get_value() as u64)
}
