-- The event chains on PostgreSQL, in monthly partitions by their arrival. A primary key
-- must hold the partition's column there; that a seq comes once is kept by the ledger's
-- row, which only moves up, under the machine's lock.
CREATE TABLE event (
	machine     TEXT NOT NULL,
	ledger      TEXT NOT NULL,
	seq         BIGINT NOT NULL CHECK (seq > 0),
	at_ms       BIGINT NOT NULL,
	received_ms BIGINT NOT NULL,
	kind        TEXT NOT NULL,
	body        BYTEA NOT NULL,
	hash        BYTEA NOT NULL CHECK (length(hash) = 32),
	PRIMARY KEY (machine, ledger, seq, received_ms)
) PARTITION BY RANGE (received_ms);
CREATE TABLE event_other PARTITION OF event DEFAULT;
