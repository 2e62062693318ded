package artifact

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// PutOption changes what Put, PutAt and DigestOf take in.
type PutOption func(*putOptions)

type putOptions struct {
	skip func(rel string) bool
}

// Skip leaves out every file and folder, given by its slash path inside the
// artifact, for which f is true. The content of a folder left out is not asked
// about.
func Skip(f func(rel string) bool) PutOption {
	return func(o *putOptions) { o.skip = f }
}

// Put stores a file or a folder as an artifact and returns its digest. When
// it returns nil, all of the artifact survives a loss of power. Content that
// the store has is not written again.
//
// Only regular files, folders, and symbolic links that stay inside the folder
// can be put; anything else is an error that names it. A path that is itself
// a link is refused, because whoever can write beside it could make it lead
// anywhere. A file that changes meanwhile is stored as it was read.
func (s *Store) Put(ctx context.Context, name string, opts ...PutOption) (Digest, Manifest, error) {
	return withParent(name, func(root *os.Root, base string) (Digest, Manifest, error) {
		return s.PutAt(ctx, root, base, opts...)
	})
}

// PutAt is Put of a name inside root, for folders that others can write: no
// link in the way of the name leads out of root.
func (s *Store) PutAt(ctx context.Context, root *os.Root, name string, opts ...PutOption) (Digest, Manifest, error) {
	d, m, err := s.putAt(ctx, root, name, opts)
	if err != nil {
		return "", Manifest{}, fmt.Errorf("storing artifact %q: %w", filepath.Join(root.Name(), name), err)
	}
	return d, m, nil
}

func (s *Store) putAt(ctx context.Context, root *os.Root, name string, opts []PutOption) (Digest, Manifest, error) {
	t, err := scan(root, name, opts)
	if err != nil {
		return "", Manifest{}, err
	}
	defer t.close()

	// One sync of the file system costs less than one for each of many files.
	const manyFiles = 16
	mode := syncEach
	if len(t.manifest.Files) > manyFiles {
		mode = syncLater
	}
	fsys, err := os.Open(s.dir) // before the writes, to see their errors
	if err != nil {
		return "", Manifest{}, err
	}
	defer fsys.Close()

	blobs := make([]staged, len(t.manifest.Files))
	defer func() {
		for _, b := range blobs {
			if b.temp != "" {
				os.Remove(b.temp) // is gone unless something failed
			}
		}
	}()
	err = t.eachFile(ctx, func(ctx context.Context, i int, f *os.File) error {
		b, err := s.stage(ctx, f, mode)
		if err != nil {
			return err
		}
		blobs[i] = b
		t.manifest.Files[i].Size, t.manifest.Files[i].SHA256 = b.size, b.digest.Hex()
		return nil
	})
	if err != nil {
		return "", Manifest{}, err
	}
	if mode == syncLater {
		if err := syncFilesystem(fsys); err != nil {
			return "", Manifest{}, err
		}
	}
	if err := s.publishAll(blobs); err != nil {
		return "", Manifest{}, err
	}
	return s.putManifest(ctx, t.manifest)
}

func (s *Store) publishAll(blobs []staged) error {
	for _, b := range blobs {
		if b.digest == "" {
			continue // a link
		}
		if err := s.publish(b); err != nil {
			return err
		}
	}
	return s.syncNames(blobs...)
}

func (s *Store) putManifest(ctx context.Context, m Manifest) (Digest, Manifest, error) {
	enc, err := m.Encode()
	if err != nil {
		return "", Manifest{}, err
	}
	if len(enc) > MaxManifestBytes {
		return "", Manifest{}, fmt.Errorf("manifest of %d bytes exceeds the limit of %d: split the folder", len(enc), MaxManifestBytes)
	}
	d, _, err := s.PutBlob(ctx, bytes.NewReader(enc))
	if err != nil {
		return "", Manifest{}, err
	}
	return d, m, nil
}

// DigestOf is the digest that Put would return, without storing anything.
func DigestOf(ctx context.Context, name string, opts ...PutOption) (Digest, Manifest, error) {
	return withParent(name, func(root *os.Root, base string) (Digest, Manifest, error) {
		d, m, err := digestAt(ctx, root, base, opts)
		if err != nil {
			return "", Manifest{}, fmt.Errorf("hashing artifact %q: %w", name, err)
		}
		return d, m, nil
	})
}

func digestAt(ctx context.Context, root *os.Root, name string, opts []PutOption) (Digest, Manifest, error) {
	t, err := scan(root, name, opts)
	if err != nil {
		return "", Manifest{}, err
	}
	defer t.close()
	err = t.eachFile(ctx, func(ctx context.Context, i int, f *os.File) error {
		d, size, err := copyHashed(ctx, nil, f)
		t.manifest.Files[i].Size, t.manifest.Files[i].SHA256 = size, d.Hex()
		return err
	})
	if err != nil {
		return "", Manifest{}, err
	}
	d, err := t.manifest.Digest()
	return d, t.manifest, err
}

func withParent(name string, f func(*os.Root, string) (Digest, Manifest, error)) (Digest, Manifest, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", Manifest{}, err
	}
	root, err := os.OpenRoot(filepath.Dir(abs))
	if err != nil {
		return "", Manifest{}, fmt.Errorf("reading %q: %w", name, err)
	}
	defer root.Close()
	return f(root, filepath.Base(abs))
}

// tree is a file or folder about to be read.
type tree struct {
	root     *os.Root // the folder, or the one that the file is in
	name     string   // of the file in root; "" for a folder
	info     fs.FileInfo
	manifest Manifest // without sizes and sums
}

func (t *tree) close() {
	if t.name == "" {
		t.root.Close()
	}
}

var errReplaced = errors.New("it was replaced while it was read")

// scan lists what is to be read and refuses what cannot be.
func scan(parent *os.Root, name string, opts []PutOption) (*tree, error) {
	var o putOptions
	for _, opt := range opts {
		opt(&o)
	}
	fi, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	m := Manifest{Version: manifestVersion}
	switch {
	case fi.Mode().IsRegular():
		m.Kind, m.Files = KindFile, []Entry{{Path: ".", Mode: modeOf(fi)}}
		return &tree{root: parent, name: name, info: fi, manifest: m}, nil
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("it is a symbolic link: name what it leads to")
	case !fi.IsDir():
		return nil, fmt.Errorf("it is neither a file nor a folder but %s", fi.Mode().Type())
	}
	m.Kind = KindDir
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root, info: fi, manifest: m}
	// The name may have become a link since it was looked at.
	now, err := root.Stat(".")
	if err == nil && !os.SameFile(fi, now) {
		err = errReplaced
	}
	if err == nil {
		err = t.scanDir(".", o)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	slices.SortFunc(t.manifest.Files, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	slices.Sort(t.manifest.Dirs)
	return t, nil
}

func (t *tree) scanDir(dir string, o putOptions) error {
	f, err := t.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	empty := true
	for _, e := range entries {
		rel := path.Join(dir, e.Name())
		if o.skip != nil && o.skip(rel) {
			continue
		}
		empty = false
		if err := t.scanEntry(rel, e, o); err != nil {
			return err
		}
	}
	if empty && dir != "." {
		t.manifest.Dirs = append(t.manifest.Dirs, dir)
	}
	return nil
}

func (t *tree) scanEntry(rel string, e fs.DirEntry, o putOptions) error {
	if !utf8.ValidString(rel) {
		return fmt.Errorf("the name %q is not valid UTF-8 text: rename it", rel)
	}
	switch {
	case e.IsDir():
		return t.scanDir(rel, o)
	case e.Type().IsRegular():
		fi, err := e.Info()
		if err != nil {
			return err
		}
		t.manifest.Files = append(t.manifest.Files, Entry{Path: rel, Mode: modeOf(fi)})
		return nil
	case e.Type()&fs.ModeSymlink != 0:
		target, err := t.root.Readlink(rel)
		if err != nil {
			return err
		}
		entry := Entry{Path: rel, Link: target}
		t.manifest.Files = append(t.manifest.Files, entry)
		return entry.validateLink()
	}
	return fmt.Errorf("%q is neither a file, a folder nor a link but %s", rel, e.Type())
}

func modeOf(fi fs.FileInfo) Mode {
	if fi.Mode()&0o100 != 0 {
		return ModeExec
	}
	return ModeFile
}

// eachFile opens every file of the tree, several at once, and calls f with
// its index in the manifest.
func (t *tree) eachFile(ctx context.Context, f func(ctx context.Context, i int, file *os.File) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFiles)
	for i, e := range t.manifest.Files {
		if e.Link != "" {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			name := e.Path
			if t.name != "" {
				name = t.name
			}
			if err := t.withFile(name, func(file *os.File) error { return f(gctx, i, file) }); err != nil {
				return fmt.Errorf("reading %q: %w", e.Path, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (t *tree) withFile(name string, f func(*os.File) error) error {
	// Should the name have become a FIFO, the open must not wait for a writer.
	file, err := t.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || t.name != "" && !os.SameFile(fi, t.info) {
		return errReplaced
	}
	return f(file)
}

// parallelFiles is how many files are read or written at once.
var parallelFiles = max(4, min(runtime.GOMAXPROCS(0), 16))
