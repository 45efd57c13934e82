//! The last good lists and policies on disk: what a process starts from when no registry answers.
//!
//! One file a key under `<state>/snapshots/<namespace>/{lists,policies}/`, mode 0600, with its predecessor beside it
//! (`.prev`). A file is `RSFS`, format version (u16), kind (u16), payload length (u32), CRC-32 of all that follows the
//! magic but itself (u32), payload (`rsf.registry.v1`); numbers are big-endian. Everything here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;

use crate::limits;
use crate::record::{PolicyRecord, ServiceList};
use crate::world::Guard;

const MAGIC: &[u8; 4] = b"RSFS";
const FORMAT: u16 = 1;
const HEADER: usize = 16;
/// The most bytes of a snapshot.
pub(crate) const MAX_SNAPSHOT: usize = HEADER + limits::MAX_RECORD;

/// How old a temporary file is that nobody writes any more.
const LEFT_OVER: Duration = Duration::from_secs(60);

/// The longest file name that is written out; longer keys are cut and told apart by a checksum.
const MAX_FILE_NAME: usize = 180;

/// A record that has a snapshot on disk.
pub trait Snapshot: Message + Default + private::Sealed {
    /// Which file it is in.
    const KIND: Kind;
    /// The service key or the scope.
    fn key(&self) -> &str;
    /// Which of two records of one key is newer.
    fn order(&self) -> (u64, u64);
    /// Why the record may not be used.
    fn check(&self) -> Result<(), crate::StoreError>;
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A service's list.
    List,
    /// A scope's policy.
    Policy,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::List => "lists",
            Kind::Policy => "policies",
        }
    }

    fn number(self) -> u16 {
        match self {
            Kind::List => 1,
            Kind::Policy => 2,
        }
    }
}

impl Snapshot for ServiceList {
    const KIND: Kind = Kind::List;
    fn key(&self) -> &str {
        &self.service
    }
    fn order(&self) -> (u64, u64) {
        self.version.as_ref().map_or((0, 0), |version| version.order())
    }
    fn check(&self) -> Result<(), crate::StoreError> {
        limits::check_list(self)
    }
}

impl Snapshot for PolicyRecord {
    const KIND: Kind = Kind::Policy;
    fn key(&self) -> &str {
        &self.scope
    }
    fn order(&self) -> (u64, u64) {
        (0, self.revision)
    }
    fn check(&self) -> Result<(), crate::StoreError> {
        limits::check_policy(self)
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for crate::record::ServiceList {}
    impl Sealed for crate::record::PolicyRecord {}
}

/// Why a snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{path}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are not a whole snapshot of what was asked for.
    #[error("{path} is no good snapshot: {reason}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The snapshots of one namespace.
#[derive(Debug, Clone)]
pub struct SnapshotFolder {
    root: PathBuf,
}

impl SnapshotFolder {
    /// `<state>/snapshots/<namespace>`; it is created when the first snapshot is saved.
    pub fn new(state: &Path, namespace: &str) -> Self {
        SnapshotFolder {
            root: state.join("snapshots").join(namespace),
        }
    }

    /// The file of a key.
    pub fn path(&self, kind: Kind, key: &str) -> PathBuf {
        self.root.join(kind.folder()).join(file_name(key))
    }

    /// Reads the snapshot of `key`, or its predecessor where that is damaged; `None` where there is neither.
    ///
    /// # Errors
    /// What is wrong with the newest file, where there is one and neither can be used.
    pub fn load<M: Snapshot>(&self, key: &str) -> Result<Option<M>, SnapshotError> {
        let path = self.path(M::KIND, key);
        let newest = read(&path, key);
        if let Ok(Some(record)) = newest {
            return Ok(Some(record));
        }
        let predecessor = read(&predecessor(&path), key);
        match (newest, predecessor) {
            (newest, Ok(Some(record))) => {
                if let Err(error) = newest {
                    tracing::warn!(key, %error, "a disk snapshot is refused; its predecessor is used");
                }
                Ok(Some(record))
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(None)) => Ok(None),
        }
    }

    /// Removes the temporary files of processes that were killed while they saved. One that cannot be removed stays.
    pub fn tidy(&self) {
        for kind in [Kind::List, Kind::Policy] {
            let entries = fs::read_dir(self.root.join(kind.folder()));
            for entry in entries.into_iter().flatten().flatten() {
                if is_left_over(&entry) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Writes a snapshot: whole or not at all, and the former one becomes the predecessor.
    ///
    /// # Errors
    /// Where the file system refuses; the former snapshot or its predecessor is then still there.
    pub fn save<M: Snapshot>(&self, record: &M) -> Result<(), SnapshotError> {
        // One at a time in a process, since the temporary file is named after it.
        static SAVING: Mutex<()> = Mutex::new(());
        let _one = SAVING.lock();
        let path = self.path(M::KIND, record.key());
        // A damaged one must not take the place of a good predecessor.
        let good = matches!(read::<M>(&path, record.key()), Ok(Some(_)));
        write(&path, &encode(record), good).map_err(|source| SnapshotError::File { path, source })
    }
}

/// Whether it is what a save leaves that was cut off long ago. A younger one may be another process's that still writes.
fn is_left_over(entry: &fs::DirEntry) -> bool {
    let temporary = Path::new(&entry.file_name())
        .extension()
        .is_some_and(|extension| extension == "tmp");
    let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
    temporary && age().is_some_and(|age| age > LEFT_OVER)
}

fn write(path: &Path, bytes: &[u8], keep_former: bool) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = path.with_added_extension(format!("{}.tmp", std::process::id()));
    let written = write_file(&temporary, bytes).and_then(|()| put_in_place(&temporary, path, keep_former));
    if written.is_err() {
        // A full disk must not be filled further; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn put_in_place(temporary: &Path, path: &Path, keep_former: bool) -> io::Result<()> {
    if keep_former {
        match fs::rename(path, predecessor(path)) {
            // Another process of this machine has just done it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    fs::rename(temporary, path)
}

fn read<M: Snapshot>(path: &Path, key: &str) -> Result<Option<M>, SnapshotError> {
    let failed = |source| SnapshotError::File {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let most = (MAX_SNAPSHOT + 1) as u64;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    let damaged = |reason: String| SnapshotError::Damaged {
        path: path.to_owned(),
        reason,
    };
    checked(&bytes, key).map(Some).map_err(damaged)
}

/// The record of `key` that `bytes` are the snapshot of, or what is wrong with them.
pub(crate) fn checked<M: Snapshot>(bytes: &[u8], key: &str) -> Result<M, String> {
    let record: M = decode(bytes)?;
    if record.key() != key {
        return Err(format!(
            "it is of `{}`, not of `{key}`",
            record.key().escape_debug()
        ));
    }
    record.check().map_err(|error| error.to_string())?;
    Ok(record)
}

/// A record as a snapshot's bytes, for a file or for a peer.
pub(crate) fn encode<M: Snapshot>(record: &M) -> Vec<u8> {
    frame(M::KIND.number(), &record.encode_to_vec())
}

/// `payload` with a snapshot's header.
pub(crate) fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    // A record over the limit is refused before it becomes a snapshot, and on reading.
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    let checksum = checksum(&bytes[MAGIC.len()..], payload);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn decode<M: Snapshot>(bytes: &[u8]) -> Result<M, String> {
    M::decode(unframed(M::KIND.number(), bytes)?).map_err(|error| error.to_string())
}

/// What stands behind a snapshot's header, or what is wrong with that.
pub(crate) fn unframed(kind: u16, bytes: &[u8]) -> Result<&[u8], String> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(format!("it has {} bytes, fewer than its header", bytes.len()));
    };
    let [m0, m1, m2, m3, f0, f1, k0, k1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err("it does not begin with RSFS".to_owned());
    }
    let format = u16::from_be_bytes([f0, f1]);
    if format != FORMAT {
        return Err(format!("its format is {format}, this program knows {FORMAT}"));
    }
    if u16::from_be_bytes([k0, k1]) != kind {
        return Err("it is of another kind".to_owned());
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length != payload.len() || length > limits::MAX_RECORD {
        return Err(format!(
            "{length} bytes are announced, {} are there",
            payload.len()
        ));
    }
    let announced = u32::from_be_bytes([c0, c1, c2, c3]);
    if announced != checksum(&header[MAGIC.len()..HEADER - 4], payload) && Guard::Checksum.stands() {
        return Err("its checksum does not match".to_owned());
    }
    Ok(payload)
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

fn predecessor(path: &Path) -> PathBuf {
    path.with_added_extension("prev")
}

/// A key as a file name: letters, digits, `-` and `_` stand for themselves, dots inside too, the rest as `%xx`.
fn file_name(key: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(key.len());
    for (n, byte) in key.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && n > 0);
        if plain {
            name.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    if name.len() > MAX_FILE_NAME {
        name.truncate(MAX_FILE_NAME);
        // A file that holds another key is refused on reading, so a collision loses a snapshot but mixes nothing up.
        let _ = write!(name, "~{:08x}", crc32fast::hash(key.as_bytes()));
    }
    // No name ends like a predecessor or a temporary file.
    name.push_str(".rsf");
    name
}

#[cfg(test)]
mod tests;
