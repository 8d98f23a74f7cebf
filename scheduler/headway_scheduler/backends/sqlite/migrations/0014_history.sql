-- What became of attempts that brought no answer, how long calls waited, and how many did.

CREATE TABLE tries (
    id          INTEGER PRIMARY KEY,
    call_id     TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    quota       TEXT NOT NULL,
    admitted_at REAL NOT NULL,
    ended_at    REAL NOT NULL,
    news        TEXT NOT NULL,
    pause_until REAL,
    error       TEXT
) STRICT;

CREATE INDEX tries_by_run ON tries (run_id);
CREATE INDEX tries_by_end ON tries (ended_at);

-- span is 60 or 3600 seconds. The commit that ends a call adds it to both, so nothing is ever folded.
CREATE TABLE waits (
    span     INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    team     TEXT NOT NULL,
    bucket   INTEGER NOT NULL,
    calls    INTEGER NOT NULL,
    PRIMARY KEY (span, at, priority, team, bucket)
) STRICT, WITHOUT ROWID;

CREATE TABLE crowds (
    at        INTEGER NOT NULL,
    priority  INTEGER NOT NULL,
    waiting   INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    PRIMARY KEY (at, priority)
) STRICT, WITHOUT ROWID;
