-- What each call cost when it was settled, and what that was calculated from. NULL in rows of before.

ALTER TABLE calls ADD COLUMN usage_parts TEXT;
ALTER TABLE calls ADD COLUMN usd REAL;
ALTER TABLE calls ADD COLUMN usd_source TEXT;
ALTER TABLE calls ADD COLUMN tier TEXT;
ALTER TABLE calls ADD COLUMN served_model TEXT;

-- How many workers died while a run waited for an answer: they are less likely its fault.
ALTER TABLE runs ADD COLUMN lost_waiting INTEGER NOT NULL DEFAULT 0;
