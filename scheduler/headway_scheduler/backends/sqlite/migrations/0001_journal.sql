-- The journal of calls, the runs and the buckets.
-- Times are epoch seconds. Texts are UTF-8; a lone surrogate is kept as its three bytes.

CREATE TABLE runs (
    id          TEXT NOT NULL PRIMARY KEY,
    workflow    TEXT NOT NULL,
    task        TEXT NOT NULL,
    priority    INTEGER NOT NULL,
    state       TEXT NOT NULL,
    created_at  REAL NOT NULL,
    key         TEXT,
    component   TEXT,
    started_at  REAL,
    finished_at REAL,
    result      TEXT,
    error       TEXT
) STRICT;

CREATE UNIQUE INDEX runs_by_key ON runs (key) WHERE key IS NOT NULL;
CREATE INDEX runs_by_state ON runs (state, created_at);
CREATE INDEX runs_by_creation ON runs (created_at);

-- seq is the order of arrival. As the table's own key it costs no index, and every index below
-- ends with it, so that answers come in order of arrival without sorting.
-- There is no foreign key to runs: calls made outside of a run name one that is never written.
CREATE TABLE calls (
    seq           INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    run_id        TEXT NOT NULL,
    kind          TEXT NOT NULL DEFAULT 'model',
    path          TEXT NOT NULL,
    model         TEXT NOT NULL,
    quotas        TEXT NOT NULL,
    priority      INTEGER NOT NULL,
    tokens        INTEGER NOT NULL,
    submitted_at  REAL NOT NULL,
    request_hash  TEXT NOT NULL,
    occurrence    INTEGER NOT NULL,
    state         TEXT NOT NULL,
    attempts      INTEGER NOT NULL,
    not_before    REAL,
    admitted_at   REAL,
    sent_at       REAL,
    finished_at   REAL,
    input_tokens  INTEGER,
    output_tokens INTEGER,
    answer        TEXT,
    error         TEXT
) STRICT;

-- OR, because IN would fill a temporary table for every row that is written: twice the time.
CREATE INDEX calls_live ON calls (seq)
    WHERE state = 'queued' OR state = 'admitted' OR state = 'sent';
CREATE INDEX calls_by_run ON calls (run_id);

CREATE TABLE buckets (
    quota        TEXT NOT NULL,
    resource     TEXT NOT NULL,
    available    REAL NOT NULL,
    as_of        REAL NOT NULL,
    paused_until REAL,
    PRIMARY KEY (quota, resource)
) STRICT, WITHOUT ROWID;
