-- +goose Up

-- Documents of a thousand bytes make a table WITHOUT ROWID three times as large:
-- SQLite gives each an overflow page.
CREATE TABLE queue_rows (
    id  TEXT PRIMARY KEY,       -- queue.JobID
    doc TEXT NOT NULL           -- admission.Row
);

INSERT INTO queue_rows SELECT id, doc FROM queue_jobs;
DROP TABLE queue_jobs;
ALTER TABLE queue_rows RENAME TO queue_jobs;
