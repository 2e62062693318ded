package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/stage"
)

// finish does what is left when no process of the task is: the last
// checkpoints, the outputs of a success, and the record. If the outputs of a
// success can't be stored, it is none.
func (s *supervisor) finish(ctx context.Context, w *work, end *ending) {
	w.end()
	if w.keeper != nil {
		defer w.keeper.dir.Close()
		w.keeper.sealNew(ctx)
	}
	s.readMetrics(w.metrics, true)
	end.settle()
	outputs := s.storeOutputs(ctx, end)
	complete := end.succeeded() && s.spec.Checkpoint != nil && s.spec.Checkpoint.Forget
	if w.keeper != nil && !complete {
		w.keeper.copyLast(ctx)
	}
	// The record gets its own time, whatever the rest has taken.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	s.storeRecord(last, w, end, outputs)
	if w.keeper != nil && complete && end.succeeded() && s.spec.Store != "" {
		err := s.inStore(last, func(store *artifact.Store) error { return w.keeper.forget(last, store) })
		if err != nil {
			s.log.Warn("forgetting the checkpoints of a finished training", "error", err)
		}
	}
}

// recordLimit bounds the storing of the result record, which is small but for
// the metrics.
const recordLimit = time.Minute

// storeOutputs stores the declared outputs, if the task has succeeded so far.
func (s *supervisor) storeOutputs(ctx context.Context, end *ending) map[string]mltask.StoredOutput {
	if !end.succeeded() || len(s.spec.Outputs) == 0 {
		return nil
	}
	have, err := s.presentOutputs()
	if err != nil {
		s.fail(end, "outputs-missing", err)
		return nil
	}
	if s.spec.Store == "" {
		return nil
	}
	s.event("outputs", fmt.Sprintf("Storing outputs: %s", strings.Join(have, ", ")), nil)
	stored := map[string]mltask.StoredOutput{}
	err = s.inStore(ctx, func(store *artifact.Store) error {
		root, err := os.OpenRoot(s.spec.Folder)
		if err != nil {
			return err
		}
		defer root.Close()
		for _, name := range have {
			digest, m, err := store.PutAt(ctx, root, path.Join(mltask.OutputsDir, name))
			if err != nil {
				return fmt.Errorf("output %q: %w", name, err)
			}
			stored[name] = mltask.StoredOutput{Digest: string(digest), Kind: string(m.Kind), Bytes: m.Bytes(), Files: len(m.Files)}
		}
		return nil
	})
	if err != nil {
		s.fail(end, "outputs-failed", fmt.Errorf("storing outputs: %w", err))
		return nil
	}
	return stored
}

// presentOutputs lists the declared outputs that are there. One that is missing
// and not optional is an error.
func (s *supervisor) presentOutputs() (have []string, err error) {
	root, err := os.OpenRoot(s.spec.Folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, o := range s.spec.Outputs {
		_, serr := root.Lstat(path.Join(mltask.OutputsDir, o.Name))
		switch {
		case serr == nil:
			have = append(have, o.Name)
		case !errors.Is(serr, fs.ErrNotExist):
			err = errors.Join(err, fmt.Errorf("output %q: %w", o.Name, serr))
		case !o.Optional:
			err = errors.Join(err, fmt.Errorf("the command exited with 0 but left no output %q at DROVER_OUTPUT_DIR/%s", o.Name, o.Name))
		}
	}
	return have, err
}

// storeRecord stores the metrics and the result record, which must be there
// before the exit status is.
func (s *supervisor) storeRecord(ctx context.Context, w *work, end *ending, outputs map[string]mltask.StoredOutput) {
	if s.spec.ResultKey == "" || s.spec.Store == "" {
		return
	}
	err := s.inStore(ctx, func(store *artifact.Store) error {
		r := s.result(end, w)
		r.Outputs = outputs
		if f, err := w.metrics.open(); err == nil {
			digest, _, err := store.PutBlob(ctx, f)
			f.Close()
			if err != nil {
				return fmt.Errorf("metrics: %w", err)
			}
			r.Metrics = string(digest)
		}
		return store.PutRecord(ctx, "results/"+s.spec.ResultKey, r)
	})
	if err != nil {
		s.fail(end, "record-failed", fmt.Errorf("storing the result record: %w", err))
	}
}

// fail makes a failure of what would have been a success.
func (s *supervisor) fail(end *ending, key string, err error) {
	s.log.Error("finishing the task", "error", err)
	end.addError(err)
	end.settle()
	s.event(key, "Task failed: "+err.Error(), nil)
}

// inStore does something with the store. What may pass is tried again, for half
// a minute.
func (s *supervisor) inStore(ctx context.Context, do func(*artifact.Store) error) error {
	for pause := time.Second; ; pause *= 2 {
		store, err := s.openStore()
		if err == nil {
			err = do(store)
			store.Close()
		}
		const last = 16 * time.Second
		if err == nil || !stage.Transient(err) || pause > last {
			return err
		}
		s.log.Warn("the artifact store failed, trying again", "error", err, "pause", pause.String())
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (time was up before another attempt)", err)
		case <-time.After(pause):
		}
	}
}
