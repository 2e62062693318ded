package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// resume finds the newest checkpoint that is whole, here or in the store.
func (s *staging) resume(ctx context.Context) error {
	if s.CheckpointKey == "" {
		return nil
	}
	dir, err := checkpoint.Open(filepath.Join(s.out.Folder, mltask.CheckpointsDir))
	if err != nil {
		return err
	}
	defer dir.Close()
	var seal checkpoint.Seal
	var asides []checkpoint.Aside
	if s.Store == nil {
		seal, asides, err = dir.Newest(ctx)
	} else {
		seal, asides, err = dir.Resume(ctx, s.Store, s.CheckpointKey)
	}
	for _, a := range asides {
		if a.Step < 0 {
			s.Event("resume-store", "Checkpoints in the artifact store could not be looked at: "+a.Reason, nil)
			continue
		}
		step := strconv.FormatInt(a.Step, 10)
		// A step can be set aside twice: here, and in the store.
		s.Event("aside-"+step+"-"+a.Reason, "Checkpoint "+step+" set aside: "+a.Reason, map[string]string{"step": step, "reason": a.Reason, "path": a.Path})
	}
	switch {
	case errors.Is(err, checkpoint.ErrNone):
		return nil
	case err != nil:
		return fmt.Errorf("finding a checkpoint to resume from: %w", err)
	}
	s.out.Resume, s.out.ResumedFrom = dir.Path(seal.Step), &seal.Step
	step := strconv.FormatInt(seal.Step, 10)
	s.Event("resumed", "Resumed from step "+step, map[string]string{"step": step})
	return s.ownTree(in(mltask.CheckpointsDir, "step-"+step))
}

// metrics leaves the lines of the metrics file up to the step resumed from, for
// the steps after it will be told again. They come from this allocation's file,
// or else from the store.
func (s *staging) metrics(ctx context.Context) error {
	from, err := s.earlierMetrics(ctx)
	if err != nil {
		return fmt.Errorf("restoring the metrics: %w", err)
	}
	if from != nil {
		defer from.Close()
	}
	if s.out.ResumedFrom == nil || from == nil {
		return s.replace(in(mltask.MetricsFile), nil)
	}
	temp := in(".metrics")
	if err := s.replace(temp, nil); err != nil {
		return err
	}
	f, err := s.root.OpenFile(temp, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = upTo(*s.out.ResumedFrom, from, f)
	var corrupt *artifact.CorruptError
	if errors.As(err, &corrupt) { // the training is worth more than its history
		s.Event("metrics-lost", "Metrics of earlier starts are lost: "+err.Error(), nil)
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("restoring the metrics: %w", err)
	}
	if err := s.root.RemoveAll(in(mltask.MetricsFile)); err != nil {
		return err
	}
	return s.root.Rename(temp, in(mltask.MetricsFile))
}

// earlierMetrics opens the metrics of earlier starts, nil if there are none.
func (s *staging) earlierMetrics(ctx context.Context) (io.ReadCloser, error) {
	if info, err := s.root.Lstat(in(mltask.MetricsFile)); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		return s.root.Open(in(mltask.MetricsFile))
	}
	if s.Store == nil || s.out.ResumedFrom == nil {
		return nil, nil
	}
	var rec mltask.CheckpointMetrics
	err := s.Store.GetRecord(ctx, mltask.CheckpointMetricsKey(s.CheckpointKey), &rec)
	if errors.Is(err, artifact.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Store.OpenBlob(ctx, artifact.Digest(rec.Digest))
}

// upTo copies the lines whose step is not beyond one; malformed lines are left
// out.
func upTo(step int64, r io.Reader, w io.Writer) error {
	out := bufio.NewWriter(w)
	lines := bufio.NewReaderSize(r, mltask.MaxMetricsLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && err != io.EOF {
			return err
		}
		if l, perr := mltask.ParseMetricsLine(line); perr == nil && l.Step <= step && err == nil {
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return out.Flush()
		}
	}
}
