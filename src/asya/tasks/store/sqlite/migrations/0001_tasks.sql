-- Tasks, their events, what must still be published, results, cancels and dead letters.
-- Times are RFC 3339 UTC texts with milliseconds: they sort as texts.

CREATE TABLE tasks (
    key         INTEGER PRIMARY KEY,                -- order of arrival; cursors are made of it
    id          TEXT NOT NULL UNIQUE,
    root        TEXT NOT NULL,
    parent_id   TEXT,
    flow        TEXT,
    status      TEXT NOT NULL,
    route       TEXT NOT NULL,                      -- JSON [[prev], curr, [next]]: no keys, so a
                                                    -- quoted name in it is an actor's name
    n           INTEGER NOT NULL,                   -- hop number of the newest event
    attempt     INTEGER NOT NULL,
    progress    INTEGER NOT NULL,
    seq         INTEGER NOT NULL,                   -- number of the newest event
    digest      BLOB,                               -- of route and payload as admitted
    headers     BLOB NOT NULL,                      -- JSON object
    error       BLOB,                               -- JSON object
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    deadline_at TEXT
);
CREATE INDEX tasks_status ON tasks (status, key);
CREATE INDEX tasks_flow ON tasks (flow, key) WHERE flow IS NOT NULL;
CREATE INDEX tasks_children ON tasks (root, key) WHERE root <> id;
CREATE INDEX tasks_ended ON tasks (updated_at) WHERE status IN ('succeeded', 'failed', 'canceled');

CREATE TABLE results (
    key  INTEGER PRIMARY KEY,
    body BLOB NOT NULL                              -- JSON, as the handler's frame had it
);

CREATE TABLE outbox (
    key  INTEGER PRIMARY KEY,
    body BLOB NOT NULL                              -- the first envelope, until it is published
);

CREATE TABLE events (
    task INTEGER NOT NULL,
    seq  INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (task, seq)
) WITHOUT ROWID;

CREATE TABLE cancels (
    id TEXT PRIMARY KEY,
    at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX cancels_at ON cancels (at);

CREATE TABLE dead_letters (
    key    INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL,
    reason TEXT NOT NULL,
    actor  TEXT NOT NULL,
    at     TEXT NOT NULL,
    error  BLOB,
    body   BLOB NOT NULL,
    UNIQUE (id, reason)
);
