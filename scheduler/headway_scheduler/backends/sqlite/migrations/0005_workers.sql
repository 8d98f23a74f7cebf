-- What several processes that execute runs need: who executes what, and what they are told.

ALTER TABLE runs ADD COLUMN worker TEXT;
ALTER TABLE calls ADD COLUMN worker TEXT;

CREATE INDEX runs_by_worker ON runs (worker) WHERE worker IS NOT NULL;

-- What wall time is, agreed on for all processes until the machine is started again.
ALTER TABLE leadership ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE leadership ADD COLUMN clock_offset REAL NOT NULL DEFAULT 0;

CREATE TABLE workers (
    id                TEXT NOT NULL PRIMARY KEY,
    pid               INTEGER NOT NULL,
    since             REAL NOT NULL,
    label             TEXT NOT NULL,
    slots             INTEGER NOT NULL,
    takes_interrupted INTEGER NOT NULL,
    workflows         TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the leader tells a worker. Ids are never used again: a worker reads on from the last one.
CREATE TABLE outbox (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    worker TEXT NOT NULL,
    text   TEXT NOT NULL
) STRICT;

CREATE INDEX outbox_by_worker ON outbox (worker);
