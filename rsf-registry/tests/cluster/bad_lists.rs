//! Lists that are corrupted, bombs, oversized, blank or impossible, and what refusing them may cost. The case T31 of
//! `make reliability` takes them from here too.

use std::io::Read;

use prost::Message;
use rsf_registry::directory::Reason;
use rsf_registry::record::ServiceList;

/// What refusing may cost in memory, in bytes.
pub(crate) const MEMORY: usize = 64 << 20;

/// A frame with a header that is right in itself.
fn sealed(format: u8, body: &[u8]) -> Vec<u8> {
    let mut stored = b"RSFZ".to_vec();
    stored.push(format);
    stored.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    stored.extend_from_slice(body);
    stored
}

/// A list as it is stored, in one piece.
pub(crate) fn record(list: &ServiceList) -> Vec<u8> {
    sealed(1, &zstd::encode_all(list.encode_to_vec().as_slice(), 3).unwrap())
}

/// The most memory that this process had since the last call, in bytes.
pub(crate) fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kilobytes << 10
}

/// Every bad list with the reason that it is refused for.
pub(crate) fn bad_lists(good: &ServiceList, stored: &[u8]) -> Vec<(&'static str, Vec<u8>, Reason)> {
    let changed = |change: fn(&mut ServiceList)| {
        let mut list = good.clone();
        list.version.as_mut().unwrap().sequence += 1;
        change(&mut list);
        record(&list)
    };
    let mut flipped = stored.to_vec();
    flipped[20] ^= 4;
    let bomb = zstd::encode_all(std::io::repeat(0).take(256 << 20), 1).unwrap();
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(700_000)
        .collect();
    let many = |list: &mut ServiceList| {
        let one = list.instances[0].clone();
        list.instances = (0..20_001)
            .map(|n| {
                let mut listed = one.clone();
                listed.instance = format!("member/{n}");
                listed
            })
            .collect();
    };
    vec![
        ("blank", Vec::new(), Reason::Damaged),
        ("noise", noise[..500].to_vec(), Reason::Damaged),
        ("a flipped bit", flipped, Reason::Damaged),
        ("cut off", stored[..stored.len() - 3].to_vec(), Reason::Damaged),
        (
            "a good header over noise",
            sealed(1, &noise[..500]),
            Reason::Damaged,
        ),
        ("a bomb of 256 MiB", sealed(1, &bomb), Reason::Oversized),
        ("700 000 stored bytes", sealed(1, &noise), Reason::Oversized),
        ("20 001 instances", changed(many), Reason::Oversized),
        ("format 9", sealed(9, b"later"), Reason::Format),
        ("a newer kind", sealed(2, b"\x09\x00later"), Reason::Format),
        (
            "the weight of a NaN",
            changed(|list| list.instances[0].weight = f32::NAN.to_bits()),
            Reason::Invalid,
        ),
        (
            "another service's",
            changed(|list| list.service = "s.Other".into()),
            Reason::Invalid,
        ),
        (
            "no address",
            changed(|list| list.instances[0].address.clear()),
            Reason::Invalid,
        ),
        (
            "twice the same",
            changed(|list| list.instances.push(list.instances[0].clone())),
            Reason::Invalid,
        ),
        (
            "emptied without a word",
            changed(|list| list.instances.clear()),
            Reason::Emptied,
        ),
        (
            "older",
            changed(|list| list.version.as_mut().unwrap().epoch -= 1),
            Reason::Older,
        ),
    ]
}
