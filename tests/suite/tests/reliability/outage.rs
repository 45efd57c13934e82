//! The whole control plane dead, and consumers that start meanwhile: T01 to T03.

use std::path::{Path, PathBuf};

use rsf::Application;
use rsf_suite::{Case, Kind, Lists, SOON, Site};
use rsf_testkit::eventually;
use shop::v1::{GetMemberRequest, MemberServiceClient};

use crate::ground::patient;

/// Calls that a newcomer makes.
const CALLS: u64 = 50;

/// Lets a consumer use the service until its disk has the list and its predecessor, kills the control plane, does
/// `damage` to the disk, and starts the consumer again. Notes whether its calls succeed.
pub(crate) async fn start_in_an_outage(case: &mut Case, kind: Kind, damage: impl FnOnce(&Path)) {
    let mut site = Site::start(kind).await;
    let _first = tokio::join!(site.provider("1", &[]), site.provider("2", &[]));
    let former = site.consumer("newcomer").await;
    Lists::become_these(&former, &["shop/1", "shop/2"], SOON).await;
    patient(&site).await;
    let lists = site
        .state("newcomer")
        .join("snapshots")
        .join(site.namespace())
        .join("lists");
    saved(&lists, 1).await;
    // One more makes another list, and the one before it the older copy.
    let _third = site.provider("3", &[]).await;
    Lists::become_these(&former, &["shop/1", "shop/2", "shop/3"], SOON).await;
    saved(&lists, 2).await;
    former.shutdown().await;
    site.kill_control_plane().await;
    damage(&lists);

    let newcomer = site.consumer("newcomer").await;
    judge_calls(case, &newcomer).await;
    newcomer.shutdown().await;
}

/// Notes whether this consumer's calls succeed.
pub(crate) async fn judge_calls(case: &mut Case, consumer: &Application) {
    let client: MemberServiceClient = consumer.client();
    let mut failures = Vec::new();
    for id in 1..=CALLS {
        if let Err(error) = client.get(GetMemberRequest { id }).await {
            failures.push(error.to_string());
        }
    }
    case.figure("calls", CALLS);
    case.figure("failed", failures.len());
    case.hold(
        format!(
            "{} calls failed: {}",
            failures.len(),
            failures.first().map_or("", |text| text)
        ),
        failures.is_empty(),
    );
}

/// Waits until each of the shop's lists that is on disk has `copies`.
async fn saved(folder: &Path, copies: usize) {
    eventually(SOON, async || {
        let files = snapshots(folder);
        let newest = files.iter().filter(|file| !is_predecessor(file)).count();
        let there = newest > 0 && files.len() >= newest * copies;
        there.then_some(()).ok_or_else(|| format!("{files:?}"))
    })
    .await;
}

/// The snapshots in a folder, predecessors included.
pub(crate) fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "rsf" || end == "prev"));
    files.sort();
    files
}

/// Whether a snapshot is the older copy.
pub(crate) fn is_predecessor(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "prev")
}
