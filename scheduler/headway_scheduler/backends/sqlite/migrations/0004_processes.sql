-- What several processes on one database need: letters to the one that admits, and whose turn it is.

-- A letter asks the leader for something. Its answer is NULL until it was carried out. Ids are never
-- used again: whoever waits for an answer must not get another letter's.
CREATE TABLE inbox (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    event  TEXT NOT NULL,
    answer TEXT
) STRICT;

CREATE INDEX inbox_waiting ON inbox (id) WHERE answer IS NULL;

-- One row. Whoever becomes the leader raises the epoch; every commit of a leader asserts its own.
CREATE TABLE leadership (
    id    INTEGER PRIMARY KEY CHECK (id = 0),
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO leadership (id, epoch) VALUES (0, 0);
