//! T03: a consumer starts while the whole control plane is dead, and its newest snapshots are damaged.

use std::fs;
use std::path::Path;

use rsf_suite::{Case, Kind};

use crate::outage::{is_predecessor, snapshots, start_in_an_outage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_truncated() {
    let mut case = Case::begin("T03-truncated");
    let mut chance = case.chance();
    start_in_an_outage(&mut case, Kind::Cluster, |lists| {
        damage(lists, true, |bytes| bytes[..chance.usize(..bytes.len())].to_vec())
    })
    .await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_one_bit() {
    let mut case = Case::begin("T03-bit");
    let mut chance = case.chance();
    start_in_an_outage(&mut case, Kind::Embedded, |lists| {
        damage(lists, true, |bytes| flip_a_bit(bytes, &mut chance))
    })
    .await;
    case.end();
}

/// Without a good older copy there is nothing to start from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t03_control_without_an_older_copy() {
    let mut case = Case::begin("T03-control");
    let mut chance = case.chance();
    start_in_an_outage(&mut case, Kind::Embedded, |lists| {
        damage(lists, false, |bytes| flip_a_bit(bytes, &mut chance))
    })
    .await;
    case.end_red();
}

fn damage(lists: &Path, only_newest: bool, mut how: impl FnMut(&[u8]) -> Vec<u8>) {
    for file in snapshots(lists) {
        if only_newest && is_predecessor(&file) {
            continue;
        }
        let bytes = fs::read(&file).expect("a snapshot");
        fs::write(&file, how(&bytes)).expect("a snapshot");
    }
}

fn flip_a_bit(bytes: &[u8], chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = chance.usize(..bytes.len());
    bytes[place] ^= 1 << chance.u8(..8);
    bytes
}
