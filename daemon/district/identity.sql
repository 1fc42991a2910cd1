-- Version 2: which key speaks for a machine, and who may have a certificate.

-- Every key a machine ever had. At most one is its own now; a certificate for any
-- other counts for nothing, however long it still holds.
CREATE TABLE machine_key (
	machine  TEXT NOT NULL REFERENCES machine(id),
	key      BLOB NOT NULL UNIQUE CHECK (length(key) = 32), -- SHA-256 of the public key
	since_ms INTEGER NOT NULL,                              -- when it became the machine's
	until_ms INTEGER NOT NULL,                              -- when its newest certificate ends
	ended_ms INTEGER,                                       -- NULL: it is the machine's own
	ended    TEXT CHECK (ended IN ('revoked', 'replaced')),
	PRIMARY KEY (machine, key),
	CHECK ((ended_ms IS NULL) = (ended IS NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX machine_key_own ON machine_key (machine) WHERE ended_ms IS NULL;

-- One-time tokens. The secret itself is on nobody's disk.
CREATE TABLE enrolment (
	name       BLOB PRIMARY KEY CHECK (length(name) = 8),
	machine    TEXT NOT NULL REFERENCES machine(id),
	hash       BLOB NOT NULL CHECK (length(hash) = 32),     -- SHA-256 of the secret
	made_ms    INTEGER NOT NULL,
	expires_ms INTEGER NOT NULL,
	used_key   BLOB CHECK (length(used_key) = 32),          -- NULL: not used yet
	used       INTEGER NOT NULL DEFAULT 0,                  -- how often it was good: an answer may be lost
	wrong      INTEGER NOT NULL DEFAULT 0                   -- how often its secret was wrong
) STRICT, WITHOUT ROWID;

-- An officer's word that a machine may come back.
CREATE TABLE consent (
	machine    TEXT PRIMARY KEY REFERENCES machine(id),
	made_ms    INTEGER NOT NULL,
	expires_ms INTEGER NOT NULL,
	used_key   BLOB CHECK (length(used_key) = 32)           -- NULL: not used yet
) STRICT, WITHOUT ROWID;
