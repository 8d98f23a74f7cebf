-- What a full bucket held when its row was written. NULL in rows of before.

ALTER TABLE buckets ADD COLUMN capacity REAL;
