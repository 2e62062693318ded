package simulated

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// stored is what a simulated machine keeps when its process ends, as hardware
// does: how its boards are cut, and when the blocks of its script were first
// read. As a file:
//
//	{"version":1,
//	 "boards":{"GPU-...":{"described":"MIG off","enabled":true,
//	   "instances":[{"profile":"3g.20gb","start":4,"size":4,"compute":[3]}]}},
//	 "script":{"fault {\"Device\":\"3\",\"XID\":79} #1":"2026-01-02T15:04:05Z"}}
type stored struct {
	Version int                    `json:"version"`
	Boards  map[gpu.ID]storedBoard `json:"boards,omitempty"`
	Script  map[string]time.Time   `json:"script,omitempty"`
}

// storedBoard is the MIG state of a board.
type storedBoard struct {
	migState
	// Described is what the board's description said when this was written:
	// a description that was changed since counts more than what is here.
	Described string `json:"described"`
}

func (s stored) clone() stored {
	s.Boards, s.Script = maps.Clone(s.Boards), maps.Clone(s.Script)
	if s.Boards == nil {
		s.Boards = make(map[gpu.ID]storedBoard)
	}
	if s.Script == nil {
		s.Script = make(map[string]time.Time)
	}
	return s
}

const storedVersion = 1

// store keeps a stored value, in a file if it has a path. Several processes
// may use one file: each sees what the others wrote.
type store struct {
	path string // "" keeps it in memory

	mu    sync.Mutex
	value stored
	file  os.FileInfo // of the value; nil is none
	own   os.FileInfo // of what this process wrote last
}

// wrote reports whether a file is what this process wrote last.
func (s *store) wrote(file os.FileInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own != nil && sameFile(s.own, file)
}

// view is the value at present. It is not to be changed.
func (s *store) view() (stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.refresh()
	return s.value, err
}

// update changes the value, unless change returns an error.
func (s *store) update(change func(*stored) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		next := s.value.clone()
		if err := change(&next); err != nil {
			return err
		}
		s.value = next
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("keeping the state of the simulated GPUs: %w; set state_dir to a folder that can be written", err)
	}
	unlock, err := lock(s.path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.refresh(); err != nil {
		return err
	}
	next := s.value.clone()
	if err := change(&next); err != nil {
		return err
	}
	next.Version = storedVersion
	content, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("writing the state of the simulated GPUs: %w", err)
	}
	if err := replace(s.path, content); err != nil {
		return fmt.Errorf("writing the state of the simulated GPUs: %w", err)
	}
	s.value = next
	s.file, _ = os.Stat(s.path)
	s.own = s.file
	return nil
}

// refresh reads the file if it is no longer the one that was read.
func (s *store) refresh() error {
	if s.path == "" {
		return nil
	}
	now, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.value, s.file = stored{}, nil
		return nil
	case err != nil:
		return fmt.Errorf("reading the state of the simulated GPUs: %w", err)
	case sameFile(s.file, now):
		return nil
	}
	content, err := readLimited(s.path)
	if err != nil {
		return fmt.Errorf("reading the state of the simulated GPUs: %w", err)
	}
	value, err := parseStored(content)
	if err != nil {
		return fmt.Errorf("the state of the simulated GPUs in %s is not usable: %w; remove it to start anew", s.path, err)
	}
	s.value, s.file = value, now
	return nil
}

func parseStored(content []byte) (stored, error) {
	var value stored
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&value); err != nil {
		return stored{}, err
	}
	if value.Version != storedVersion {
		return stored{}, fmt.Errorf("its version is %d, not %d", value.Version, storedVersion)
	}
	for id, b := range value.Boards {
		for _, in := range b.Instances {
			if in.Size < 1 || in.Start < 0 || in.Start+in.Size > 16 || len(in.Compute) > 16 {
				return stored{}, fmt.Errorf("board %s has a slice at %d of size %d", id, in.Start, in.Size)
			}
		}
	}
	return value, nil
}

// sameFile reports whether a file is still the one that it was.
func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// lock holds other processes off until unlock is called.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state of the simulated GPUs: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking the state of the simulated GPUs: %w", err)
	}
	return func() { f.Close() }, nil
}

// replace writes a file in one step: after a crash there is the old or the new
// content. Everybody may read it, so that commands for people work. The caller
// holds the lock, so that what a crash left behind is written over.
func replace(path string, content []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
