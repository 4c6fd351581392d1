-- What the scheduler learned, and from which files a petition began to be drawn.

CREATE TABLE cost (
    worker  TEXT NOT NULL,
    context TEXT NOT NULL,
    -- Samples of loading, steps and the rest, as MessagePack.
    record  BLOB NOT NULL,
    PRIMARY KEY (worker, context)
) STRICT, WITHOUT ROWID;

CREATE TABLE pin (
    petition TEXT PRIMARY KEY REFERENCES petition (id) ON DELETE CASCADE,
    -- Contents of its files and the engine's fingerprint, as MessagePack.
    record   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
