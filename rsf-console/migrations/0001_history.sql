-- Every revision that was ever meant, and every step it took. Rows are only ever added.
CREATE TABLE revisions (
    namespace       TEXT    NOT NULL,
    revision        INTEGER NOT NULL,
    scope           TEXT    NOT NULL,
    document        TEXT    NOT NULL,
    author          TEXT    NOT NULL,
    comment         TEXT    NOT NULL,
    written_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (namespace, revision)
) STRICT;

CREATE INDEX revisions_by_scope ON revisions (namespace, scope, revision);

-- The status of a revision is that of its last row here.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace  TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    status     TEXT    NOT NULL CHECK (status IN ('intent', 'published', 'refused')),
    detail     TEXT    NOT NULL,
    at_unix_ms INTEGER NOT NULL,
    FOREIGN KEY (namespace, revision) REFERENCES revisions (namespace, revision)
) STRICT;

CREATE INDEX audit_by_revision ON audit (namespace, revision, id);

CREATE TRIGGER revisions_stay BEFORE UPDATE ON revisions BEGIN SELECT RAISE(ABORT, 'revisions are append-only'); END;
CREATE TRIGGER revisions_last BEFORE DELETE ON revisions BEGIN SELECT RAISE(ABORT, 'revisions are append-only'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_lasts BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
