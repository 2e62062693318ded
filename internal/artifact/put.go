package artifact

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// PutOption changes what Put, PutAt and DigestOf take in.
type PutOption func(*putOptions)

type putOptions struct {
	skip func(rel string) bool
	sync bool
}

// Skip leaves out every file and folder, given by its slash path inside the
// artifact, for which f is true. The content of a folder left out is not asked
// about.
func Skip(f func(rel string) bool) PutOption {
	return func(o *putOptions) { o.skip = f }
}

// SyncSource makes the files and folders that are read durable where they are,
// too. Their data goes to disk while it is hashed.
func SyncSource() PutOption { return func(o *putOptions) { o.sync = true } }

// manyFiles is from where on one sync of the file system costs less than one
// for each file.
const manyFiles = 16

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
		b, err := s.stageFile(ctx, f, mode)
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
		return DigestAt(ctx, root, base, opts...)
	})
}

// DigestAt is to DigestOf what PutAt is to Put.
func DigestAt(ctx context.Context, root *os.Root, name string, opts ...PutOption) (Digest, Manifest, error) {
	d, m, err := digestAt(ctx, root, name, opts)
	if err != nil {
		return "", Manifest{}, fmt.Errorf("hashing artifact %q: %w", filepath.Join(root.Name(), name), err)
	}
	return d, m, nil
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
