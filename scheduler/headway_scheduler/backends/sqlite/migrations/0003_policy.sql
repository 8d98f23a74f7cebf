-- What the scheduling policy needs: whose share a run draws on, what was changed, what was learned.

ALTER TABLE runs ADD COLUMN team TEXT;

-- What a call takes where input, output and dollars are counted apart.
ALTER TABLE calls ADD COLUMN input_estimate INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN output_estimate INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN usd_estimate REAL NOT NULL DEFAULT 0;

-- What an operator changed while Headway was running. The last of a kind and target holds.
CREATE TABLE changes (
    id     INTEGER PRIMARY KEY,
    at     REAL NOT NULL,
    kind   TEXT NOT NULL,
    target TEXT NOT NULL,
    value  TEXT NOT NULL
) STRICT;

CREATE TABLE lessons (
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;
