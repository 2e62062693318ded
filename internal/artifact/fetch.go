package artifact

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// FetchOption changes how Fetch writes.
type FetchOption func(*fetchOptions)

type fetchOptions struct {
	durable  bool
	readOnly bool
}

// Durable makes what was fetched survive a loss of power, for a copy that is
// to be trusted later without being verified again, such as a cache.
func Durable() FetchOption { return func(o *fetchOptions) { o.durable = true } }

// ReadOnly takes the write permission from files, not from folders, so that
// whoever owns the copy can still delete it.
func ReadOnly() FetchOption { return func(o *fetchOptions) { o.readOnly = true } }

// Manifest reads an artifact's description. It returns ErrNotFound if the
// store does not have it.
func (s *Store) Manifest(ctx context.Context, d Digest) (Manifest, error) {
	m, err := s.manifest(ctx, d)
	if err != nil {
		return Manifest{}, fmt.Errorf("reading artifact %s: %w", clip(string(d)), err)
	}
	return m, nil
}

func (s *Store) manifest(ctx context.Context, d Digest) (Manifest, error) {
	r, err := s.OpenBlob(ctx, d)
	if err != nil {
		return Manifest{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, MaxManifestBytes+1))
	if err != nil {
		return Manifest{}, err
	}
	return ParseManifest(b)
}

// Has tells if the artifact's manifest and every blob that it names are
// there, with their right sizes. It does not read the blobs: see Verify.
func (s *Store) Has(ctx context.Context, d Digest) (bool, error) {
	m, err := s.manifest(ctx, d)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking up artifact %s: %w", clip(string(d)), err)
	}
	for _, e := range m.Files {
		if e.Link == "" && !s.hasSize(e.Digest(), e.Size) {
			return false, nil
		}
	}
	return true, ctx.Err()
}

func isMissing(err error) bool {
	var corrupt *CorruptError
	return errors.Is(err, ErrNotFound) || errors.As(err, &corrupt)
}

// Verify reads the whole artifact and returns an error that names every file
// that is missing (ErrNotFound) or not what it was (*CorruptError).
func (s *Store) Verify(ctx context.Context, d Digest) error {
	m, err := s.manifest(ctx, d)
	if err != nil {
		return fmt.Errorf("verifying artifact %s: %w", clip(string(d)), err)
	}
	var mu sync.Mutex
	var damage []error
	err = forEachFile(ctx, m, func(ctx context.Context, e Entry) error {
		err := s.copyFile(ctx, e, nil)
		if isMissing(err) {
			mu.Lock()
			defer mu.Unlock()
			damage = append(damage, err)
			return nil
		}
		return err
	})
	if err = errors.Join(append(damage, err)...); err != nil {
		return fmt.Errorf("verifying artifact %s: %w", d, err)
	}
	return nil
}

// Fetch writes an artifact to dest, which must not exist (fs.ErrExist); the
// folder that dest is in must. Content is verified on the way. dest appears
// whole or not at all; a process that dies leaves a folder or file named
// ".<base of dest>.fetch-<random>" beside it.
//
// Nothing done to the files reaches the store: they are copies, or on file
// systems that can do so (XFS, Btrfs) share blocks with it until one changes.
func (s *Store) Fetch(ctx context.Context, d Digest, dest string, opts ...FetchOption) error {
	abs, err := filepath.Abs(dest)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(abs))
	if err != nil {
		return fmt.Errorf("fetching artifact %s to %s: %w", clip(string(d)), dest, err)
	}
	defer root.Close()
	return s.FetchAt(ctx, d, root, filepath.Base(abs), opts...)
}

// FetchAt is Fetch to a name inside root, for folders that others can write:
// no link in the way of the name leads out of root.
func (s *Store) FetchAt(ctx context.Context, d Digest, root *os.Root, name string, opts ...FetchOption) error {
	var o fetchOptions
	for _, opt := range opts {
		opt(&o)
	}
	err := s.fetchAt(ctx, d, root, filepath.Clean(name), o)
	if err != nil {
		return fmt.Errorf("fetching artifact %s to %s: %w", clip(string(d)), filepath.Join(root.Name(), name), err)
	}
	return nil
}

func (s *Store) fetchAt(ctx context.Context, d Digest, root *os.Root, name string, o fetchOptions) error {
	// From here on the folder is held, whatever becomes of its name.
	folder, err := root.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	base := filepath.Base(name)
	if _, err := folder.Lstat(base); err == nil {
		return &fs.PathError{Op: "fetch", Path: base, Err: fs.ErrExist}
	}
	m, err := s.manifest(ctx, d)
	if err != nil {
		return err
	}
	here, err := folder.Open(".") // before the writes, to see their errors when it is synced
	if err != nil {
		return err
	}
	defer here.Close()
	temp := "." + base + ".fetch-" + rand.Text()
	err = s.writeArtifact(ctx, m, folder, temp, o)
	if err == nil && o.durable {
		err = syncFilesystem(here)
	}
	if err == nil {
		err = renameNew(folder, here, temp, base)
	}
	if err != nil {
		return errors.Join(err, folder.RemoveAll(temp))
	}
	if o.durable {
		return here.Sync()
	}
	return nil
}

func (s *Store) writeArtifact(ctx context.Context, m Manifest, folder *os.Root, temp string, o fetchOptions) error {
	if m.Kind == KindFile {
		return s.writeFile(ctx, m.Files[0], folder, temp, o)
	}
	if err := folder.Mkdir(temp, 0o755); err != nil {
		return err
	}
	tree, err := folder.OpenRoot(temp)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := makeDirs(m, tree); err != nil {
		return err
	}
	err = forEachFile(ctx, m, func(ctx context.Context, e Entry) error {
		return s.writeFile(ctx, e, tree, e.Path, o)
	})
	if err != nil {
		return err
	}
	for _, e := range m.Files {
		if e.Link == "" {
			continue
		}
		if err := tree.Symlink(e.Link, e.Path); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs makes every folder of the artifact, parents first.
func makeDirs(m Manifest, tree *os.Root) error {
	need := map[string]bool{}
	add := func(dir string) {
		for ; dir != "." && !need[dir]; dir = path.Dir(dir) {
			need[dir] = true
		}
	}
	for _, e := range m.Files {
		add(path.Dir(e.Path))
	}
	for _, d := range m.Dirs {
		add(d)
	}
	for _, d := range slices.Sorted(maps.Keys(need)) {
		if err := tree.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) writeFile(ctx context.Context, e Entry, tree *os.Root, name string, o fetchOptions) (err error) {
	f, err := tree.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := s.copyFile(ctx, e, f); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if e.Mode == ModeExec {
		mode = 0o755
	}
	if o.readOnly {
		mode &^= 0o222
	}
	return f.Chmod(mode)
}

// copyFile copies a file of an artifact to w, or only reads it if w is nil,
// and verifies it.
func (s *Store) copyFile(ctx context.Context, e Entry, w *os.File) error {
	d := e.Digest()
	f, err := s.openBlob(d)
	if err != nil {
		return fmt.Errorf("file %q: %w", e.Path, err)
	}
	defer f.Close()
	got, size, err := transfer(ctx, w, f, e.Size)
	switch {
	case err != nil:
		return fmt.Errorf("file %q: %w", e.Path, err)
	case got != d:
		return s.setAside(&CorruptError{Digest: d, Path: e.Path, Want: string(d), Got: string(got)})
	case size != e.Size:
		// The blob is right and the manifest wrong about it.
		return fmt.Errorf("file %q: the manifest says %d bytes, its blob has %d", e.Path, e.Size, size)
	}
	return nil
}

func forEachFile(ctx context.Context, m Manifest, f func(context.Context, Entry) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFiles)
	for _, e := range m.Files {
		if e.Link != "" {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return f(gctx, e) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
