//! The truth about policies: every revision and every step it took, in one SQLite file, append-only.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rsf_core::control::Scope;
use serde_json::Value;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr, SqliteConnection};

use crate::model::{AuditEntry, Revision, Status};

/// The database of one namespace's policies.
#[derive(Debug, Clone)]
pub struct History {
    pool: SqlitePool,
    namespace: String,
}

/// A revision as it is stored: the document as text, empty where it deletes.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number.
    pub revision: u64,
    /// Its scope, as text.
    pub scope: String,
    /// JSON; empty: the scope has no policy from this revision on.
    pub document: String,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Unix milliseconds.
    pub written_unix_ms: u64,
    /// Where it stands.
    pub status: Status,
}

/// A change that somebody asks for.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What it governs.
    pub scope: Scope,
    /// Validated JSON; empty to delete.
    pub document: String,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The revision that the author has seen, 0 for no policy; `None` overwrites whatever is there.
    pub expected: Option<u64>,
}

/// Why the history did not take or give something.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Somebody else changed the scope meanwhile.
    #[error("{scope} is at revision {latest}, not at {expected}: somebody changed it meanwhile")]
    Conflict {
        /// What was to be changed.
        scope: String,
        /// What the author had seen.
        expected: u64,
        /// What there is.
        latest: u64,
    },
    /// The database cannot be opened.
    #[error("cannot open the console's database {path}")]
    Open {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The file is of another version of RSF, or damaged.
    #[error("the console's database has another schema than this version of RSF")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The database failed.
    #[error("the console's database failed")]
    Database(#[from] sqlx::Error),
}

/// Unix milliseconds now.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The columns of an [`Entry`], with the status of its last step.
const ENTRY: &str = "SELECT r.revision, r.scope, r.document, r.author, r.comment, r.written_unix_ms, \
    (SELECT a.status FROM audit a WHERE a.namespace = r.namespace AND a.revision = r.revision \
     ORDER BY a.id DESC LIMIT 1) AS status FROM revisions r";

type EntryRow = (i64, String, String, String, String, i64, String);
type AuditRow = (i64, i64, String, String, String, String, String, i64);

impl History {
    /// Opens the file, creating it where it is missing (its folder must exist).
    pub async fn open(path: &Path, namespace: &str) -> Result<Self, HistoryError> {
        // Made before SQLite makes it: policies and audit are their owner's alone.
        let made = std::fs::File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        made.map_err(|error| HistoryError::Open {
            path: path.display().to_string(),
            source: sqlx::Error::Io(error),
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            // One file to back up and to move; a confirmed edit is on the disk.
            .journal_mode(SqliteJournalMode::Delete)
            // Extra: the folder is flushed too when the journal goes, or a power loss could bring it back.
            .synchronous(SqliteSynchronous::Extra)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|source| HistoryError::Open {
                path: path.display().to_string(),
                source,
            })?;
        let first = Migration::new(
            1,
            "history".into(),
            MigrationType::Simple,
            include_str!("../migrations/0001_history.sql").into_sql_str(),
            false,
        );
        Migrator::with_migrations(vec![first]).run(&pool).await?;
        Ok(History {
            pool,
            namespace: namespace.to_owned(),
        })
    }

    /// The namespace whose policies these are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Records a change as an intent under the next revision number, or refuses it for an outdated `expected`.
    pub async fn intend(&self, draft: &Draft) -> Result<Entry, HistoryError> {
        let scope = draft.scope.to_string();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let found = self.latest_in(&mut transaction, &scope).await?;
        let deleted = found.as_ref().is_some_and(|entry| entry.document.is_empty());
        let latest = found.map_or(0, |entry| entry.revision);
        let outdated = |expected: &u64| *expected != latest && !(*expected == 0 && deleted);
        if let Some(expected) = draft.expected.filter(outdated) {
            return Err(HistoryError::Conflict {
                scope,
                expected,
                latest,
            });
        }
        let entry = Entry {
            revision: self.highest_in(&mut transaction).await? + 1,
            scope,
            document: draft.document.clone(),
            author: draft.author.clone(),
            comment: draft.comment.clone(),
            written_unix_ms: unix_ms(),
            status: Status::Intent,
        };
        self.insert(&mut transaction, &entry, "").await?;
        transaction.commit().await?;
        Ok(entry)
    }

    /// Takes in a revision that nobody drafted here, with `detail` in the audit log saying why. It keeps its number
    /// and counts as published where the number is still to come; else it gets the next one and is an intent.
    pub async fn adopt(&self, found: Entry, detail: &str) -> Result<Entry, HistoryError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let highest = self.highest_in(&mut transaction).await?;
        let mut entry = Entry {
            status: Status::Published,
            ..found
        };
        if entry.revision <= highest {
            entry.revision = highest + 1;
            entry.status = Status::Intent;
        }
        self.insert(&mut transaction, &entry, detail).await?;
        transaction.commit().await?;
        Ok(entry)
    }

    /// Adds a step to a revision's way.
    pub async fn mark(&self, revision: u64, status: Status, detail: &str) -> Result<(), HistoryError> {
        let mut connection = self.pool.acquire().await?;
        self.insert_step(&mut connection, revision, status, detail).await
    }

    /// The last revision of each scope that was not refused, deletions included, by revision.
    pub async fn latest_all(&self) -> Result<Vec<Entry>, HistoryError> {
        let rows: Vec<EntryRow> = sqlx::query_as(
            "SELECT revision, scope, document, author, comment, written_unix_ms, status FROM (\
               SELECT r.*, a.status, row_number() OVER (PARTITION BY r.scope ORDER BY r.revision DESC) AS place \
               FROM revisions r JOIN audit a ON a.namespace = r.namespace AND a.revision = r.revision \
               WHERE r.namespace = ? AND a.status <> 'refused' AND a.id = (SELECT max(l.id) FROM audit l \
                 WHERE l.namespace = r.namespace AND l.revision = r.revision)) \
             WHERE place = 1 ORDER BY revision",
        )
        .bind(&self.namespace)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(entry).collect()
    }

    /// The last revision of one scope that was not refused; it may be a deletion.
    pub async fn latest(&self, scope: &str) -> Result<Option<Entry>, HistoryError> {
        let mut connection = self.pool.acquire().await?;
        self.latest_in(&mut connection, scope).await
    }

    /// The revisions that wait for the store, oldest first.
    pub async fn pending(&self) -> Result<Vec<Entry>, HistoryError> {
        let rows: Vec<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT * FROM ({ENTRY} WHERE r.namespace = ?) WHERE status = 'intent' ORDER BY revision"
        )))
        .bind(&self.namespace)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(entry).collect()
    }

    /// One revision of one scope.
    pub async fn revision(&self, scope: &str, revision: u64) -> Result<Option<Entry>, HistoryError> {
        let row: Option<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{ENTRY} WHERE r.namespace = ? AND r.scope = ? AND r.revision = ?"
        )))
        .bind(&self.namespace)
        .bind(scope)
        .bind(stored(revision)?)
        .fetch_optional(&self.pool)
        .await?;
        row.map(entry).transpose()
    }

    /// The revisions of one scope before `before`, newest first.
    pub async fn of_scope(&self, scope: &str, before: u64, limit: u32) -> Result<Vec<Entry>, HistoryError> {
        let rows: Vec<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{ENTRY} WHERE r.namespace = ? AND r.scope = ? AND r.revision < ? ORDER BY r.revision DESC LIMIT ?"
        )))
        .bind(&self.namespace)
        .bind(scope)
        .bind(i64::try_from(before).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(entry).collect()
    }

    /// The audit log before entry `before`, newest first.
    pub async fn audit(&self, before: u64, limit: u32) -> Result<Vec<AuditEntry>, HistoryError> {
        let rows: Vec<AuditRow> = sqlx::query_as(
            "SELECT a.id, a.revision, r.scope, a.status, r.author, r.comment, a.detail, a.at_unix_ms \
             FROM audit a JOIN revisions r ON r.namespace = a.namespace AND r.revision = a.revision \
             WHERE a.namespace = ? AND a.id < ? ORDER BY a.id DESC LIMIT ?",
        )
        .bind(&self.namespace)
        .bind(i64::try_from(before).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(id, revision, scope, status, author, comment, detail, at)| {
                Ok(AuditEntry {
                    id: number(id)?,
                    revision: number(revision)?,
                    scope,
                    status: parse_status(&status)?,
                    author,
                    comment,
                    detail,
                    at_unix_ms: number(at)?,
                })
            })
            .collect()
    }

    async fn latest_in(
        &self,
        connection: &mut SqliteConnection,
        scope: &str,
    ) -> Result<Option<Entry>, HistoryError> {
        let row: Option<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT * FROM ({ENTRY} WHERE r.namespace = ? AND r.scope = ?) \
             WHERE status <> 'refused' ORDER BY revision DESC LIMIT 1"
        )))
        .bind(&self.namespace)
        .bind(scope)
        .fetch_optional(connection)
        .await?;
        row.map(entry).transpose()
    }

    async fn highest_in(&self, connection: &mut SqliteConnection) -> Result<u64, HistoryError> {
        let (highest,): (i64,) =
            sqlx::query_as("SELECT coalesce(max(revision), 0) FROM revisions WHERE namespace = ?")
                .bind(&self.namespace)
                .fetch_one(connection)
                .await?;
        number(highest)
    }

    async fn insert(
        &self,
        connection: &mut SqliteConnection,
        entry: &Entry,
        detail: &str,
    ) -> Result<(), HistoryError> {
        sqlx::query(
            "INSERT INTO revisions (namespace, revision, scope, document, author, comment, written_unix_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&self.namespace)
        .bind(stored(entry.revision)?)
        .bind(&entry.scope)
        .bind(&entry.document)
        .bind(&entry.author)
        .bind(&entry.comment)
        .bind(stored(entry.written_unix_ms)?)
        .execute(&mut *connection)
        .await?;
        self.insert_step(connection, entry.revision, entry.status, detail)
            .await
    }

    async fn insert_step(
        &self,
        connection: &mut SqliteConnection,
        revision: u64,
        status: Status,
        detail: &str,
    ) -> Result<(), HistoryError> {
        sqlx::query(
            "INSERT INTO audit (namespace, revision, status, detail, at_unix_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&self.namespace)
        .bind(stored(revision)?)
        .bind(status_word(status))
        .bind(detail)
        .bind(stored(unix_ms())?)
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl From<Entry> for Revision {
    fn from(entry: Entry) -> Self {
        Revision {
            revision: entry.revision,
            scope: entry.scope,
            // Only validated JSON is ever stored, or nothing for a deletion.
            document: serde_json::from_str(&entry.document).unwrap_or(Value::Null),
            author: entry.author,
            comment: entry.comment,
            written_unix_ms: entry.written_unix_ms,
            status: entry.status,
        }
    }
}

fn entry(row: EntryRow) -> Result<Entry, HistoryError> {
    let (revision, scope, document, author, comment, written, status) = row;
    Ok(Entry {
        revision: number(revision)?,
        scope,
        document,
        author,
        comment,
        written_unix_ms: number(written)?,
        status: parse_status(&status)?,
    })
}

fn status_word(status: Status) -> &'static str {
    match status {
        Status::Intent => "intent",
        Status::Published => "published",
        Status::Refused => "refused",
    }
}

fn parse_status(word: &str) -> Result<Status, HistoryError> {
    match word {
        "intent" => Ok(Status::Intent),
        "published" => Ok(Status::Published),
        "refused" => Ok(Status::Refused),
        other => Err(decode(format!("status `{other}`"))),
    }
}

fn number(stored: i64) -> Result<u64, HistoryError> {
    u64::try_from(stored).map_err(|_| decode(format!("negative number {stored}")))
}

fn stored(number: u64) -> Result<i64, HistoryError> {
    i64::try_from(number).map_err(|_| decode(format!("number {number} is too large")))
}

fn decode(what: String) -> HistoryError {
    HistoryError::Database(sqlx::Error::Decode(what.into()))
}
