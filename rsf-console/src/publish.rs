//! Intent → policy store → confirmation; and the reconciler that finishes what was cut off between the two.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_core::control::Scope;
use rsf_registry::record::PolicyRecord;
use rsf_registry::{PolicyWriter, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::history::{Draft, Entry, History, HistoryError};
use crate::model::Status;

/// Publishes policies. All writes to the store go through one of these, one at a time.
pub struct Publisher {
    history: History,
    store: Arc<dyn PolicyWriter>,
    /// Held while the store is written, so that a scope's revisions reach it in order. The value says whether the
    /// store was read since this process began.
    turn: tokio::sync::Mutex<bool>,
    wake: Notify,
    last_failure: Mutex<String>,
}

/// Why a change was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The history did not take it.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The store holds a newer revision that this console's database did not know; it is being taken in.
    #[error(
        "the policy store holds a newer revision of {scope} than this console's database knew; it is being taken in: read it and try again"
    )]
    Unknown {
        /// What was to be changed.
        scope: String,
        /// The revision that was refused.
        revision: u64,
    },
    /// The store understood and refused. The change is in the audit log as refused.
    #[error("the policy store refused revision {revision}")]
    Refused {
        /// The revision that was refused.
        revision: u64,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// What became of an accepted change.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// As it stands in the history.
    pub entry: Entry,
    /// Why it still waits; `None` where the store has it.
    pub waits: Option<String>,
}

impl Publisher {
    /// Publishes what `history` holds into `store`.
    pub fn new(history: History, store: Arc<dyn PolicyWriter>) -> Self {
        Publisher {
            history,
            store,
            turn: tokio::sync::Mutex::new(false),
            wake: Notify::new(),
            last_failure: Mutex::new("not read yet".to_owned()),
        }
    }

    /// The truth.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Why the store could not be reconciled the last time; empty where it could.
    pub fn last_failure(&self) -> String {
        self.last_failure.lock().clone()
    }

    /// Records a change and publishes it. Where the store is down the change is kept, and published as soon as the
    /// store answers.
    pub async fn publish(&self, draft: &Draft) -> Result<Published, PublishError> {
        let mut turn = self.turn.lock().await;
        if !*turn {
            // A store that is ahead of a new or restored database decides the next revision number.
            *turn = self.adopt().await?.is_ok();
        }
        let entry = self.history.intend(draft).await?;
        match self.store.publish(&record(&entry)).await {
            Ok(()) => {
                let entry = self.confirm(entry, "").await?;
                Ok(Published { entry, waits: None })
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(scope = entry.scope, revision = entry.revision, %error, "policy waits for the store");
                *self.last_failure.lock() = error.to_string();
                self.wake.notify_one();
                Ok(Published {
                    entry,
                    waits: Some(error.to_string()),
                })
            }
            Err(error) => Err(self.refuse(entry, error).await?),
        }
    }

    /// Runs until `shutdown`: at once, whenever a change had to wait, and every `interval`.
    pub async fn run(&self, interval: Duration, shutdown: CancellationToken) {
        loop {
            let outcome = tokio::select! {
                outcome = self.reconcile() => outcome,
                () = shutdown.cancelled() => return,
            };
            let failure = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            let failed = !failure.is_empty();
            let before = std::mem::replace(&mut *self.last_failure.lock(), failure.clone());
            if failed && before != failure {
                tracing::warn!(error = failure, "policies cannot be reconciled");
            }
            // Jitter keeps several consoles apart; a failure waits at least a little before it tries again.
            let pause = interval.mul_f64(0.8 + 0.4 * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified(), if !failed => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Makes the store hold what the history says: takes in what only the store knows, finishes intents, publishes
    /// again what the store lacks or holds in an older revision. Doing it twice changes nothing.
    pub async fn reconcile(&self) -> Result<(), ReconcileError> {
        let mut turn = self.turn.lock().await;
        let stored = self.adopt().await??;
        *turn = true;
        for entry in self.history.latest_all().await? {
            let in_store = stored.get(&entry.scope);
            let there = in_store.map_or(0, |record| record.revision);
            // A lost deletion counts as well: consumers may still have on disk what it deleted.
            let lacks = there < entry.revision;
            if entry.status == Status::Intent {
                match self.store.publish(&record(&entry)).await {
                    Ok(()) => {
                        self.confirm(entry, "finished by the reconciler").await?;
                    }
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        let refused = self.refuse(entry, error).await?;
                        tracing::error!(error = %refused, "a waiting policy was refused");
                    }
                }
            } else if lacks {
                match self.store.publish(&record(&entry)).await {
                    Ok(()) => {}
                    Err(error) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        // Of one scope; the others are not kept waiting for it.
                        tracing::error!(scope = entry.scope, %error, "the policy store refuses what it had");
                        continue;
                    }
                }
                tracing::info!(
                    scope = entry.scope,
                    revision = entry.revision,
                    "policy published again"
                );
                let detail = if there == 0 {
                    "published again: the policy store had lost it".to_owned()
                } else {
                    format!("published again: the policy store held revision {there}")
                };
                self.history
                    .mark(entry.revision, Status::Published, &detail)
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes into the history what the store has and the history lacks, and returns what the store has.
    async fn adopt(&self) -> Result<Result<HashMap<String, PolicyRecord>, StoreError>, HistoryError> {
        let mut stored = match self.store.current().await {
            Ok(stored) => stored,
            Err(error) => return Ok(Err(error)),
        };
        stored.retain(|record| {
            let usable = record.scope.parse::<Scope>().is_ok() && i64::try_from(record.revision).is_ok();
            if !usable {
                tracing::error!(
                    scope = record.scope,
                    revision = record.revision,
                    "invalid policy record in the store"
                );
            }
            usable
        });
        stored.sort_by_key(|record| record.revision);
        for record in &stored {
            let known = self.history.latest(&record.scope).await?;
            match known {
                Some(known) if known.revision > record.revision => {}
                Some(known) if known.revision == record.revision => {
                    if known.document != record.document {
                        // Two databases have governed this store. This one is the truth for its console: say it
                        // again under a number of its own.
                        let detail = format!(
                            "said again: the policy store held another document as revision {}",
                            known.revision
                        );
                        self.history.adopt(known, &detail).await?;
                    }
                }
                _ => {
                    let detail = format!("found in the policy store as revision {}", record.revision);
                    let taken = self.history.adopt(found(record), &detail).await?;
                    tracing::warn!(
                        scope = record.scope,
                        revision = taken.revision,
                        "took in a policy that only the store had"
                    );
                }
            }
        }
        Ok(Ok(stored
            .into_iter()
            .map(|record| (record.scope.clone(), record))
            .collect()))
    }

    /// The store has the revision: says so, and that earlier intents of the scope will never be published.
    async fn confirm(&self, mut entry: Entry, detail: &str) -> Result<Entry, HistoryError> {
        self.history
            .mark(entry.revision, Status::Published, detail)
            .await?;
        entry.status = Status::Published;
        let detail = format!(
            "superseded by revision {} before it was confirmed",
            entry.revision
        );
        for earlier in self.history.pending().await? {
            if earlier.scope == entry.scope && earlier.revision < entry.revision {
                self.history
                    .mark(earlier.revision, Status::Refused, &detail)
                    .await?;
            }
        }
        Ok(entry)
    }

    async fn refuse(&self, entry: Entry, error: StoreError) -> Result<PublishError, HistoryError> {
        self.history
            .mark(entry.revision, Status::Refused, &error.to_string())
            .await?;
        self.wake.notify_one();
        let revision = entry.revision;
        Ok(match error {
            StoreError::Stale { .. } => PublishError::Unknown {
                scope: entry.scope,
                revision,
            },
            source => PublishError::Refused { revision, source },
        })
    }
}

/// Why a pass did not reach its end; the next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn record(entry: &Entry) -> PolicyRecord {
    PolicyRecord {
        scope: entry.scope.clone(),
        revision: entry.revision,
        document: entry.document.clone(),
        written_unix_ms: entry.written_unix_ms,
        author: entry.author.clone(),
    }
}

fn found(record: &PolicyRecord) -> Entry {
    Entry {
        revision: record.revision,
        scope: record.scope.clone(),
        document: record.document.clone(),
        author: record.author.clone(),
        comment: String::new(),
        written_unix_ms: record.written_unix_ms.min(i64::MAX as u64),
        status: Status::Published,
    }
}
