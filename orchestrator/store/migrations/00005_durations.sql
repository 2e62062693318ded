-- +goose Up

-- How long earlier runs of a pipeline's nodes took.
CREATE INDEX runs_by_pipeline ON runs (workspace, pipeline, id);
