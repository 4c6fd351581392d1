-- Sizes at which workers ran out of memory.

CREATE TABLE ceiling (
    worker TEXT PRIMARY KEY,
    -- What the worker was then, and context, tiling and pixels of each, as MessagePack.
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
