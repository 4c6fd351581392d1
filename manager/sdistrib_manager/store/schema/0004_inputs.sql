-- Which petition names which input file: what must not be collected.

CREATE TABLE input (
    petition   TEXT NOT NULL REFERENCES petition (id) ON DELETE CASCADE,
    -- SHA-256 of the file.
    blob       TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (petition, blob)
) STRICT, WITHOUT ROWID;
