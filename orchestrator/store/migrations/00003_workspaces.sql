-- +goose Up

-- Every version of the definitions of workspaces; the last one holds.
CREATE TABLE workspaces (
    version INTEGER PRIMARY KEY,
    doc     TEXT NOT NULL       -- workspace.Stored
);

-- What was used, by days since 1970-01-01 UTC.
CREATE TABLE usage (
    day       INTEGER NOT NULL,
    workspace TEXT NOT NULL,
    flavor    TEXT NOT NULL,
    seconds   INTEGER NOT NULL, -- units times seconds, in thousandths
    PRIMARY KEY (day, workspace, flavor)
) WITHOUT ROWID;

-- Until when the use by an attempt at a task is counted in usage.
CREATE TABLE charged (
    job     TEXT NOT NULL,      -- queue.JobID
    attempt INTEGER NOT NULL,
    flavor  TEXT NOT NULL,
    until   INTEGER NOT NULL,   -- Unix seconds
    PRIMARY KEY (job, attempt, flavor)
) WITHOUT ROWID;
