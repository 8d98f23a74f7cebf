-- The routes that a call which has not ended may take, as JSON; NULL for only the one of its row.

ALTER TABLE calls ADD COLUMN routes TEXT;
