// Package stage puts in place what a task starts from: inputs, code,
// parameters, and the checkpoint to resume from.
//
// Content comes through a cache that the tasks of a node share, is verified on
// its way in and out, and reaches a task as a copy of its own, so that nothing
// a task does to its inputs reaches another.
package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/drover-ml/drover/internal/artifact"
)

// ErrNoStore says that the folder of a store is not there.
var ErrNoStore = errors.New("the artifact store's folder does not exist: make it, or correct the store setting")

// OpenStore opens the artefact store at a URL. Other than artifact.Open it
// makes no folder: one that is missing was misspelt. If the store was used
// before, it makes no store in an empty folder either, which is then a file
// system that is not mounted; that error is transient.
func OpenStore(storeURL string, usedBefore bool) (*artifact.Store, error) {
	if err := CheckStore(storeURL, usedBefore); err != nil {
		return nil, err
	}
	return artifact.Open(storeURL)
}

// CheckStore is OpenStore without opening and without changing anything.
func CheckStore(storeURL string, usedBefore bool) error {
	u, err := url.Parse(storeURL)
	if err != nil || u.Scheme != "file" || u.Path == "" {
		return nil // artifact.Open knows what is wrong with it
	}
	if _, err := os.Stat(u.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNoStore
		}
		return fmt.Errorf("opening artifact store %q: %w", storeURL, err)
	}
	if !usedBefore {
		return nil
	}
	if _, err := os.Stat(filepath.Join(u.Path, "store.json")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening artifact store %q: it was there before and is not now; is its file system mounted?: %w", storeURL, syscall.ESTALE)
	}
	return nil
}

// Stores remembers, in a folder, which artefact stores were used before.
type Stores string

// Open opens a store and remembers it.
func (s Stores) Open(storeURL string) (*artifact.Store, error) {
	store, err := OpenStore(storeURL, s.used(storeURL))
	if err != nil {
		return nil, err
	}
	if err := s.remember(storeURL); err != nil {
		store.Close()
		return nil, fmt.Errorf("remembering the artifact store: %w", err)
	}
	return store, nil
}

// Check is Open without changing anything.
func (s Stores) Check(storeURL string) error { return CheckStore(storeURL, s.used(storeURL)) }

func (s Stores) file(storeURL string) string {
	sum := sha256.Sum256([]byte(storeURL))
	return filepath.Join(string(s), hex.EncodeToString(sum[:]))
}

func (s Stores) used(storeURL string) bool {
	_, err := os.Stat(s.file(storeURL))
	return err == nil
}

func (s Stores) remember(storeURL string) error {
	if s.used(storeURL) {
		return nil
	}
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return err
	}
	return os.WriteFile(s.file(storeURL), []byte(storeURL+"\n"), 0o600)
}

// passing are errors of the system that may be gone at the next attempt.
var passing = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.ESTALE, syscall.ETIMEDOUT, syscall.EAGAIN, syscall.EINTR, syscall.EBUSY,
	syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ENOTCONN, syscall.ECONNRESET, syscall.ECONNREFUSED,
	syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EREMOTEIO,
}

// Transient reports whether another attempt may fare better.
func Transient(err error) bool {
	for _, p := range passing {
		if errors.Is(err, p) {
			return true
		}
	}
	return false
}
