//! Damage of every kind to a disk snapshot.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::record::{ListVersion, ListedInstance};

fn list(service: &str, sequence: u64, instances: usize) -> ServiceList {
    let instance = |n: usize| ListedInstance {
        instance: format!("member/{n}"),
        address: format!("127.0.0.1:{}", n + 1),
        application: "member".into(),
        weight: 100,
        ..Default::default()
    };
    ServiceList {
        service: service.into(),
        version: Some(ListVersion { epoch: 1, sequence }),
        instances: (0..instances).map(instance).collect(),
        ..Default::default()
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    for instances in [0, 1, 7] {
        let bytes = encode(&list("shop.v1.Member", 3, instances));
        assert_eq!(
            decode::<ServiceList>(&bytes).expect("whole"),
            list("shop.v1.Member", 3, instances)
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            decode::<ServiceList>(&damaged).expect_err("a flipped bit");
        }
        for length in 0..bytes.len() {
            decode::<ServiceList>(&bytes[..length]).expect_err("truncated");
        }
        decode::<ServiceList>(&[&bytes[..], &[0]].concat()).expect_err("too long");
        decode::<PolicyRecord>(&bytes).expect_err("another kind");
    }
}

#[test]
fn noise_never_panics() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..random.usize(..64)).map(|_| random.u8(..)).collect();
        if random.bool() && bytes.len() > HEADER {
            // Past the checksum, into the payload's decoder.
            let payload = bytes.split_off(HEADER);
            bytes.clear();
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(&[0, 1, 0, 1]);
            bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
            let sum = checksum(&bytes[4..], &payload);
            bytes.extend_from_slice(&sum.to_be_bytes());
            bytes.extend_from_slice(&payload);
        }
        let _ = decode::<ServiceList>(&bytes);
    }
}

#[test]
fn a_damaged_file_yields_its_predecessor() {
    let state = tempfile::tempdir().expect("folder");
    let folder = SnapshotFolder::new(state.path(), "default");
    let (key, random) = ("shop.v1.Member:gold", &mut fastrand::Rng::with_seed(3));
    assert!(folder.load::<ServiceList>(key).expect("nothing there").is_none());
    folder.save(&list(key, 1, 3)).expect("save");
    folder.save(&list(key, 2, 3)).expect("save");
    let path = folder.path(Kind::List, key);
    let whole = fs::read(&path).expect("read");
    for n in 0..300 {
        let mut damaged = whole.clone();
        if n % 2 == 0 {
            damaged[random.usize(..whole.len())] ^= 1 << random.u8(..8);
        } else {
            damaged.truncate(random.usize(..whole.len()));
        }
        fs::write(&path, &damaged).expect("damage");
        assert_eq!(
            folder.load::<ServiceList>(key).expect("loads"),
            Some(list(key, 1, 3))
        );
    }
    fs::write(predecessor(&path), b"RSFS").expect("damage both");
    let error = folder
        .load::<ServiceList>(key)
        .expect_err("both damaged")
        .to_string();
    assert!(error.contains("shop.v1.Member%3agold"), "{error}");
    fs::remove_file(&path).expect("remove");
    folder
        .load::<ServiceList>(key)
        .expect_err("only a damaged predecessor");
    folder.save(&list(key, 3, 3)).expect("save");
    assert_eq!(
        folder.load::<ServiceList>(key).expect("loads"),
        Some(list(key, 3, 3))
    );
}

#[test]
fn a_cut_between_the_renames_yields_the_predecessor() {
    let state = tempfile::tempdir().expect("folder");
    let folder = SnapshotFolder::new(state.path(), "default");
    folder.save(&list("a.A", 1, 1)).expect("save");
    let path = folder.path(Kind::List, "a.A");
    fs::rename(&path, predecessor(&path)).expect("as the save does first");
    assert_eq!(
        folder.load::<ServiceList>("a.A").expect("loads"),
        Some(list("a.A", 1, 1))
    );
}

#[test]
fn files_are_private_and_stay_inside() {
    let state = tempfile::tempdir().expect("folder");
    let folder = SnapshotFolder::new(state.path(), "default");
    let long = "ü".repeat(200);
    for key in ["../../etc/passwd", ".hidden", "a/b", long.as_str(), "x.prev"] {
        let record = PolicyRecord {
            scope: key.into(),
            revision: 1,
            document: "{}".into(),
            ..Default::default()
        };
        folder.save(&record).expect("save");
        let path = folder.path(Kind::Policy, key);
        assert_eq!(
            path.parent().expect("parent"),
            state.path().join("snapshots/default/policies")
        );
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
        assert_eq!(folder.load::<PolicyRecord>(key).expect("loads"), Some(record));
    }
}

#[test]
fn a_giant_file_is_refused_unread() {
    let state = tempfile::tempdir().expect("folder");
    let folder = SnapshotFolder::new(state.path(), "default");
    folder.save(&list("a.A", 1, 1)).expect("save");
    let file = OpenOptions::new()
        .write(true)
        .open(folder.path(Kind::List, "a.A"))
        .expect("open");
    file.set_len(1 << 40).expect("sparse");
    folder.load::<ServiceList>("a.A").expect_err("too large");
}

#[test]
fn no_temporary_file_stays() {
    let state = tempfile::tempdir().expect("folder");
    let folder = SnapshotFolder::new(state.path(), "default");
    folder.save(&list("a.A", 1, 1)).expect("save");
    let path = folder.path(Kind::List, "a.A");
    let others = |name: &str, age: u64| {
        let other = path.with_file_name(name);
        let file = File::create(&other).expect("create");
        let past = std::time::SystemTime::now() - Duration::from_secs(age);
        file.set_modified(past).expect("an older time");
        other
    };
    let (dead, writing) = (others("a.A.rsf.17.tmp", 3_600), others("b.B.rsf.18.tmp", 1));
    folder.tidy();
    assert!(!dead.exists(), "a killed process's");
    assert!(writing.exists(), "another process may be writing it");
    assert!(folder.load::<ServiceList>("a.A").expect("loads").is_some());
    fs::remove_file(writing).expect("remove");
    // A save that cannot be finished leaves nothing either.
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("a folder stands in the way");
    fs::write(path.join("x"), "x").expect("and is not empty");
    folder
        .save(&list("a.A", 2, 1))
        .expect_err("no file can be put there");
    let left = fs::read_dir(path.parent().expect("parent")).expect("read");
    let temporary = left
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(temporary.count(), 0);
}
