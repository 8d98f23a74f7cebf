-- Runs that are queued again and again: what is queued, when, and what became of it.

CREATE TABLE schedules (
    name            TEXT NOT NULL UNIQUE,
    cron            TEXT NOT NULL,
    zone            TEXT NOT NULL,
    run             TEXT NOT NULL,
    overlap         TEXT NOT NULL,
    catchup_seconds REAL NOT NULL,
    source          TEXT,
    next_at         REAL NOT NULL,
    is_paused       INTEGER NOT NULL,
    buffered_at     REAL,
    last_at         REAL,
    last_run        TEXT,
    skipped         INTEGER NOT NULL
) STRICT;
