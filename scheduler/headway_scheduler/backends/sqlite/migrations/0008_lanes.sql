-- The lane of the provider by which a call goes, and that a run permits its background calls.

ALTER TABLE calls ADD COLUMN lane TEXT NOT NULL DEFAULT 'standard';
ALTER TABLE runs ADD COLUMN lane TEXT NOT NULL DEFAULT 'standard';
