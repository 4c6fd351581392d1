-- Petitions, the images of theirs that were granted at least once, and what is left of old ones.
-- An image without a row is fresh: it waits, and nothing was ever issued for it.

CREATE TABLE petition (
    id             TEXT PRIMARY KEY,
    owner          TEXT NOT NULL,
    number         INTEGER NOT NULL UNIQUE,
    body           BLOB NOT NULL,
    digest         TEXT NOT NULL,
    accepted_wall  REAL NOT NULL,
    state          TEXT NOT NULL DEFAULT 'queued'
                   CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'expired')),
    left_s         REAL NOT NULL DEFAULT 0,
    ended_uptime_s REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    petition TEXT NOT NULL REFERENCES petition (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('waiting', 'leased', 'done', 'failed', 'cancelled')),
    -- SHA-256 of the picture, NULL until there is one: what must not be collected.
    blob     TEXT,
    -- Everything else, as MessagePack: attempts, failures, losses, result, seen.
    record   BLOB NOT NULL,
    PRIMARY KEY (petition, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX image_blob ON image (blob) WHERE blob IS NOT NULL;

CREATE TABLE tombstone (
    id       TEXT PRIMARY KEY,
    owner    TEXT NOT NULL,
    digest   TEXT NOT NULL,
    state    TEXT NOT NULL,
    uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE worker (
    name          TEXT PRIMARY KEY,
    inventory     BLOB NOT NULL,
    seen_wall     REAL NOT NULL,
    seen_uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE clock (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    uptime_s REAL NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO clock VALUES (1, 0);
