-- What resuming needs: the order of answers, what was asked, and how a run came to be.

ALTER TABLE calls ADD COLUMN arrival INTEGER;
ALTER TABLE calls ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;

ALTER TABLE runs ADD COLUMN parameters TEXT;
ALTER TABLE runs ADD COLUMN version TEXT;
ALTER TABLE runs ADD COLUMN history TEXT;
ALTER TABLE runs ADD COLUMN parent TEXT;
ALTER TABLE runs ADD COLUMN parent_until INTEGER;
ALTER TABLE runs ADD COLUMN deadline REAL;
ALTER TABLE runs ADD COLUMN budget_usd REAL;
ALTER TABLE runs ADD COLUMN waits_for TEXT;
ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN resumed_at REAL;

CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;

-- A prompt is a chain of links, each the prompt before it and one piece of text more. Hashes have 16
-- bytes. Texts have a table with a rowid: without one, a long text would take overflow pages.
CREATE TABLE pieces (
    hash BLOB NOT NULL UNIQUE,
    text TEXT NOT NULL
) STRICT;

CREATE TABLE links (
    hash   BLOB NOT NULL PRIMARY KEY,
    parent BLOB,
    piece  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
