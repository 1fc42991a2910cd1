-- Version 4: releases of the machines' software, and how they go out.

CREATE TABLE release (
	sha256   TEXT PRIMARY KEY CHECK (length(sha256) = 64), -- of the bundle
	version  TEXT NOT NULL UNIQUE,
	arch     TEXT NOT NULL,                                -- of the machines it is for
	size     INTEGER NOT NULL CHECK (size > 0),            -- of the bundle in bytes
	added_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The bundles, in parts: so every districtd on one database has all of them.
CREATE TABLE release_part (
	sha256 TEXT NOT NULL,
	part   INTEGER NOT NULL CHECK (part >= 0), -- counted from 0, each of 1 MiB but the last
	bytes  BLOB NOT NULL,
	PRIMARY KEY (sha256, part)
) STRICT;

CREATE TABLE rollout (
	id      TEXT PRIMARY KEY,
	version TEXT NOT NULL,
	course  TEXT NOT NULL CHECK (course IN ('running', 'paused', 'stopped', 'done')),
	made_ms INTEGER NOT NULL,
	body    BLOB NOT NULL -- JSON of Rollout
) STRICT, WITHOUT ROWID;
