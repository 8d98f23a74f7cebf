-- A task that was given as messages: a JSON list of them; NULL for a text alone.

ALTER TABLE runs ADD COLUMN messages TEXT;
