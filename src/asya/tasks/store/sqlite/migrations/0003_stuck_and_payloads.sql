-- Marks of the watcher, and payloads of hops that are kept to be looked at.

ALTER TABLE tasks ADD COLUMN stuck_at TEXT;         -- when it was found to stand still; NULL: it moves
CREATE INDEX tasks_stuck ON tasks (key) WHERE stuck_at IS NOT NULL;

CREATE TABLE payloads (
    key       INTEGER PRIMARY KEY AUTOINCREMENT,    -- in the order of time: the oldest go first
    task      INTEGER NOT NULL,                     -- tasks.key
    n         INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    side      TEXT NOT NULL,                        -- `in` or `out`
    at        TEXT NOT NULL,
    size      INTEGER NOT NULL,                     -- bytes of the whole payload
    truncated INTEGER NOT NULL,                     -- 1: `body` is its beginning only
    body      BLOB NOT NULL
);
CREATE INDEX payloads_task ON payloads (task, n);
