-- Admission keys, tasks that wait for their time, and what each schedule did last.

ALTER TABLE tasks ADD COLUMN not_before TEXT;       -- when it may begin; NULL for at once

CREATE TABLE admission_keys (
    scope      TEXT NOT NULL,                       -- `flow:NAME`, `route:a,b`, `schedule:NAME`
    key        TEXT NOT NULL,
    task       INTEGER NOT NULL,                    -- tasks.key of the task that holds it
    digest     BLOB NOT NULL,                       -- of the payload that it came with
    expires_at TEXT,                                -- NULL: held until the task has ended
    PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE INDEX admission_keys_task ON admission_keys (task);

CREATE TABLE schedules (
    name       TEXT PRIMARY KEY,
    seen_at    TEXT NOT NULL,                       -- every due time up to this one was dealt with
    last_at    TEXT,                                -- due time of the last run
    last_id    TEXT,                                -- its envelope
    last_error TEXT,                                -- why the last due time made no run
    suspended  INTEGER                              -- NULL: as the manifest says
) WITHOUT ROWID;
