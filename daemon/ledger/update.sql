-- Version 2: an order to take another version of the software into use, from its
-- command until whoever carries it out has written it down.

CREATE TABLE update_order (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	command TEXT NOT NULL,                                          -- id of its command
	body    TEXT NOT NULL                                           -- JSON of protocol.Update
) STRICT;
