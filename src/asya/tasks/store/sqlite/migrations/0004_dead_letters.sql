-- Dead letters: what was done with them, and which of them are about the same error.
-- The table is made anew, with `body` last: whoever reads another column passes no large value.

CREATE TABLE letters (
    key         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL,
    reason      TEXT NOT NULL,
    actor       TEXT NOT NULL,
    at          TEXT NOT NULL,
    status      TEXT NOT NULL,                      -- `dead`, `retried` or `purged`
    changed_at  TEXT NOT NULL,                      -- when it got its status
    retried_as  TEXT,                               -- id of the newest envelope made from it
    fingerprint TEXT NOT NULL,
    error       BLOB,                               -- JSON object
    body        BLOB NOT NULL,                      -- the envelope; empty of one that is purged
    UNIQUE (id, reason)
);
INSERT INTO letters
    SELECT key, id, reason, actor, at, 'dead', at, NULL, asya_fingerprint(reason, error), error, body
    FROM dead_letters;
DROP TABLE dead_letters;
ALTER TABLE letters RENAME TO dead_letters;
CREATE INDEX dead_letters_groups ON dead_letters (status, actor, fingerprint, reason, at);
CREATE INDEX dead_letters_settled ON dead_letters (changed_at) WHERE status <> 'dead';
