-- What keeps one run or request from harming others: how many workers it has taken down.

ALTER TABLE runs ADD COLUMN lives_lost INTEGER NOT NULL DEFAULT 0;
