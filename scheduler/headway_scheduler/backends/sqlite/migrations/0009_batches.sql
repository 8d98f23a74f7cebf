-- Batches of the provider, and the requests in them.

CREATE TABLE provider_batches (
    id          TEXT NOT NULL PRIMARY KEY,
    model       TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    state       TEXT NOT NULL,
    created_at  REAL NOT NULL,
    file_id     TEXT,
    provider_id TEXT
) STRICT, WITHOUT ROWID;

-- A body, and later an answer, may be long: with a rowid they take no overflow pages of the key.
CREATE TABLE batched_requests (
    call_id    TEXT NOT NULL UNIQUE,
    model      TEXT NOT NULL,
    endpoint   TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at REAL NOT NULL,
    batch_id   TEXT,
    answer     TEXT
) STRICT;

CREATE INDEX batched_requests_by_batch ON batched_requests (batch_id);

DROP INDEX calls_live;
CREATE INDEX calls_live ON calls (seq)
    WHERE state = 'queued' OR state = 'admitted' OR state = 'sent' OR state = 'batched';
CREATE INDEX runs_waiting ON runs (waits_for) WHERE waits_for IS NOT NULL;
