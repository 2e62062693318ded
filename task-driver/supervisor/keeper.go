package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

const (
	// sealInterval is how often the checkpoint folder is looked at. It works on
	// every file system, and costs a directory read.
	sealInterval = 250 * time.Millisecond
	maxPause     = 30 * time.Second // between attempts to copy
	lastAttempts = 4                // to copy, once the task has ended
)

// keeper seals a task's checkpoints as they come, copies them to the artefact
// store, and prunes old ones.
type keeper struct {
	s   *supervisor
	dir *checkpoint.Dir

	failed map[int64]bool // steps that can't be sealed, told once

	mu     sync.Mutex
	sealed []int64 // by this start, ascending
	news   chan struct{}
	copied map[int64]bool
}

func newKeeper(s *supervisor) (*keeper, error) {
	dir, err := checkpoint.Open(s.inFolder(mltask.CheckpointsDir))
	if err != nil {
		return nil, err
	}
	k := &keeper{s: s, dir: dir, failed: map[int64]bool{}, copied: map[int64]bool{}, news: make(chan struct{}, 1)}
	if s.spec.ResumedFrom != nil {
		k.sealed = append(k.sealed, *s.spec.ResumedFrom)
		k.tell()
	}
	return k, nil
}

func (k *keeper) tell() {
	select {
	case k.news <- struct{}{}:
	default:
	}
}

func (k *keeper) lastSealed() *int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sealed) == 0 {
		return nil
	}
	last := slices.Max(k.sealed)
	return &last
}

// sealAsTheyCome seals until ctx ends.
func (k *keeper) sealAsTheyCome(ctx context.Context) {
	tick := time.NewTicker(sealInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.sealNew(ctx)
		}
	}
}

// sealNew seals what the task has finished, and prunes.
func (k *keeper) sealNew(ctx context.Context) {
	found, err := k.dir.Scan()
	if err != nil {
		k.s.event("checkpoints-unreadable", "The checkpoint folder can't be read: "+err.Error(), nil)
		return
	}
	for _, name := range found.Odd { // told of the first one only
		k.s.event("odd", fmt.Sprintf("%q in the checkpoint folder is ignored: a checkpoint is named step-<number>, without leading zeros", name), nil)
	}
	for _, step := range found.Unsealed {
		if ctx.Err() != nil {
			return
		}
		k.seal(ctx, step)
	}
	if _, err := k.dir.Prune(k.s.spec.Checkpoint.Keep); err != nil {
		k.s.log.Warn("pruning checkpoints", "error", err)
	}
}

func (k *keeper) seal(ctx context.Context, step int64) {
	began := time.Now()
	seal, err := k.dir.Seal(ctx, step)
	switch {
	case ctx.Err() != nil, errors.Is(err, fs.ErrNotExist):
		return // the task removed it, or time is up
	case err != nil && !k.failed[step]:
		k.failed[step] = true
		k.s.event(fmt.Sprintf("unsealed-%d", step), fmt.Sprintf("Checkpoint %d can't be sealed: %v", step, err), map[string]string{"step": strconv.FormatInt(step, 10)})
		return
	case err != nil:
		return // tried again: a full disk may have space by now
	}
	delete(k.failed, step)
	k.s.event(fmt.Sprintf("sealed-%d", step), fmt.Sprintf("Checkpoint %d sealed", step), map[string]string{
		"step":   strconv.FormatInt(step, 10),
		"bytes":  strconv.FormatInt(seal.Bytes(), 10),
		"digest": string(seal.Digest),
	})
	k.s.log.Info("checkpoint sealed", "step", step, "bytes", seal.Bytes(), "took", time.Since(began).String())
	k.mu.Lock()
	k.sealed = append(k.sealed, step)
	k.mu.Unlock()
	k.tell()
}

// copyAsTheyCome copies sealed checkpoints to the store until ctx ends. A store
// that fails is tried again, for as long as the task runs.
func (k *keeper) copyAsTheyCome(ctx context.Context) {
	if k.s.spec.Store == "" {
		return
	}
	const firstPause = time.Second
	pause := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.news:
		}
		if err := k.copyNew(ctx); err == nil {
			pause = firstPause
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
		k.tell()
	}
}

// copyNew copies what the store has not got yet, the newest first.
func (k *keeper) copyNew(ctx context.Context) error {
	store, err := k.s.openStore()
	if err == nil {
		defer store.Close()
		err = k.copyTo(ctx, store)
	}
	if err != nil && ctx.Err() == nil {
		k.s.log.Warn("copying checkpoints to the artifact store", "error", err)
		k.s.event("copy-failed", "Checkpoints can't be copied to the artifact store, which will be tried again: "+err.Error(), nil)
	}
	return err
}

func (k *keeper) copyTo(ctx context.Context, store *artifact.Store) error {
	c := k.s.spec.Checkpoint
	pending := k.pending()
	if len(pending) == 0 {
		return nil
	}
	if k.skipResumed(ctx, store) {
		pending = k.pending()
	}
	var errs []error
	for _, step := range pending {
		errs = append(errs, k.copyStep(ctx, store, step))
	}
	errs = append(errs, k.copyMetrics(ctx, store))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return checkpoint.PruneExported(ctx, store, c.Key, c.Keep)
}

// pending lists the newest steps that have no copy, the newest first.
func (k *keeper) pending() []int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	slices.Sort(k.sealed)
	newest := k.sealed[max(0, len(k.sealed)-k.s.spec.Checkpoint.Keep):]
	var steps []int64
	for _, step := range slices.Backward(newest) {
		if !k.copied[step] {
			steps = append(steps, step)
		}
	}
	return steps
}

func (k *keeper) copyStep(ctx context.Context, store *artifact.Store, step int64) error {
	// Sealing does not wait for a copy. If pruning removes the step meanwhile,
	// the copy fails and is not missed.
	_, err := k.dir.Export(ctx, store, k.s.spec.Checkpoint.Key, step, k.s.spec.AllocID)
	if errors.Is(err, fs.ErrNotExist) {
		k.s.log.Info("checkpoint was pruned before it was copied", "step", step)
		err = nil
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.copied[step] = true
	k.mu.Unlock()
	return nil
}

// copyMetrics keeps the metrics so far beside the checkpoints, so that a
// training which goes on elsewhere has them from its beginning.
func (k *keeper) copyMetrics(ctx context.Context, store *artifact.Store) error {
	f, err := newMetrics(k.s.spec.Folder).open()
	if err != nil {
		return nil // none, or none to be used: that is told elsewhere
	}
	defer f.Close()
	digest, _, err := store.PutBlob(ctx, f)
	if err != nil {
		return err
	}
	return store.PutRecord(ctx, mltask.CheckpointMetricsKey(k.s.spec.Checkpoint.Key), mltask.CheckpointMetrics{Digest: string(digest)})
}

// skipResumed reports whether there is nothing to copy of the step resumed from,
// because the store has it.
func (k *keeper) skipResumed(ctx context.Context, store *artifact.Store) bool {
	from := k.s.spec.ResumedFrom
	if from == nil || k.copied[*from] {
		return false
	}
	have, err := checkpoint.Exported(ctx, store, k.s.spec.Checkpoint.Key)
	if err != nil || !slices.Contains(have, *from) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.copied[*from] = true
	return true
}

// copyLast copies what is left when the task has ended.
func (k *keeper) copyLast(ctx context.Context) {
	if k.s.spec.Store == "" {
		return
	}
	pause := time.Second
	for range lastAttempts {
		if k.copyNew(ctx) == nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause *= 2
	}
	k.s.event("copy-gave-up", fmt.Sprintf("Checkpoints of the steps %v were not copied to the artifact store; they are in the allocation's folder only", k.pending()), nil)
}

// forget removes the store's records of a training that is complete.
func (k *keeper) forget(ctx context.Context, store *artifact.Store) error {
	key := k.s.spec.Checkpoint.Key
	keys, err := store.ListRecords(ctx, "checkpoints/"+key)
	if err != nil {
		return err
	}
	for _, record := range keys {
		if err := store.DeleteRecord(ctx, record); err != nil {
			return err
		}
	}
	return nil
}
