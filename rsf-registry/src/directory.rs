//! The directory: service → instances lists that the pump writes and consumers watch.
//!
//! A list is sealed once, by the pump ([`ListSealer`]: compressed, in shards where it is large, signed where a key is
//! configured), stored as it is by every backend, and opened by whoever reads it ([`ListOpener`]).

pub mod sealed;

pub mod open;
pub mod refusals;
pub mod seal;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use open::{ListOpener, OpenedList};
pub use refusals::{Reason, Refusal, Refusals};
pub use seal::{ListSealer, SealedShard};
pub use sealed::{MAX_SHARDS, SealedList, shard_of, slot};

use crate::record::ServiceList;
use crate::{StoreError, Watch};

/// Where consumers watch lists.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Watches one list by its service key. Returns at once; the first state arrives when it has been read.
    ///
    /// Each state is one whole list as it was published: shards of different writes are never mixed.
    fn watch(&self, service: &str) -> Watch<ServiceList>;

    /// The keys of all services that have a list, sorted.
    async fn services(&self) -> Result<Vec<String>, StoreError>;

    /// What it opens lists with: the keys that they must be signed with, and what was refused so far. A directory that
    /// opens nothing asks for no signature.
    fn opener(&self) -> ListOpener {
        ListOpener::unverified()
    }
}

/// Where the leading pump writes lists.
///
/// # Errors
/// Of all of its methods: [`StoreError::Unavailable`] where the directory does not answer, and it is unknown whether what was
/// asked has happened; [`StoreError::Refused`] where it answers and will not do it, and the message says what to put right;
/// [`StoreError::Invalid`] and [`StoreError::Stale`] of a list that it will not have. Of several lists the others are stored
/// all the same.
#[async_trait]
pub trait DirectoryWriter: Send + Sync + 'static {
    /// Waits until `pump` leads and returns its term, whose epoch is the greatest of the stored epoch + 1,
    /// `least_epoch` and the Unix seconds. One pump has one term: leading again under the same name ends its former.
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError>;

    /// Every list as it is stored, with all of its shards that are there; whether they are good is the opener's to say.
    async fn stored(&self) -> Result<Vec<SealedList>, StoreError>;

    /// Stores lists, each whole or not at all: its new shards first, and the head that names them last. Shards that a
    /// list names without bringing them are those of earlier writes. [`StoreError::Fenced`] once another term has begun.
    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError>;

    /// Deletes lists; one that is not there is no error. [`StoreError::Fenced`] once another term has begun. A directory
    /// that keeps everything need not implement it.
    async fn remove(&self, term: &Term, services: &[String]) -> Result<(), StoreError> {
        let _ = (term, services);
        Ok(())
    }

    /// Every list that is stored and can be opened, unverified; the others are left out and reported in the log.
    async fn lists(&self) -> Result<Vec<ServiceList>, StoreError> {
        let opener = ListOpener::unverified();
        let opened = self.stored().await?.into_iter().filter_map(|stored| {
            let opened = opener.open(&stored);
            let opened = opened.inspect_err(
                |error| tracing::warn!(service = stored.service, %error, "left out a stored list"),
            );
            opened.ok().map(|opened| opened.list)
        });
        Ok(opened.collect())
    }

    /// Stores whole lists without a signature; for tools. The pump seals its lists itself.
    async fn write(&self, term: &Term, lists: &[ServiceList]) -> Result<(), StoreError> {
        let sealer = ListSealer::unsigned();
        let (mut sealed, mut refused) = (Vec::with_capacity(lists.len()), None);
        for list in lists {
            match sealer.seal(list) {
                Ok(list) => sealed.push(list),
                Err(error) => refused = Some(error),
            }
        }
        self.store(term, &sealed).await?;
        refused.map_or(Ok(()), Err)
    }
}

/// The time in which one pump leads.
#[derive(Debug, Clone)]
pub struct Term {
    /// Greater than that of every earlier term; the first half of each list's version.
    pub epoch: u64,
    /// Cancelled when the leadership is lost or in doubt; a leader that cancels it resigns. Writes are fenced
    /// regardless.
    pub lost: CancellationToken,
}
