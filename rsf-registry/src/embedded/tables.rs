//! The one file behind the embedded registry: redb tables and the transactions on them. Everything here blocks.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::StoreError;
use crate::directory::open::Opened;
use crate::directory::sealed::shard_names;
use crate::directory::{ListOpener, SealedList};
use crate::record::{Lease, PolicyRecord};

/// (namespace, key) → record, all of them.
type Records = TableDefinition<'static, (&'static str, &'static str), &'static [u8]>;

const LEASES: TableDefinition<'static, (&str, &str), (u64, &[u8])> = TableDefinition::new("leases");
/// Sealed heads, in place of the unsealed lists of older files.
const HEADS: Records = TableDefinition::new("heads");
/// (namespace, service@shard) → sealed shard.
const SHARDS: Records = TableDefinition::new("shards");
const POLICIES: Records = TableDefinition::new("policies");
const EPOCHS: TableDefinition<'static, &str, u64> = TableDefinition::new("epochs");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

/// Rises when an older program could not read the file any more.
const FORMAT: u64 = 1;

/// The file, open until [`Tables::close`] or the end of this value.
#[derive(Debug)]
pub(crate) struct Tables {
    /// `None` once closed. Transactions share it: redb puts writers in order itself.
    database: RwLock<Option<Database>>,
    path: PathBuf,
}

/// One namespace as it was read at start.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) leases: Vec<(Lease, Duration)>,
    pub(crate) lists: Vec<SealedList>,
    pub(crate) policies: Vec<PolicyRecord>,
}

impl Tables {
    /// Opens or creates the file; a file that was cut off by a kill is repaired to its last commit.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Refused {
            backend: "registry",
            reason: format!("cannot open {}: {reason}", path.display()),
        };
        // Made before the database makes it: leases and policies are their owner's alone.
        let made = std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        drop(made);
        let database = Database::create(path).map_err(|error| {
            refused(match error {
                DatabaseError::DatabaseAlreadyOpen => {
                    "another process serves from it; stop that one, or name another file".to_owned()
                }
                other => format!(
                    "{other}; check that the folder exists and is writable and that the file is a registry's"
                ),
            })
        })?;
        let tables = Tables {
            database: RwLock::new(Some(database)),
            path: path.to_owned(),
        };
        match tables.prepare() {
            Ok(FORMAT) => Ok(tables),
            Ok(other) => Err(refused(format!(
                "its format is {other}, this program knows {FORMAT}; update it"
            ))),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Waits for running transactions and releases the file; from then on every request is refused.
    pub(crate) fn close(&self) {
        self.database.write().take();
    }

    /// That the file is still open; for what happens in memory alone.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.database.read().is_some() {
            Ok(())
        } else {
            Err(self.closed())
        }
    }

    fn closed(&self) -> StoreError {
        let reason = "it was closed in this process; open it again".to_owned();
        StoreError::Unavailable {
            backend: "registry",
            address: self.path(),
            reason,
        }
    }

    /// Reads a namespace; records that cannot be read are left in the file and reported.
    pub(crate) fn load(&self, namespace: &str) -> Result<Loaded, StoreError> {
        self.read(|transaction| {
            let mut loaded = Loaded::default();
            for row in transaction.open_table(LEASES)?.range((namespace, "")..)? {
                let (key, value) = row?;
                if key.value().0 != namespace {
                    break;
                }
                let (ttl_ms, bytes) = value.value();
                let lease = decode::<Lease>("lease", key.value().1, bytes);
                loaded
                    .leases
                    .extend(lease.map(|lease| (lease, Duration::from_millis(ttl_ms))));
            }
            let (heads, shards) = (transaction.open_table(HEADS)?, transaction.open_table(SHARDS)?);
            each(&heads, namespace, |service, bytes| {
                loaded.lists.extend(unsealed(service, bytes))
            })?;
            for list in &mut loaded.lists {
                for name in &list.names {
                    let shard = shards.get((namespace, shard_key(&list.service, name).as_str()))?;
                    let shard = shard.map(|bytes| Bytes::copy_from_slice(bytes.value()));
                    list.shards.extend(shard.map(|shard| (name.clone(), shard)));
                }
            }
            each(&transaction.open_table(POLICIES)?, namespace, |key, bytes| {
                loaded.policies.extend(decode("policy", key, bytes))
            })?;
            Ok(loaded)
        })
    }

    /// Begins a term: stores and returns the greatest of the stored epoch + 1 and `least`.
    pub(crate) fn begin_term(&self, namespace: &str, least: u64) -> Result<u64, StoreError> {
        self.change(|transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let stored = epochs.get(namespace)?.map_or(0, |epoch| epoch.value());
            let epoch = stored.saturating_add(1).max(least);
            epochs.insert(namespace, epoch)?;
            Ok(epoch)
        })
    }

    /// Writes lists under a term's epoch; all of them or none. Shards that a list no longer names go.
    pub(crate) fn write_lists(
        &self,
        namespace: &str,
        epoch: u64,
        lists: &[SealedList],
    ) -> Result<(), StoreError> {
        self.change(|transaction| {
            check_epoch(transaction, namespace, epoch)?;
            let mut heads = transaction.open_table(HEADS)?;
            let mut shards = transaction.open_table(SHARDS)?;
            for list in lists {
                let key = (namespace, list.service.as_str());
                let stored = heads.get(key)?.and_then(|bytes| unsealed(key.1, bytes.value()));
                let order = stored.as_ref().map_or((0, 0), |stored| stored.version);
                if list.version < order || list.version.0 > epoch {
                    let reason = format!(
                        "{order:?} is stored in epoch {epoch}, {:?} was offered",
                        list.version
                    );
                    return Err(StoreError::Stale {
                        key: list.service.clone(),
                        reason,
                    }
                    .into());
                }
                for (name, shard) in &list.shards {
                    shards.insert((namespace, shard_key(key.1, name).as_str()), &shard[..])?;
                }
                let former = stored.map(|stored| stored.names).unwrap_or_default();
                for gone in former.iter().filter(|name| !list.names.contains(name)) {
                    shards.remove((namespace, shard_key(key.1, gone).as_str()))?;
                }
                heads.insert(key, &list.head[..])?;
            }
            Ok(())
        })
    }

    /// Deletes lists under a term's epoch; all of them or none.
    pub(crate) fn remove_lists(
        &self,
        namespace: &str,
        epoch: u64,
        services: &[String],
    ) -> Result<(), StoreError> {
        self.change(|transaction| {
            check_epoch(transaction, namespace, epoch)?;
            let mut heads = transaction.open_table(HEADS)?;
            let mut shards = transaction.open_table(SHARDS)?;
            for service in services {
                let head = heads.remove((namespace, service.as_str()))?;
                let names = head.and_then(|head| unsealed(service, head.value()));
                for name in names.map(|list| list.names).unwrap_or_default() {
                    shards.remove((namespace, shard_key(service, &name).as_str()))?;
                }
            }
            Ok(())
        })
    }

    /// Publishes one revision; `false` where exactly this document is already stored under it.
    pub(crate) fn publish(&self, namespace: &str, record: &PolicyRecord) -> Result<bool, StoreError> {
        self.change(|transaction| {
            let mut table = transaction.open_table(POLICIES)?;
            let key = (namespace, record.scope.as_str());
            let stored = table
                .get(key)?
                .and_then(|bytes| decode::<PolicyRecord>("policy", key.1, bytes.value()));
            if let Some(stored) = stored {
                if stored.revision == record.revision && stored.document == record.document {
                    return Ok(false);
                }
                if stored.revision >= record.revision {
                    let reason = format!(
                        "revision {} is stored, {} was offered",
                        stored.revision, record.revision
                    );
                    return Err(StoreError::Stale {
                        key: record.scope.clone(),
                        reason,
                    }
                    .into());
                }
            }
            table.insert(key, record.encode_to_vec().as_slice())?;
            Ok(true)
        })
    }

    /// Writes leases that changed and removes those that are gone.
    pub(crate) fn write_leases(
        &self,
        namespace: &str,
        changes: &[(String, Option<(Lease, Duration)>)],
    ) -> Result<(), StoreError> {
        self.change(|transaction| {
            let mut table = transaction.open_table(LEASES)?;
            for (instance, change) in changes {
                let key = (namespace, instance.as_str());
                match change {
                    Some((lease, ttl)) => {
                        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                        table.insert(key, (ttl_ms, lease.encode_to_vec().as_slice()))?;
                    }
                    None => {
                        table.remove(key)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Makes every table, so that reads find them, and returns the file's format.
    fn prepare(&self) -> Result<u64, StoreError> {
        self.change(|transaction| {
            transaction.open_table(LEASES)?;
            transaction.open_table(HEADS)?;
            transaction.open_table(SHARDS)?;
            transaction.open_table(POLICIES)?;
            transaction.open_table(EPOCHS)?;
            let mut meta = transaction.open_table(META)?;
            let stored = meta.get("format")?.map(|format| format.value());
            if stored.is_none() {
                meta.insert("format", FORMAT)?;
            }
            Ok(stored.unwrap_or(FORMAT))
        })
    }

    /// One durable transaction: on the disk when this returns, or as if it never was.
    fn change<T>(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let run = || {
            let database = self.database.read();
            let transaction = database.as_ref().ok_or_else(|| self.closed())?.begin_write()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|failure| self.error(failure))
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let run = || {
            let database = self.database.read();
            work(&database.as_ref().ok_or_else(|| self.closed())?.begin_read()?)
        };
        run().map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Answer(error) => error,
            Failure::File(error) => StoreError::Refused {
                backend: "registry",
                reason: format!(
                    "{}: {error}; check the disk's space and permissions",
                    self.path.display()
                ),
            },
        }
    }
}

/// What ends a transaction early: the file, or an answer to the caller.
enum Failure {
    File(redb::Error),
    Answer(StoreError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::File(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Answer(error)
    }
}

fn each(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    namespace: &str,
    mut found: impl FnMut(&str, &[u8]),
) -> Result<(), Failure> {
    for row in table.range((namespace, "")..)? {
        let (key, value) = row?;
        if key.value().0 != namespace {
            break;
        }
        found(key.value().1, value.value());
    }
    Ok(())
}

fn shard_key(service: &str, name: &str) -> String {
    format!("{service}@{name}")
}

/// Refuses what a term wants to write once another one has begun.
fn check_epoch(transaction: &redb::WriteTransaction, namespace: &str, epoch: u64) -> Result<(), Failure> {
    let stored = transaction
        .open_table(EPOCHS)?
        .get(namespace)?
        .map_or(0, |epoch| epoch.value());
    match stored == epoch {
        true => Ok(()),
        false => Err(StoreError::Fenced { epoch }.into()),
    }
}

/// A stored list without its shards. One that cannot be opened is left out.
fn unsealed(service: &str, head: &[u8]) -> Option<SealedList> {
    let opened = ListOpener::unverified().open_head(service, head);
    let opened = opened
        .inspect_err(|error| tracing::warn!(service, %error, "left out a stored list that cannot be read"))
        .ok()?;
    let (version, names) = match opened {
        Opened::Head(head) => (head.version, shard_names(&head.shards)),
        Opened::Whole(list) => (list.version, Vec::new()),
    };
    Some(SealedList {
        service: service.to_owned(),
        version: version.unwrap_or_default().order(),
        head: Bytes::copy_from_slice(head),
        names,
        ..SealedList::default()
    })
}

fn decode<M: Message + Default>(what: &str, key: &str, bytes: &[u8]) -> Option<M> {
    M::decode(bytes)
        .inspect_err(|error| tracing::warn!(key, %error, "left out a stored {what} that cannot be read"))
        .ok()
}
