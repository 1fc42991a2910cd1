-- Version 3: who may sign in at the machine, and how far wrong PINs have locked them.

CREATE TABLE account (
	staff TEXT PRIMARY KEY CHECK (length(staff) BETWEEN 1 AND 16),  -- account number
	kept  BLOB NOT NULL                                             -- of package staff: badges and PIN, peppered
) STRICT, WITHOUT ROWID;

CREATE TABLE account_lock (
	staff   TEXT PRIMARY KEY REFERENCES account ON DELETE CASCADE,
	wrong   INTEGER NOT NULL CHECK (wrong >= 0),                    -- PINs since the last right one
	round   INTEGER NOT NULL CHECK (round >= 0),                    -- locks since then
	left_ms INTEGER NOT NULL CHECK (left_ms >= 0)                   -- of the running lock; counts while the daemon runs
) STRICT, WITHOUT ROWID;
