// Package stage puts in place what a task starts from: inputs, code,
// parameters, and the checkpoint to resume from.
//
// Content comes through a cache that the tasks of a node share, is verified on
// its way in and out, and reaches a task as a copy of its own, so that nothing
// a task does to its inputs reaches another.
package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/drover-ml/drover/internal/artifact"
)

// Presence is what OpenStore expects.
type Presence int

const (
	// MayBeNew is for a folder in which no store has been made yet.
	MayBeNew Presence = iota
	// MustExist is for a store that was used before. An empty folder then
	// means that a file system is not mounted, and is a transient error.
	MustExist
)

// ErrNoStore says that the folder of a store is not there.
var ErrNoStore = errors.New("the artifact store's folder does not exist: make it, or correct the store setting")

// OpenStore opens the artefact store at a URL. Other than artifact.Open it
// makes no folder: one that is missing was misspelt, or is not mounted.
func OpenStore(storeURL string, p Presence) (*artifact.Store, error) {
	if u, err := url.Parse(storeURL); err == nil && u.Scheme == "file" && u.Path != "" {
		if _, err := os.Stat(u.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("opening artifact store %q: %w", storeURL, ErrNoStore)
		}
		if _, err := os.Stat(filepath.Join(u.Path, "store.json")); p == MustExist && errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("opening artifact store %q: there is no store in it any more; is its file system mounted?: %w", storeURL, syscall.ESTALE)
		}
	}
	return artifact.Open(storeURL)
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
