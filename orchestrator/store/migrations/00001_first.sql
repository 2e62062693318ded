-- +goose Up

-- doc columns hold JSON of the Go type named beside them; the other columns
-- are what is searched or sorted by. Trial is -1 where there is none.

CREATE TABLE runs (
    id         TEXT PRIMARY KEY,
    workspace  TEXT NOT NULL,
    pipeline   TEXT NOT NULL,
    phase      TEXT NOT NULL,
    key        TEXT,            -- of an idempotent submission
    doc        TEXT NOT NULL,   -- store.runDoc
    submission TEXT NOT NULL    -- run.Submission
);
CREATE UNIQUE INDEX runs_by_key ON runs (workspace, key) WHERE key IS NOT NULL;
CREATE INDEX runs_by_phase ON runs (phase);

CREATE TABLE nodes (
    run      TEXT NOT NULL REFERENCES runs (id),
    node     TEXT NOT NULL,
    position INTEGER NOT NULL,
    doc      TEXT NOT NULL,     -- run.Node
    PRIMARY KEY (run, node)
);

CREATE TABLE trials (
    run   TEXT NOT NULL REFERENCES runs (id),
    node  TEXT NOT NULL,
    trial INTEGER NOT NULL,
    doc   TEXT NOT NULL,        -- run.Trial
    PRIMARY KEY (run, node, trial)
);

CREATE TABLE attempts (
    run    TEXT NOT NULL REFERENCES runs (id),
    node   TEXT NOT NULL,
    trial  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    doc    TEXT NOT NULL,       -- run.AttemptState
    PRIMARY KEY (run, node, trial, number)
);

CREATE TABLE events (
    run     TEXT NOT NULL REFERENCES runs (id),
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,   -- Unix nanoseconds
    node    TEXT NOT NULL,
    trial   INTEGER NOT NULL,
    type    TEXT NOT NULL,
    phase   TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;

-- One value of a metric for each step: a task that resumes from a checkpoint
-- logs some steps again, and the later value is the one that counts.
CREATE TABLE metrics (
    run    TEXT NOT NULL,
    node   TEXT NOT NULL,
    trial  INTEGER NOT NULL,
    metric TEXT NOT NULL,
    step   INTEGER NOT NULL,
    value  REAL NOT NULL,
    time   INTEGER NOT NULL,    -- Unix nanoseconds
    PRIMARY KEY (run, node, trial, metric, step)
) WITHOUT ROWID;

CREATE TABLE cache (
    workspace TEXT NOT NULL,
    key       TEXT NOT NULL,
    doc       TEXT NOT NULL,    -- run.CacheEntry
    PRIMARY KEY (workspace, key)
) WITHOUT ROWID;

-- What succeeded nodes and trials have read and written.
CREATE TABLE uses (
    digest TEXT NOT NULL,
    role   TEXT NOT NULL,       -- input or output
    run    TEXT NOT NULL,
    node   TEXT NOT NULL,
    trial  INTEGER NOT NULL,
    name   TEXT NOT NULL,
    PRIMARY KEY (digest, role, run, node, trial, name)
) WITHOUT ROWID;

CREATE TABLE versions (
    workspace TEXT NOT NULL,
    model     TEXT NOT NULL,
    number    INTEGER NOT NULL,
    run       TEXT NOT NULL,
    node      TEXT NOT NULL,
    digest    TEXT NOT NULL,
    created   INTEGER NOT NULL, -- Unix nanoseconds
    doc       TEXT NOT NULL,    -- registry.Version
    PRIMARY KEY (workspace, model, number)
);
CREATE UNIQUE INDEX versions_by_node ON versions (run, node);
CREATE INDEX versions_by_digest ON versions (digest);

CREATE TABLE aliases (
    workspace TEXT NOT NULL,
    model     TEXT NOT NULL,
    alias     TEXT NOT NULL,
    number    INTEGER NOT NULL,
    PRIMARY KEY (workspace, model, alias),
    FOREIGN KEY (workspace, model, number) REFERENCES versions (workspace, model, number)
) WITHOUT ROWID;

CREATE TABLE alias_moves (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    model     TEXT NOT NULL,
    doc       TEXT NOT NULL     -- registry.AliasMove
);
CREATE INDEX alias_moves_by_model ON alias_moves (workspace, model);

CREATE TABLE endpoints (
    workspace TEXT NOT NULL,
    name      TEXT NOT NULL,
    doc       TEXT NOT NULL,    -- registry.Endpoint
    PRIMARY KEY (workspace, name)
);

-- Revision numbers are never given twice, also after an endpoint was deleted.
CREATE TABLE deployments (
    run       TEXT NOT NULL,
    node      TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    workspace TEXT NOT NULL,
    endpoint  TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    doc       TEXT NOT NULL,    -- registry.Deployment
    PRIMARY KEY (run, node, attempt)
);
CREATE UNIQUE INDEX deployments_by_revision ON deployments (workspace, endpoint, revision);
