-- What keeps one run or request from harming others: how many workers it has taken down.

ALTER TABLE runs ADD COLUMN lives_lost INTEGER NOT NULL DEFAULT 0;

-- How many leaders began with a request and never came to its end; how many starts never came to theirs.
ALTER TABLE inbox ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE leadership ADD COLUMN starts INTEGER NOT NULL DEFAULT 0;

-- Rows and requests that could not be read, or that ended one leader after the other. Kept as JSON for
-- people: a value that is no text is an object with its bytes in hex.
CREATE TABLE set_aside (
    id   INTEGER PRIMARY KEY,
    at   REAL NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    why  TEXT NOT NULL,
    row  TEXT NOT NULL
) STRICT;
