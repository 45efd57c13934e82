//! One round of writes: seals lists and stores them in batches, so that one bad list stops no other.

use std::time::Duration;

use futures_util::future::join;
use rsf_registry::directory::{ListSealer, SealedList};
use rsf_registry::{DirectoryWriter, StoreError, Term};
use tokio::time::timeout;

use super::draft::{Draft, Published};

/// How many lists go into one write.
const WRITE_BATCH: usize = 256;

/// What became of the lists of one round, by their place in it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the directory has of each list that was written.
    pub(super) written: Vec<(usize, Published)>,
    pub(super) failed: Vec<(usize, StoreError)>,
    /// Lists that were deleted.
    pub(super) removed: Vec<String>,
    /// Why lists that were to be deleted may still be there.
    pub(super) not_removed: Option<StoreError>,
}

/// A list on its way.
struct Sealed {
    index: usize,
    list: SealedList,
    published: Published,
}

/// Writes lists in batches. A batch that is refused is written list by list, so that one bad list stops no other.
pub(super) async fn write(
    writer: &dyn DirectoryWriter,
    term: &Term,
    drafts: Vec<Draft>,
    sealer: &ListSealer,
    limit: Duration,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut drafts = drafts.into_iter().enumerate();
    let mut next = seal(&mut drafts, sealer, &mut outcome);
    while !next.is_empty() && !outcome.is_over() {
        let batch = std::mem::take(&mut next);
        let lists: Vec<SealedList> = batch.iter().map(|sealed| sealed.list.clone()).collect();
        // The next batch is sealed while the directory stores this one.
        let sealing = async { seal(&mut drafts, sealer, &mut outcome) };
        let (stored, sealed) = join(write_once(writer, term, &lists, limit), sealing).await;
        next = sealed;
        match stored {
            Ok(()) => outcome.written(batch),
            Err(error) if ends_round(&error) || batch.len() == 1 => outcome.failed(batch, error),
            Err(_) => {
                for sealed in batch {
                    match write_once(writer, term, std::slice::from_ref(&sealed.list), limit).await {
                        Ok(()) => outcome.written(vec![sealed]),
                        Err(error) => outcome.failed.push((sealed.index, error)),
                    }
                }
            }
        }
        // Sealing takes time of a thread that others wait for.
        tokio::task::yield_now().await;
    }
    outcome.give_up(next.into_iter().map(|sealed| sealed.index).collect());
    let rest = drafts.map(|(index, _)| index).collect();
    outcome.give_up(rest);
    outcome
}

/// Deletes lists.
pub(super) async fn remove(
    writer: &dyn DirectoryWriter,
    term: &Term,
    services: Vec<String>,
    limit: Duration,
) -> Outcome {
    let answer = within(limit, "a deletion", writer.remove(term, &services)).await;
    let mut outcome = Outcome::default();
    match answer {
        Ok(()) => outcome.removed = services,
        Err(error) => outcome.not_removed = Some(error),
    }
    outcome
}

/// The next batch; empty when no list is left.
fn seal(
    drafts: &mut impl Iterator<Item = (usize, Draft)>,
    sealer: &ListSealer,
    outcome: &mut Outcome,
) -> Vec<Sealed> {
    let mut sealed = Vec::new();
    while sealed.len() < WRITE_BATCH
        && let Some((index, draft)) = drafts.next()
    {
        match draft.seal(sealer) {
            Ok((list, published)) => sealed.push(Sealed {
                index,
                list,
                published,
            }),
            Err(error) => outcome.failed.push((index, error)),
        }
    }
    sealed
}

impl Outcome {
    fn written(&mut self, batch: Vec<Sealed>) {
        let written = batch.into_iter().map(|sealed| (sealed.index, sealed.published));
        self.written.extend(written);
    }

    /// The first of the batch says why; the others count as failed with it.
    fn failed(&mut self, batch: Vec<Sealed>, error: StoreError) {
        let mut indices = batch.into_iter().map(|sealed| sealed.index);
        self.failed.extend(indices.next().map(|first| (first, error)));
        self.give_up(indices.collect());
    }

    /// Whether trying the next list makes no sense.
    fn is_over(&self) -> bool {
        self.failed.iter().any(|(_, error)| ends_round(error))
    }

    /// Lists that a broken-off round left behind count as failed for now.
    fn give_up(&mut self, indices: Vec<usize>) {
        let reason = "an earlier write of the same round failed";
        let rest = indices
            .into_iter()
            .map(|index| (index, unavailable(reason.into())));
        self.failed.extend(rest);
    }
}

fn ends_round(error: &StoreError) -> bool {
    error.is_transient() || ends_term(error)
}

/// Whether it says that another term has begun.
pub(super) fn ends_term(error: &StoreError) -> bool {
    matches!(error, StoreError::Fenced { .. } | StoreError::Stale { .. })
}

async fn write_once(
    writer: &dyn DirectoryWriter,
    term: &Term,
    lists: &[SealedList],
    limit: Duration,
) -> Result<(), StoreError> {
    if lists.is_empty() {
        return Ok(());
    }
    within(limit, "a write", writer.store(term, lists)).await
}

async fn within(
    limit: Duration,
    what: &str,
    asked: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    let answer = timeout(limit, asked).await;
    answer.unwrap_or_else(|_| Err(unavailable(format!("no answer to {what} within {limit:?}"))))
}

fn unavailable(reason: String) -> StoreError {
    StoreError::Unavailable {
        backend: "directory",
        address: "the directory".into(),
        reason,
    }
}
