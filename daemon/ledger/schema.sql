-- Version 1 of the machine's memory. Later versions are further entries in the
-- list in db.go; this file is never edited once a machine runs on it.

PRAGMA application_id = 2036428650; -- "yaoj": a file of ours, and nobody else's

CREATE TABLE meta (
	one                INTEGER PRIMARY KEY CHECK (one = 1),
	machine            TEXT    NOT NULL,                                      -- protocol.MachineID this memory belongs to
	ledger             TEXT    NOT NULL CHECK (length(ledger) = 32),          -- protocol.LedgerID, random
	boot               INTEGER NOT NULL DEFAULT 0 CHECK (boot >= 0),          -- starts of the daemon on this ledger
	last_vend          INTEGER NOT NULL DEFAULT 0
		CHECK (last_vend BETWEEN 0 AND 4294967295),                           -- highest vend id minted here or known to a board
	board              TEXT    NOT NULL DEFAULT '',                           -- serial and losses of the board that answered last; '': none yet
	connection         INTEGER NOT NULL DEFAULT 0 CHECK (connection >= 0),    -- number of the latest connection to the broker
	wall_ms            INTEGER NOT NULL CHECK (wall_ms >= 0),                 -- latest wall clock ever believed, Unix milliseconds
	paused             INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
	acked_generation   INTEGER NOT NULL DEFAULT 0 CHECK (acked_generation >= 0),
	acked_seq          INTEGER NOT NULL DEFAULT 0 CHECK (acked_seq >= 0),
	command_generation INTEGER NOT NULL DEFAULT 0 CHECK (command_generation >= 0),
	command_counter    INTEGER NOT NULL DEFAULT 0 CHECK (command_counter >= 0) -- highest heard in that generation
) STRICT;

-- The event chain. It is only ever added to.
CREATE TABLE event (
	seq  INTEGER PRIMARY KEY CHECK (seq >= 1),
	body BLOB NOT NULL,                            -- the exact bytes that were hashed and are sent
	hash BLOB NOT NULL CHECK (length(hash) = 32)   -- SHA-256 over the hash before, machine, ledger and body
) STRICT;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT raise(ABORT, 'an event is never deleted'); END;
CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT raise(ABORT, 'an event is never changed'); END;

CREATE TABLE slot (
	slot      INTEGER PRIMARY KEY CHECK (slot BETWEEN 1 AND 60),
	next_pos  INTEGER NOT NULL DEFAULT 1,                          -- place of the next batch in the queue, never reused
	failures  INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),    -- kept vends in a row
	loaded    INTEGER NOT NULL DEFAULT 0 CHECK (loaded >= 0),      -- pieces ever put in, and found by counting
	removed   INTEGER NOT NULL DEFAULT 0 CHECK (removed >= 0),     -- pieces ever taken out, tested, and missed by counting
	dispensed INTEGER NOT NULL DEFAULT 0 CHECK (dispensed >= 0),   -- pieces ever given out
	stock_seq INTEGER NOT NULL DEFAULT 0 CHECK (stock_seq >= 0)    -- seq of the latest event that moved its pieces
) STRICT;
INSERT INTO slot (slot)
	WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) SELECT i FROM n;

-- What stands in a slot: a queue, lowest place in front. Pieces set aside for an
-- open vend are already taken off.
CREATE TABLE stock (
	slot    INTEGER NOT NULL REFERENCES slot,
	pos     INTEGER NOT NULL,
	product TEXT    NOT NULL,
	batch   TEXT    NOT NULL CHECK (length(batch) BETWEEN 1 AND 20),
	expiry  TEXT    NOT NULL CHECK (length(expiry) = 10),          -- last day of use, year-month-day
	pieces  INTEGER NOT NULL CHECK (pieces BETWEEN 1 AND 999),
	PRIMARY KEY (slot, pos)
) STRICT, WITHOUT ROWID;

CREATE TABLE block (
	slot  INTEGER NOT NULL REFERENCES slot,
	why   TEXT    NOT NULL CHECK (why IN ('unknown', 'suspect', 'fault', 'staff', 'district')),
	cause INTEGER NOT NULL DEFAULT 0,                              -- protocol.Fault, 0 if none
	PRIMARY KEY (slot, why)
) STRICT, WITHOUT ROWID;

CREATE TABLE fault (
	fault INTEGER NOT NULL CHECK (fault BETWEEN 1 AND 65535),      -- protocol.Fault that stands now
	slot  INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 60),          -- 0: the whole machine
	PRIMARY KEY (fault, slot)
) STRICT, WITHOUT ROWID;

-- Every vend ever reserved. It says nothing about who or when.
CREATE TABLE vend (
	id       INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
	slot     INTEGER NOT NULL REFERENCES slot,
	pos      INTEGER NOT NULL,                                     -- place in the queue its piece came from
	product  TEXT    NOT NULL,
	batch    TEXT    NOT NULL,
	expiry   TEXT    NOT NULL,                                     -- last day of use, year-month-day
	outcome  INTEGER NOT NULL DEFAULT 0 CHECK (outcome BETWEEN 0 AND 3), -- 0 reserved, then protocol.Outcome
	board    TEXT    NOT NULL,                                     -- meta.board when it was reserved: whose memory can tell
	next_day TEXT,                                                 -- first day the card may take again; forgotten when settled
	CHECK (outcome < 2 OR next_day IS NULL)
) STRICT;
CREATE INDEX vend_open ON vend (slot) WHERE outcome < 2;

-- The only place where a mark lives. Its order is the marks' own, so that it does
-- not tell the order of visits, and a settled row no longer names its vend.
CREATE TABLE entitlement (
	mark       BLOB    NOT NULL CHECK (length(mark) = 16),
	day        TEXT    NOT NULL CHECK (length(day) = 10),          -- of taking, year-month-day in the machine's zone
	class      TEXT    NOT NULL,                                   -- protocol.Product.Class
	vend       INTEGER NOT NULL DEFAULT 0,                         -- while the vend is open; 0 once it is settled
	boxes      INTEGER NOT NULL CHECK (boxes > 0),
	units      INTEGER NOT NULL CHECK (units > 0),                 -- single items in those boxes
	keep_until TEXT    NOT NULL CHECK (length(keep_until) = 10),   -- last day on which any rule counts it
	PRIMARY KEY (mark, day, class, vend)
) STRICT, WITHOUT ROWID;
CREATE INDEX entitlement_open ON entitlement (vend) WHERE vend > 0;
CREATE INDEX entitlement_end  ON entitlement (keep_until);

CREATE TABLE desired (
	one        INTEGER PRIMARY KEY CHECK (one = 1),
	generation INTEGER NOT NULL CHECK (generation > 0),
	version    INTEGER NOT NULL CHECK (version > 0),
	body       TEXT    NOT NULL                                    -- JSON of protocol.Desired
) STRICT;

CREATE TABLE command (
	id     TEXT PRIMARY KEY,
	verb   TEXT NOT NULL,
	result TEXT NOT NULL,                                          -- protocol.CommandResult
	detail TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE board (
	serial  TEXT PRIMARY KEY CHECK (serial <> ''),                 -- 16 hexadecimal digits
	highest INTEGER NOT NULL,                                      -- highest vend id it ever said it knows
	losses  INTEGER NOT NULL DEFAULT 0                             -- how often it had forgotten what it knew
) STRICT, WITHOUT ROWID;
