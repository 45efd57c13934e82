//! The truth holds through whatever is cut off: old or new, never mixed, and every accepted edit in the audit log.

use std::sync::Arc;
use std::task::Poll;

use rsf_console::history::{Draft, Entry, History, HistoryError};
use rsf_console::model::{AuditEntry, Status};
use rsf_console::publish::{PublishError, Publisher};
use rsf_core::control::Scope;
use rsf_registry::record::PolicyRecord;

use crate::twin::{Fault, MEMBER, Twin};

fn scope() -> Scope {
    Scope::Service(MEMBER.to_owned())
}

fn draft(timeout: u64, expected: Option<u64>) -> Draft {
    draft_of(scope(), timeout, expected)
}

fn draft_of(scope: Scope, timeout: u64, expected: Option<u64>) -> Draft {
    Draft {
        scope,
        document: document(timeout),
        author: "test".to_owned(),
        comment: String::new(),
        expected,
    }
}

fn document(timeout: u64) -> String {
    format!("{{\"call\":{{\"timeout_ms\":{timeout}}}}}")
}

struct Bench {
    twin: Arc<Twin>,
    publisher: Publisher,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let twin = Arc::new(Twin::default());
        let publisher = open(&folder, &twin).await;
        Bench {
            twin,
            publisher,
            folder,
        }
    }

    /// Forgets all that is in memory, as a kill does.
    async fn restart(&mut self) {
        self.publisher = open(&self.folder, &self.twin).await;
    }

    async fn latest(&self) -> Entry {
        self.publisher
            .history()
            .latest(&scope().to_string())
            .await
            .unwrap()
            .unwrap()
    }

    fn stored(&self) -> Option<PolicyRecord> {
        self.twin.stored(&scope().to_string())
    }
}

async fn open(folder: &tempfile::TempDir, twin: &Arc<Twin>) -> Publisher {
    let history = History::open(&folder.path().join("console.db"), "test")
        .await
        .unwrap();
    Publisher::new(history, twin.clone())
}

#[tokio::test]
async fn revisions_rise_by_one_over_all_scopes() {
    let bench = Bench::new().await;
    for number in 1..=5 {
        let scope = if number % 2 == 0 { Scope::Fleet } else { scope() };
        let published = bench
            .publisher
            .publish(&draft_of(scope, number, None))
            .await
            .unwrap();
        assert_eq!(published.entry.revision, number);
        assert_eq!(published.entry.status, Status::Published);
    }
    assert_eq!(bench.stored().unwrap().document, document(5));
    assert_eq!(bench.twin.stored("fleet").unwrap().revision, 4);
}

#[tokio::test]
async fn an_outdated_author_is_refused_with_both_revisions() {
    let bench = Bench::new().await;
    bench.publisher.publish(&draft(1, Some(0))).await.unwrap();
    bench.publisher.publish(&draft(2, Some(1))).await.unwrap();
    let error = bench.publisher.publish(&draft(3, Some(1))).await.unwrap_err();
    let PublishError::History(HistoryError::Conflict { expected, latest, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!((expected, latest), (1, 2));
    assert_eq!(bench.stored().unwrap().document, document(2));
}

#[tokio::test]
async fn a_cut_off_publish_is_finished_whether_or_not_it_was_written() {
    for fault in [Fault::Before, Fault::After] {
        let mut bench = Bench::new().await;
        bench.publisher.publish(&draft(1, None)).await.unwrap();
        bench.twin.set_fault(fault);
        let published = bench.publisher.publish(&draft(2, None)).await.unwrap();
        assert!(published.waits.is_some());
        assert_eq!(bench.latest().await.status, Status::Intent);
        let stored = bench.stored().unwrap();
        let old = (1, document(1));
        let new = (2, document(2));
        assert!(
            [old, new].contains(&(stored.revision, stored.document)),
            "{fault:?}"
        );
        bench.restart().await;
        assert!(bench.publisher.reconcile().await.is_err(), "{fault:?}");
        bench.twin.set_fault(Fault::None);
        bench.publisher.reconcile().await.unwrap();
        assert_eq!(bench.latest().await.status, Status::Published);
        assert_eq!(bench.stored().unwrap().document, document(2));
        let writes = bench.twin.writes.load(std::sync::atomic::Ordering::Relaxed);
        bench.publisher.reconcile().await.unwrap();
        let again = bench.twin.writes.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(writes, again, "a second pass changes nothing");
    }
}

/// The publish is dropped after each number of steps it can take: whatever was accepted is there in the end, whole.
#[tokio::test]
async fn killed_at_any_place_it_is_old_or_new() {
    let (mut before, mut between, mut done) = (0, 0, 0);
    for steps in 0.. {
        let mut bench = Bench::new().await;
        bench.publisher.publish(&draft(1, None)).await.unwrap();
        let finished = {
            let draft = draft(2, None);
            let mut publishing = Box::pin(bench.publisher.publish(&draft));
            let mut left = steps;
            std::future::poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                publishing.as_mut().poll(context).map(|_| true)
            })
            .await
        };
        bench.restart().await;
        match bench.latest().await {
            Entry { revision: 1, .. } => before += 1,
            Entry {
                status: Status::Intent,
                ..
            } => between += 1,
            _ => done += 1,
        }
        bench.publisher.reconcile().await.unwrap();
        let (latest, stored) = (bench.latest().await, bench.stored().unwrap());
        assert_eq!(
            (latest.revision, &latest.document),
            (stored.revision, &stored.document)
        );
        assert_eq!(
            stored.document,
            document(stored.revision),
            "mixed after {steps} steps"
        );
        assert_eq!(latest.status, Status::Published);
        let audit = bench.publisher.history().audit(u64::MAX, 500).await.unwrap();
        let recorded =
            |entry: &AuditEntry| entry.revision == latest.revision && entry.status == Status::Intent;
        assert!(audit.iter().any(recorded));
        if finished {
            break;
        }
    }
    assert!(before > 0 && between > 0 && done > 0, "{before} {between} {done}");
}

#[tokio::test]
async fn of_several_waiting_revisions_the_newest_is_published() {
    let bench = Bench::new().await;
    bench.twin.set_fault(Fault::Before);
    for timeout in 1..=3 {
        bench.publisher.publish(&draft(timeout, None)).await.unwrap();
    }
    bench.twin.set_fault(Fault::None);
    bench.publisher.reconcile().await.unwrap();
    assert_eq!(bench.stored().unwrap().document, document(3));
    assert_eq!(bench.twin.writes.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(bench.publisher.history().pending().await.unwrap().is_empty());
    let audit = bench.publisher.history().audit(u64::MAX, 500).await.unwrap();
    for revision in 1..=3 {
        assert!(
            audit
                .iter()
                .any(|entry| entry.revision == revision && entry.status == Status::Intent)
        );
    }
    let superseded = audit
        .iter()
        .filter(|entry| entry.detail.contains("superseded by revision 3"));
    assert_eq!(superseded.count(), 2);
}

#[tokio::test]
async fn a_wiped_store_gets_its_policies_back() {
    let bench = Bench::new().await;
    bench
        .publisher
        .publish(&draft_of(Scope::Fleet, 9, None))
        .await
        .unwrap();
    bench.publisher.publish(&draft(1, None)).await.unwrap();
    bench.publisher.publish(&draft(2, None)).await.unwrap();
    let before = bench.twin.policies.lock().clone();
    bench.twin.policies.lock().clear();
    bench.publisher.reconcile().await.unwrap();
    assert_eq!(*bench.twin.policies.lock(), before);
    // An older revision, as from a restored backup, is replaced too.
    bench
        .twin
        .policies
        .lock()
        .get_mut(&scope().to_string())
        .unwrap()
        .revision = 1;
    bench.publisher.reconcile().await.unwrap();
    assert_eq!(*bench.twin.policies.lock(), before);
    let audit = bench.publisher.history().audit(u64::MAX, 500).await.unwrap();
    assert!(audit.iter().any(|entry| entry.detail.contains("had lost it")));
}

#[tokio::test]
async fn a_deletion_does_not_come_back() {
    let bench = Bench::new().await;
    bench.publisher.publish(&draft(1, None)).await.unwrap();
    let deletion = Draft {
        document: String::new(),
        ..draft(0, Some(1))
    };
    bench.publisher.publish(&deletion).await.unwrap();
    assert_eq!(bench.stored().unwrap().document, "");
    bench.twin.policies.lock().clear();
    bench.publisher.reconcile().await.unwrap();
    // The deletion itself is published again: a consumer may still have on disk what it deleted.
    let stored = bench.stored().unwrap();
    assert_eq!((stored.revision, stored.document.as_str()), (2, ""));
    // Without a policy again, an author who expects none may write.
    assert_eq!(
        bench
            .publisher
            .publish(&draft(3, Some(0)))
            .await
            .unwrap()
            .entry
            .revision,
        3
    );
}

#[tokio::test]
async fn a_lost_database_takes_in_what_the_store_has_and_counts_on() {
    let bench = Bench::new().await;
    for timeout in 1..=7 {
        bench.publisher.publish(&draft(timeout, None)).await.unwrap();
    }
    let empty = tempfile::tempdir().unwrap();
    let publisher = open(&empty, &bench.twin).await;
    let published = publisher.publish(&draft_of(Scope::Fleet, 8, None)).await.unwrap();
    assert_eq!(published.entry.revision, 8);
    let adopted = publisher
        .history()
        .latest(&scope().to_string())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((adopted.revision, adopted.document), (7, document(7)));
    // A database restored from an older backup: its numbers were used again meanwhile, for another scope.
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(
        empty.path().join("console.db"),
        restored.path().join("console.db"),
    )
    .unwrap();
    publisher.publish(&draft(9, None)).await.unwrap();
    bench.twin.reads_fail.lock().clone_from(&true);
    let old = open(&restored, &bench.twin).await;
    assert_eq!(
        old.publish(&draft_of(Scope::Fleet, 10, None))
            .await
            .unwrap()
            .entry
            .revision,
        9
    );
    bench.twin.reads_fail.lock().clone_from(&false);
    old.reconcile().await.unwrap();
    let taken = old.history().latest(&scope().to_string()).await.unwrap().unwrap();
    assert_eq!((taken.revision, &taken.document), (10, &document(9)));
    assert_eq!(bench.stored().unwrap().revision, 10);
    assert_eq!(bench.twin.stored("fleet").unwrap().revision, 9);
}

#[tokio::test]
async fn a_refusal_is_recorded_and_the_last_policy_stays() {
    let bench = Bench::new().await;
    bench.publisher.publish(&draft(1, None)).await.unwrap();
    bench.twin.set_fault(Fault::Refuse);
    let error = bench.publisher.publish(&draft(2, None)).await.unwrap_err();
    assert!(
        matches!(error, PublishError::Refused { revision: 2, .. }),
        "{error}"
    );
    bench.twin.set_fault(Fault::None);
    bench.publisher.reconcile().await.unwrap();
    assert_eq!(bench.stored().unwrap().revision, 1);
    assert_eq!(bench.latest().await.revision, 1);
    // Its number is not used again.
    assert_eq!(
        bench
            .publisher
            .publish(&draft(3, Some(1)))
            .await
            .unwrap()
            .entry
            .revision,
        3
    );
    let audit = bench.publisher.history().audit(u64::MAX, 500).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|entry| entry.status == Status::Refused && entry.detail.contains("no permission"))
    );
}

#[tokio::test]
async fn the_database_refuses_to_forget() {
    use sqlx::Connection;
    let bench = Bench::new().await;
    bench.publisher.publish(&draft(1, None)).await.unwrap();
    let path = bench.folder.path().join("console.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    for sql in [
        "UPDATE revisions SET document = ''",
        "DELETE FROM revisions",
        "UPDATE audit SET status = 'refused'",
        "DELETE FROM audit",
    ] {
        let error = sqlx::query(sql).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    let files = std::fs::read_dir(bench.folder.path()).unwrap().count();
    assert_eq!(files, 1, "one file to back up");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console.db");
    std::fs::write(&path, "no database at all, but long enough to be read as one").unwrap();
    assert!(History::open(&path, "test").await.is_err());
}
