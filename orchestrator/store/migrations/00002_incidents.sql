-- +goose Up

CREATE TABLE incidents (
    id     TEXT PRIMARY KEY,
    node   TEXT NOT NULL,       -- its ID
    name   TEXT NOT NULL,       -- of the node
    device TEXT NOT NULL,
    ended  INTEGER,             -- Unix nanoseconds; NULL while it goes on
    moving INTEGER NOT NULL,    -- 1 if an instance is to be placed again
    doc    TEXT NOT NULL        -- store.incidentDoc
);
CREATE INDEX incidents_by_device ON incidents (node, device);
CREATE INDEX incidents_unfinished ON incidents (id) WHERE ended IS NULL OR moving = 1;

-- The incident that an attempt was touched by; what became of it is in the doc.
ALTER TABLE attempts ADD COLUMN incident TEXT;
CREATE INDEX attempts_by_incident ON attempts (incident) WHERE incident IS NOT NULL;
