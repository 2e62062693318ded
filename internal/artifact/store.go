// Package artifact is a content-addressed store for what runs read and leave:
// data sets, code, outputs, checkpoints, and small JSON records beside them.
//
// A blob is bytes under the SHA-256 of those bytes. An artifact is a file or a
// folder, described by a Manifest that is itself a blob; the artifact's digest
// is the digest of its manifest. So equal content has one name, wherever it
// was made, and is kept once.
//
// What the store promises:
//
//   - What a Put returned nil for survives kill -9 and a loss of power, whole.
//     Files are synced, then renamed into place, then their folder is synced,
//     and an artifact's manifest comes after everything that it names.
//   - Nothing that is half written is ever visible. A process that dies leaves
//     garbage in tmp/ only, which Open sweeps.
//   - What is read is verified. Content that no longer has its digest is
//     moved to corrupt/ and reported as a *CorruptError: it counts as missing
//     from then on, so that a cache recomputes it rather than fails for ever.
//   - Any number of goroutines and processes may use one store at once.
//   - No digest, key, path or link, wherever it comes from, leads out of the
//     store's folder or of the folder in which an artifact is fetched.
//
// Nothing is deleted but on request: a collector uses ListBlobs, which gives
// the time at which a blob was last put, and DeleteBlob.
package artifact

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrNotFound says that a blob, artifact or record is not in the store.
var ErrNotFound = errors.New("not in the artifact store")

// ErrExists says that there is a record under a key that CreateRecord was given.
var ErrExists = errors.New("there is a record under that key already")

// CorruptError says that content is not what its digest says.
type CorruptError struct {
	Digest Digest // of the blob; for a file of an artifact, see Path too
	Path   string // the file inside the artifact, or ""
	Want   string // digests
	Got    string
}

func (e *CorruptError) Error() string {
	where := "blob " + string(e.Digest)
	if e.Path != "" {
		where = fmt.Sprintf("file %q (%s)", e.Path, where)
	}
	return fmt.Sprintf("%s is corrupt: want %s, got %s; it was set aside, put it again", where, e.Want, e.Got)
}

// Store is an artifact store in a folder:
//
//	store.json               {"version":1}
//	blobs/sha256/ab/<64 hex> content
//	records/<key>.json       JSON documents
//	tmp/<random>/            files being written by one live process
//	corrupt/<64 hex>         blobs that failed verification
//
// The folder is made with mode 0700 if it is missing. What is inside can be
// read by all who may enter, so its mode alone says who may.
type Store struct {
	dir string
	url string

	mu      sync.Mutex
	scratch *scratch // made at the first write
}

const (
	markerFile = "store.json"
	markerText = `{"version":1}` + "\n"
	blobsDir   = "blobs/sha256"
	recordsDir = "records"
	tmpDir     = "tmp"
	corruptDir = "corrupt"

	// dirMode is of the folders inside the store, less the umask: with a umask
	// of 0002, users of one group can share a store.
	dirMode fs.FileMode = 0o777
)

// Open opens the store at a URL, file:///absolute/path, and makes one there if
// the folder is empty or missing. It refuses a folder that holds other things.
// Temporary files of processes that died are removed.
func Open(storeURL string) (*Store, error) {
	dir, err := folderOf(storeURL)
	if err != nil {
		return nil, fmt.Errorf("opening artifact store %q: %w", storeURL, err)
	}
	s := &Store{dir: dir, url: (&url.URL{Scheme: "file", Path: dir}).String()}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("opening artifact store %q: %w", storeURL, err)
	}
	if err := sweepScratch(s.path(tmpDir)); err != nil {
		return nil, fmt.Errorf("sweeping artifact store %q: %w", storeURL, err)
	}
	return s, nil
}

func folderOf(storeURL string) (string, error) {
	u, err := url.Parse(storeURL)
	switch {
	case err != nil:
		return "", errors.New("not a URL; want file:///absolute/path")
	case u.Scheme == "":
		return "", errors.New("the URL has no scheme; want file:///absolute/path")
	case u.Scheme != "file":
		return "", fmt.Errorf("scheme %q is not supported in this version; use file:///absolute/path", u.Scheme)
	case u.Host != "" && u.Host != "localhost":
		return "", fmt.Errorf("host %q in a file URL; want three slashes, file:///absolute/path", u.Host)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Opaque != "":
		return "", errors.New("only a path may follow file://")
	case !filepath.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0):
		return "", errors.New("the path must be absolute")
	case filepath.Clean(u.Path) == "/":
		return "", errors.New("the path must not be the root folder")
	}
	return filepath.Clean(u.Path), nil
}

// URL is the address under which the store can be opened again.
func (s *Store) URL() string { return s.url }

// Close removes this Store's temporary files. No method may be running or be
// called later.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scratch == nil {
		return nil
	}
	err := s.scratch.close()
	s.scratch = nil
	return err
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// prepare makes the layout. The marker comes last, so that a store that has
// it is complete; several processes may do this at once.
func (s *Store) prepare() error {
	marker, err := readLimited(s.path(markerFile), 4096)
	if err == nil {
		if string(marker) != markerText {
			return fmt.Errorf("%s says %q; this program knows %q", markerFile, clip(string(marker)), strings.TrimSpace(markerText))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := s.refuseForeign(); err != nil {
		return err
	}
	for _, d := range []string{blobsDir, recordsDir, tmpDir, corruptDir} {
		if err := os.MkdirAll(s.path(d), dirMode); err != nil {
			return err
		}
	}
	for _, d := range []string{blobsDir, filepath.Dir(blobsDir), "."} {
		if err := syncDir(s.path(d)); err != nil {
			return err
		}
	}
	tmp, err := s.writeTemp([]byte(markerText), 0o644)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(markerFile)); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.dir))
}

// refuseForeign protects a folder that was named by mistake.
func (s *Store) refuseForeign() error {
	ours := []string{markerFile, "blobs", recordsDir, tmpDir, corruptDir, "lost+found"}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(ours, e.Name()) {
			return fmt.Errorf("the folder holds %q and is not an artifact store; name an empty or new folder", e.Name())
		}
	}
	return nil
}

func readLimited(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s exceeds the limit of %d bytes", file, limit)
	}
	return b, err
}
