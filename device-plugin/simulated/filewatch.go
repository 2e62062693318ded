package simulated

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

// fileWatch waits for changes of files, which need not exist. The kernel tells
// of changes in their folders; in case it cannot (a link to elsewhere, a
// network file system) files are also to be looked at now and then, and often
// where it tells nothing at all.
type fileWatch struct {
	paths []string
	log   hclog.Logger

	told    *fsnotify.Watcher // nil if the kernel tells nothing
	untold  []string          // folders that it does not watch yet
	refused bool              // and that was said
	ticker  *time.Ticker
}

const (
	lookWhenTold = 5 * time.Second
	lookUntold   = 250 * time.Millisecond
)

func (w *fileWatch) start() {
	var err error
	// The buffer lets the kernel's queue be emptied while a file is read.
	if w.told, err = fsnotify.NewBufferedWatcher(64); err != nil {
		w.told = nil
		w.log.Debug("files of the simulated GPUs are looked at several times a second", "reason", err)
	}
	for _, p := range w.paths {
		if dir := filepath.Dir(p); !slices.Contains(w.untold, dir) {
			w.untold = append(w.untold, dir)
		}
	}
	w.ticker = time.NewTicker(lookUntold)
	w.follow()
}

func (w *fileWatch) stop() {
	w.ticker.Stop()
	if w.told != nil {
		_ = w.told.Close()
	}
}

// follow has the kernel watch the folders that it does not watch yet. They may
// have been made only now.
func (w *fileWatch) follow() {
	if w.told == nil || len(w.untold) == 0 {
		return
	}
	var errs []error
	w.untold = slices.DeleteFunc(w.untold, func(dir string) bool {
		err := w.told.Add(dir)
		errs = append(errs, err)
		return err == nil
	})
	if len(w.untold) == 0 {
		w.ticker.Reset(lookWhenTold)
	} else if !w.refused {
		w.refused = true
		w.log.Debug("files of the simulated GPUs are looked at several times a second", "reason", errors.Join(errs...))
	}
}

// wait returns when the files may have changed. It reports whether ctx goes
// on.
func (w *fileWatch) wait(ctx context.Context) bool {
	var told chan fsnotify.Event
	var lost chan error
	if w.told != nil {
		told, lost = w.told.Events, w.told.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.ticker.C:
			w.follow()
			return true
		case <-lost:
			return true
		case e := <-told:
			if slices.ContainsFunc(w.paths, func(p string) bool { return filepath.Base(p) == filepath.Base(e.Name) }) {
				return true
			}
		}
	}
}

func stats(paths []string) map[string]os.FileInfo {
	files := make(map[string]os.FileInfo)
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil {
			files[p] = info
		}
	}
	return files
}
