package reslice

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the folder in which the tasks of a node are kept: mig.json, and two
// locks beside it. mig.lock is held by whoever reconciles; mig.json.lock for
// the moment of a change.
type Dir struct{ path string }

// ErrHeld is what Acquire returns while another process reconciles.
var ErrHeld = errors.New("another process reconciles this node's MIG layouts")

const maxStateBytes = 4 << 20

// OpenDir uses a folder, and makes it if it is not there.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("opening the MIG state folder: %w", err)
	}
	return &Dir{path}, nil
}

// Acquire makes this process the one that reconciles, until release or its
// end.
func (d *Dir) Acquire() (release func() error, err error) {
	f, err := d.lock("mig.lock", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrHeld
	}
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

func (d *Dir) lock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the MIG state: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return f, nil
}

func (d *Dir) file() string { return filepath.Join(d.path, "mig.json") }

// Load reads the tasks. No file is no tasks.
func (d *Dir) Load() (State, error) {
	s, _, err := d.load()
	return s, err
}

func (d *Dir) load() (State, []byte, error) {
	f, err := os.Open(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return State{Version: stateVersion}, nil, nil
	}
	if err != nil {
		return State{}, nil, fmt.Errorf("reading the MIG state: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxStateBytes+1))
	if err == nil && len(content) > maxStateBytes {
		err = fmt.Errorf("it is larger than %d bytes", maxStateBytes)
	}
	var s State
	if err == nil {
		s, err = decode(content)
	}
	if err != nil {
		return State{}, nil, fmt.Errorf("reading the MIG state %s (move it away to start without): %w", f.Name(), err)
	}
	return s, content, nil
}

// Update changes the tasks in one transaction: what other processes do at the
// same time comes before or after it. Nothing is written if nothing changes,
// or if change returns an error.
func (d *Dir) Update(change func(*State) error) (State, error) {
	lock, err := d.lock("mig.json.lock", unix.LOCK_EX)
	if err != nil {
		return State{}, err
	}
	defer lock.Close()
	s, before, err := d.load()
	if err != nil {
		return State{}, err
	}
	if err := change(&s); err != nil {
		return State{}, err
	}
	after, err := s.encode()
	if err != nil {
		return State{}, fmt.Errorf("writing the MIG state: %w", err)
	}
	if bytes.Equal(before, after) {
		return s, nil
	}
	if err := d.replace(after); err != nil {
		return State{}, fmt.Errorf("writing the MIG state: %w", err)
	}
	return s, nil
}

// replace writes the file so that a crash leaves the old content or the new.
func (d *Dir) replace(content []byte) error {
	f, err := os.CreateTemp(d.path, ".mig-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.file())
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	folder, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
