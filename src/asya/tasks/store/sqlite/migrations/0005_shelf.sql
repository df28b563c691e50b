-- Messages that wait for a time which their broker cannot keep; see `transports/later.py`.
-- `body` stands last: whoever reads another column passes no large value.

CREATE TABLE shelf (
    key      INTEGER PRIMARY KEY AUTOINCREMENT,
    queue    TEXT NOT NULL,
    due_at   INTEGER NOT NULL,                      -- microseconds since 1970, UTC
    dedup_id TEXT,
    body     BLOB NOT NULL
);
CREATE UNIQUE INDEX shelf_once ON shelf (queue, dedup_id);
CREATE INDEX shelf_due ON shelf (due_at);
