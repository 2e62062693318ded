package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
)

// recordKey is where the store's record of a step is.
func recordKey(key string, step int64) string {
	return path.Join("checkpoints", key, stepName(step))
}

// Export copies a sealed step to the store and records it there under key.
// Content that the store has is not copied again, so exporting twice is cheap.
// A step that is no longer what was sealed is refused.
func (d *Dir) Export(ctx context.Context, store *artifact.Store, key string, step int64, allocID string) (mltask.CheckpointRecord, error) {
	rec, err := d.export(ctx, store, key, step, allocID)
	if err != nil {
		return mltask.CheckpointRecord{}, fmt.Errorf("copying checkpoint step %d to the store: %w", step, err)
	}
	return rec, nil
}

func (d *Dir) export(ctx context.Context, store *artifact.Store, key string, step int64, allocID string) (mltask.CheckpointRecord, error) {
	s, err := d.readSeal(step)
	if err != nil {
		return mltask.CheckpointRecord{}, err
	}
	digest, m, err := store.PutAt(ctx, d.root, stepName(step))
	if err != nil {
		return mltask.CheckpointRecord{}, err
	}
	if digest != s.Digest {
		return mltask.CheckpointRecord{}, errors.New(difference(s.Manifest, m))
	}
	rec := mltask.CheckpointRecord{
		Step: step, Digest: string(digest), Bytes: s.Bytes(), SealedAt: s.SealedAt, AllocID: allocID,
	}
	return rec, store.PutRecord(ctx, recordKey(key, step), rec)
}

// Exported lists the steps that the store has records of under key, ascending.
func Exported(ctx context.Context, store *artifact.Store, key string) ([]int64, error) {
	folder := path.Join("checkpoints", key)
	keys, err := store.ListRecords(ctx, folder)
	if err != nil {
		return nil, fmt.Errorf("listing checkpoints in the store: %w", err)
	}
	var steps []int64
	for _, k := range keys {
		if step, ok := parseStep(path.Base(k)); ok && path.Dir(k) == folder {
			steps = append(steps, step)
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// PruneExported removes the store's records of all steps under key but the
// newest keep, at least one. Their blobs are the store's collector's.
func PruneExported(ctx context.Context, store *artifact.Store, key string, keep int) error {
	steps, err := Exported(ctx, store, key)
	if err != nil {
		return err
	}
	for _, step := range steps[:max(0, len(steps)-max(keep, 1))] {
		if err := store.DeleteRecord(ctx, recordKey(key, step)); err != nil {
			return err
		}
	}
	return nil
}

// Import brings the newest step after the given one that the store can give
// whole, and seals it here. What it passed over on the way, because it is
// missing or damaged, comes back too. It returns ErrNone if the store has no
// such step, and any other error if it cannot tell.
func (d *Dir) Import(ctx context.Context, store *artifact.Store, key string, after int64) (Seal, []Aside, error) {
	steps, err := Exported(ctx, store, key)
	if err != nil {
		return Seal{}, nil, err
	}
	var asides []Aside
	for _, step := range slices.Backward(steps) {
		if step <= after {
			break
		}
		s, err := d.importStep(ctx, store, key, step)
		switch {
		case err == nil:
			return s, asides, nil
		case isCanceled(err) || isMachine(err):
			return Seal{}, asides, fmt.Errorf("fetching checkpoint step %d: %w", step, err)
		}
		asides = append(asides, Aside{Step: step, Reason: "the store's copy: " + err.Error(), FoundAt: time.Now().UTC()})
	}
	return Seal{}, asides, ErrNone
}

// isMachine tells if err is of the machine, such as a full disk, and says
// nothing about the checkpoint.
func isMachine(err error) bool {
	var corrupt *artifact.CorruptError
	var errno syscall.Errno
	return !errors.As(err, &corrupt) && errors.As(err, &errno)
}

func (d *Dir) importStep(ctx context.Context, store *artifact.Store, key string, step int64) (Seal, error) {
	var rec mltask.CheckpointRecord
	if err := store.GetRecord(ctx, recordKey(key, step), &rec); err != nil {
		return Seal{}, err
	}
	digest, err := artifact.ParseDigest(rec.Digest)
	if err != nil {
		return Seal{}, err
	}
	m, err := store.Manifest(ctx, digest)
	if err != nil {
		return Seal{}, err
	}
	// A name of this package's, so that a copy cut short is swept later.
	temp := garbage + "import-" + stepName(step)
	if err := d.root.RemoveAll(temp); err != nil {
		return Seal{}, err
	}
	if err := store.FetchAt(ctx, digest, d.root, temp, artifact.Durable()); err != nil {
		return Seal{}, err
	}
	if err := d.root.Rename(temp, stepName(step)); err != nil {
		return Seal{}, errors.Join(err, d.root.RemoveAll(temp))
	}
	return d.writeSeal(Seal{Step: step, Digest: digest, Manifest: m})
}

// Resume finds the step to start from: the newest that is whole, here or in
// the store, brought here if need be. It returns ErrNone for a start from the
// beginning. What was passed over comes back in any case. A store that fails
// is an error only if there is nothing here, else it is among what was passed
// over, with step -1.
//
// It must not be called while the task runs.
func (d *Dir) Resume(ctx context.Context, store *artifact.Store, key string) (Seal, []Aside, error) {
	here, asides, err := d.Newest(ctx)
	after := here.Step
	switch {
	case errors.Is(err, ErrNone):
		after = -1
	case err != nil:
		return Seal{}, asides, err
	}
	there, passed, serr := d.Import(ctx, store, key, after)
	asides = append(asides, passed...)
	switch {
	case serr == nil:
		return there, asides, nil
	case errors.Is(serr, ErrNone):
		return here, asides, err
	case err != nil || isCanceled(serr):
		return Seal{}, asides, serr
	}
	return here, append(asides, Aside{Step: -1, Reason: serr.Error(), FoundAt: time.Now().UTC()}), nil
}
