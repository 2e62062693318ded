package artifact

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
)

const lockFile = "lock"

// scratch is one process's folder for files on their way into the store. The
// lock on it ends with the process, however that ends; that is how a sweeper
// tells garbage from work in progress.
type scratch struct {
	dir  string
	lock *os.File
	next atomic.Int64
}

func newScratch(parent string) (*scratch, error) {
	// A copy of a store may lack the folders that were empty.
	if err := os.MkdirAll(parent, dirMode); err != nil {
		return nil, err
	}
	for {
		dir := filepath.Join(parent, rand.Text())
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // swept between Mkdir and here
		}
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			lock.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				continue // a sweeper has it, and will remove it
			}
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
		// A sweeper may have taken the lock, removed the folder, and let go
		// between our open and our lock.
		if _, err := os.Stat(lock.Name()); errors.Is(err, fs.ErrNotExist) {
			lock.Close()
			continue
		}
		return &scratch{dir: dir, lock: lock}, nil
	}
}

// create opens a new file, to write and read.
func (c *scratch) create() (*os.File, error) {
	name := filepath.Join(c.dir, strconv.FormatInt(c.next.Add(1), 36))
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

func (c *scratch) close() error {
	return errors.Join(removeScratch(c.dir), c.lock.Close())
}

// removeScratch removes a folder whose lock is held by the caller. The lock
// file goes last: while anything is left, so is the way to claim it.
func removeScratch(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, lockFile)); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweepScratch removes the folders in parent whose process is gone.
func sweepScratch(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			// Its process is about to make the lock, or died before it could,
			// or is just removing the folder. The first makes another one.
			_ = os.Remove(dir) // only if it is empty
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			continue // another user's, who will sweep it
		}
		if err != nil {
			return err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			// Another sweeper may have removed it before we had the lock.
			if _, serr := os.Stat(lock.Name()); serr == nil {
				err = removeScratch(dir)
			}
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// createTemp opens a new temporary file of this store.
func (s *Store) createTemp() (*os.File, error) {
	s.mu.Lock()
	if s.scratch == nil {
		c, err := newScratch(s.path(tmpDir))
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.scratch = c
	}
	c := s.scratch
	s.mu.Unlock()
	return c.create()
}

// writeTemp writes and syncs a temporary file and returns its name.
func (s *Store) writeTemp(data []byte, mode fs.FileMode) (name string, err error) {
	f, err := s.createTemp()
	if err != nil {
		return "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}
