-- What is to be told to the world outside, until it is told.

CREATE TABLE notices (
    id         TEXT NOT NULL UNIQUE,
    kind       TEXT NOT NULL,
    at         REAL NOT NULL,
    data       TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    not_before REAL NOT NULL
) STRICT;
