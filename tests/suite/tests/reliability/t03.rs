//! T03: a consumer starts while the whole control plane is dead, and its newest snapshots are damaged.

use std::fs;
use std::path::Path;

use rsf_suite::{Case, Kind};

use crate::outage::{is_predecessor, snapshots, start_in_an_outage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_truncated() {
    let mut case = Case::begin("T03-truncated");
    start_in_an_outage(&mut case, Kind::Cluster, |lists| damage(lists, true, truncate)).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_one_bit() {
    let mut case = Case::begin("T03-bit");
    start_in_an_outage(&mut case, Kind::Embedded, |lists| damage(lists, true, flip_a_bit)).await;
    case.end();
}

/// Without a good older copy there is nothing to start from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_control_without_an_older_copy() {
    let mut case = Case::begin("T03-control");
    start_in_an_outage(&mut case, Kind::Embedded, |lists| {
        damage(lists, false, flip_a_bit)
    })
    .await;
    case.end_red();
}

fn damage(lists: &Path, only_newest: bool, how: fn(&mut Vec<u8>)) {
    for file in snapshots(lists) {
        if only_newest && is_predecessor(&file) {
            continue;
        }
        let mut bytes = fs::read(&file).expect("a snapshot");
        how(&mut bytes);
        fs::write(&file, bytes).expect("a snapshot");
    }
}

fn truncate(bytes: &mut Vec<u8>) {
    bytes.truncate(fastrand::usize(..bytes.len()));
}

#[allow(
    clippy::ptr_arg,
    reason = "it is one of the ways to damage a file, some of which shorten it"
)]
fn flip_a_bit(bytes: &mut Vec<u8>) {
    let place = fastrand::usize(..bytes.len());
    bytes[place] ^= 1 << fastrand::u8(..8);
}
