-- A run is spared not only because it waited for an answer when its worker died.

ALTER TABLE runs RENAME COLUMN lost_waiting TO lost_spared;
