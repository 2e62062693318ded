-- +goose Up

CREATE TABLE queue_jobs (
    id  TEXT PRIMARY KEY,       -- queue.JobID
    doc TEXT NOT NULL           -- admission.Row
) WITHOUT ROWID;

CREATE TABLE queue_memory (
    id  INTEGER PRIMARY KEY CHECK (id = 1),
    doc TEXT NOT NULL           -- admission.Memory
);
