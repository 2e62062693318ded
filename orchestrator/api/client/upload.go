package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/artifact"
)

// Source is a file or folder of this machine, described for the store.
type Source struct {
	Path     string // on this machine
	Digest   string // the artefact's
	Manifest artifact.Manifest
}

// ScanSource reads a file or folder and describes it. Folders are taken
// without what Ignored says.
func ScanSource(ctx context.Context, name string) (Source, error) {
	d, m, err := artifact.DigestOf(ctx, name, artifact.Skip(Ignored))
	if err != nil {
		return Source{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return Source{Path: name, Digest: string(d), Manifest: m}, nil
}

// Ignored reports whether a file or folder, named relative to the uploaded
// folder, is left out of it: version control, what Python leaves behind, and
// Drover's own state say nothing about the code and change all the time.
func Ignored(rel string) bool {
	name := path.Base(filepath.ToSlash(rel))
	return slices.Contains([]string{".git", ".hg", ".svn", ".drover", ".venv", "__pycache__", ".ipynb_checkpoints", ".DS_Store"}, name) ||
		strings.HasSuffix(name, ".pyc")
}

// UploadProgress is how far an upload is.
type UploadProgress struct {
	Path        string
	Files       int   // to send; the store has the others
	Bytes, Sent int64 // of these files
}

// ChangedError says that a file changed while it was being uploaded.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s changed while it was being uploaded", e.Path)
}

// uploadAtOnce is how many files are sent at a time: the server syncs each one
// to its disk, and several together cost little more than one.
const uploadAtOnce = 8

// Upload brings a source into the server's store and returns it as it is
// stored there. It sends only blobs that the store lacks. If a file turns out
// to have changed since it was scanned, everything is scanned and sent once
// more; if that happens again it is a *ChangedError. progress, which may be
// nil, is called from other goroutines, one at a time.
func (c *Client) Upload(ctx context.Context, s Source, progress func(UploadProgress)) (Source, error) {
	if progress == nil {
		progress = func(UploadProgress) {}
	}
	err := c.upload(ctx, s, progress)
	var changed *ChangedError
	if !errors.As(err, &changed) {
		return s, err
	}
	if s, err = ScanSource(ctx, s.Path); err != nil {
		return s, err
	}
	return s, c.upload(ctx, s, progress)
}

func (c *Client) upload(ctx context.Context, s Source, progress func(UploadProgress)) error {
	missing, err := c.missingFiles(ctx, s.Manifest)
	if err != nil {
		return fmt.Errorf("asking which files of %s the store lacks: %w", s.Path, err)
	}
	p := UploadProgress{Path: s.Path, Files: len(missing)}
	for _, f := range missing {
		p.Bytes += f.Size
	}
	progress(p)
	var mu sync.Mutex // guards p
	sent := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		p.Sent += int64(n)
		progress(p)
	}
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(uploadAtOnce)
	for _, f := range missing {
		group.Go(func() error {
			return c.uploadFile(sending, filepath.Join(s.Path, filepath.FromSlash(f.Path)), f, sent)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	manifest, err := s.Manifest.Encode()
	if err != nil {
		return fmt.Errorf("describing %s: %w", s.Path, err)
	}
	stored, err := c.PutArtifact(ctx, manifest)
	if err != nil {
		return fmt.Errorf("uploading %s: %w", s.Path, err)
	}
	if stored.Digest != s.Digest {
		return fmt.Errorf("uploading %s: the server stored it as %s, not %s", s.Path, stored.Digest, s.Digest)
	}
	return nil
}

// missingFiles are a manifest's files whose blobs the store lacks, each blob
// once.
func (c *Client) missingFiles(ctx context.Context, m artifact.Manifest) ([]artifact.Entry, error) {
	files := map[string]artifact.Entry{}
	var digests []string
	for _, f := range m.Files {
		if f.Link != "" {
			continue
		}
		d := string(f.Digest())
		if _, ok := files[d]; !ok {
			files[d] = f
			digests = append(digests, d)
		}
	}
	missing, err := c.MissingBlobs(ctx, digests)
	if err != nil {
		return nil, err
	}
	out := make([]artifact.Entry, 0, len(missing))
	for _, d := range missing {
		if f, ok := files[d]; ok {
			out = append(out, f)
		}
	}
	return out, nil
}

func (c *Client) uploadFile(ctx context.Context, name string, want artifact.Entry, sent func(n int)) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &ChangedError{Path: name}
	}
	if err != nil {
		return fmt.Errorf("uploading: %w", err)
	}
	defer f.Close()
	body := &sentReader{r: io.LimitReader(f, want.Size), hash: sha256.New(), sent: sent}
	err = c.PutBlob(ctx, string(want.Digest()), body, want.Size)
	if err == nil {
		return nil
	}
	if sum, ended := body.sum(); ended && sum != want.SHA256 {
		return &ChangedError{Path: name}
	}
	return fmt.Errorf("uploading %s: %w", name, err)
}

// sentReader hashes what is sent and tells how much it is. The transport may
// still read when the request has failed, hence the lock.
type sentReader struct {
	r    io.Reader
	sent func(n int)

	mu    sync.Mutex
	hash  hash.Hash
	ended bool
}

func (s *sentReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.mu.Lock()
	s.hash.Write(p[:n])
	s.ended = s.ended || err == io.EOF
	s.mu.Unlock()
	if n > 0 {
		s.sent(n)
	}
	return n, err
}

// sum is the digest of what was read, and whether that was everything.
func (s *sentReader) sum() (hexadecimal string, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return hex.EncodeToString(s.hash.Sum(nil)), s.ended
}
