-- The district's store, version 1. Times are Unix milliseconds; days are calendar
-- days in the district's zone, 2027-06-30.

CREATE TABLE meta (
	id         INTEGER PRIMARY KEY CHECK (id = 1),
	generation INTEGER NOT NULL CHECK (generation > 0), -- Unix ms when this life of the store began
	made_ms    INTEGER NOT NULL
) STRICT;

-- One row per machine; names are empty until somebody enters them.
CREATE TABLE machine (
	id        TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 32),
	name_zh   TEXT NOT NULL DEFAULT '',
	name_en   TEXT NOT NULL DEFAULT '',
	street_zh TEXT NOT NULL DEFAULT '',
	street_en TEXT NOT NULL DEFAULT '',
	place_zh  TEXT NOT NULL DEFAULT '', -- where in the building
	place_en  TEXT NOT NULL DEFAULT '',
	first_ms  INTEGER NOT NULL,         -- first heard of
	seen_ms   INTEGER NOT NULL          -- last heard of, at most a minute behind
) STRICT, WITHOUT ROWID;

-- How far each ledger is stored without a gap.
CREATE TABLE ledger (
	machine   TEXT NOT NULL REFERENCES machine(id),
	ledger    TEXT NOT NULL CHECK (length(ledger) = 32),
	head_seq  INTEGER NOT NULL CHECK (head_seq >= 0),
	head_hash BLOB NOT NULL CHECK (length(head_hash) = 32),
	first_ms  INTEGER NOT NULL, -- when its first record or state came in
	PRIMARY KEY (machine, ledger)
) STRICT, WITHOUT ROWID;

-- The event chains, byte for byte as they were hashed.
CREATE TABLE event (
	machine     TEXT NOT NULL,
	ledger      TEXT NOT NULL,
	seq         INTEGER NOT NULL CHECK (seq > 0),
	at_ms       INTEGER NOT NULL, -- by the machine's clock
	received_ms INTEGER NOT NULL, -- by the district's clock
	kind        TEXT NOT NULL,
	body        BLOB NOT NULL,
	hash        BLOB NOT NULL CHECK (length(hash) = 32),
	PRIMARY KEY (machine, ledger, seq),
	FOREIGN KEY (machine, ledger) REFERENCES ledger(machine, ledger)
) STRICT;

-- The latest snapshot of each machine.
CREATE TABLE state (
	machine     TEXT PRIMARY KEY REFERENCES machine(id),
	ledger      TEXT NOT NULL,
	head        INTEGER NOT NULL, -- newest seq the machine had when it took the snapshot
	body        BLOB NOT NULL,    -- JSON of protocol.State
	received_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE online (
	machine    TEXT PRIMARY KEY REFERENCES machine(id),
	online     INTEGER NOT NULL CHECK (online IN (0, 1)),
	connection INTEGER NOT NULL, -- highest number seen: an older will says nothing
	since_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the events add up to, batch by batch.
CREATE TABLE level (
	machine TEXT NOT NULL,
	ledger  TEXT NOT NULL,
	slot    INTEGER NOT NULL CHECK (slot BETWEEN 1 AND 60),
	product TEXT NOT NULL,
	batch   TEXT NOT NULL,
	expiry  TEXT NOT NULL,
	since   INTEGER NOT NULL, -- seq of the event that first named it: the order of the queue
	pieces  INTEGER NOT NULL, -- in the slot; below 0 only where events contradict each other
	held    INTEGER NOT NULL, -- set aside for vends whose end nobody knows
	PRIMARY KEY (machine, ledger, slot, product, batch)
) STRICT, WITHOUT ROWID;

-- The same events as totals that only rise, to hold against the machine's own.
CREATE TABLE odometer (
	machine TEXT NOT NULL,
	ledger  TEXT NOT NULL,
	slot    INTEGER NOT NULL CHECK (slot BETWEEN 1 AND 60),
	loaded  INTEGER NOT NULL,
	removed INTEGER NOT NULL, -- by staff, test turns included
	given   INTEGER NOT NULL,
	PRIMARY KEY (machine, ledger, slot)
) STRICT, WITHOUT ROWID;

-- Pieces given out per day: all that pages show of vends.
CREATE TABLE given (
	machine TEXT NOT NULL,
	day     TEXT NOT NULL,
	product TEXT NOT NULL,
	pieces  INTEGER NOT NULL,
	PRIMARY KEY (machine, day, product)
) STRICT, WITHOUT ROWID;

-- Messages and records that could not be understood: the newest 10,000.
CREATE TABLE quarantine (
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	machine     TEXT NOT NULL,
	received_ms INTEGER NOT NULL,
	what        TEXT NOT NULL, -- events, state, online or record
	reason      TEXT NOT NULL,
	bytes       INTEGER NOT NULL, -- how long it was
	body        BLOB NOT NULL     -- its first 4 KiB
) STRICT;

-- What a person has to look into; the same thing again raises times.
CREATE TABLE alarm (
	machine  TEXT NOT NULL,
	ledger   TEXT NOT NULL,
	kind     TEXT NOT NULL,
	seq      INTEGER NOT NULL, -- where it was last seen; 0 where that means nothing
	detail   TEXT NOT NULL,
	first_ms INTEGER NOT NULL,
	last_ms  INTEGER NOT NULL,
	times    INTEGER NOT NULL,
	PRIMARY KEY (machine, ledger, kind)
) STRICT, WITHOUT ROWID;

-- The latest desired state of each machine, as it was signed.
CREATE TABLE desired (
	machine    TEXT PRIMARY KEY REFERENCES machine(id),
	generation INTEGER NOT NULL,
	version    INTEGER NOT NULL CHECK (version > 0),
	body       BLOB NOT NULL, -- JSON of protocol.Desired
	message    BLOB NOT NULL, -- JSON of protocol.Signed
	made_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE command (
	id         TEXT PRIMARY KEY,
	machine    TEXT NOT NULL REFERENCES machine(id),
	generation INTEGER NOT NULL,
	counter    INTEGER NOT NULL CHECK (counter > 0),
	verb       TEXT NOT NULL,
	slot       INTEGER NOT NULL, -- 0 where the verb takes none
	message    BLOB NOT NULL,    -- JSON of protocol.Signed
	made_ms    INTEGER NOT NULL,
	expires_ms INTEGER NOT NULL,
	result     TEXT,             -- NULL until the machine answers
	detail     TEXT,
	UNIQUE (machine, generation, counter)
) STRICT, WITHOUT ROWID;
