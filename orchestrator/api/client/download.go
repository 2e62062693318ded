package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/drover-ml/drover/internal/artifact"
)

// maxManifest limits a manifest that is downloaded, in bytes.
const maxManifest = 64 << 20

// Manifest downloads an artefact's manifest and checks it.
func (c *Client) Manifest(ctx context.Context, digest string) (artifact.Manifest, error) {
	var b bytes.Buffer
	if err := c.copyBlob(ctx, digest, &limitedWriter{w: &b, left: maxManifest}); err != nil {
		return artifact.Manifest{}, err
	}
	m, err := artifact.ParseManifest(b.Bytes())
	if err != nil {
		return artifact.Manifest{}, fmt.Errorf("%s is no artefact: %w", digest, err)
	}
	return m, nil
}

// Download brings an artefact to dest, which must not exist yet. Every file is
// verified, and dest appears only when all of it is there.
func (c *Client) Download(ctx context.Context, digest, dest string) (m artifact.Manifest, err error) {
	if _, err := os.Lstat(dest); !errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("%s exists already", dest)
	}
	if m, err = c.Manifest(ctx, digest); err != nil {
		return m, err
	}
	partial := filepath.Join(filepath.Dir(dest), "."+filepath.Base(dest)+".partial-"+rand.Text()[:8])
	if err := os.Mkdir(partial, 0o755); err != nil {
		return m, fmt.Errorf("downloading: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	root, err := os.OpenRoot(partial) // nothing of the artefact leads out of it
	if err != nil {
		return m, fmt.Errorf("downloading: %w", err)
	}
	defer root.Close()
	if m.Kind == artifact.KindFile {
		const name = "file"
		file := m.Files[0]
		file.Path = name
		if err := c.downloadFile(ctx, root, file); err != nil {
			return m, err
		}
		return m, os.Rename(filepath.Join(partial, name), dest)
	}
	if err := c.downloadTree(ctx, root, m); err != nil {
		return m, err
	}
	return m, os.Rename(partial, dest)
}

func (c *Client) downloadTree(ctx context.Context, root *os.Root, m artifact.Manifest) error {
	for _, d := range m.Dirs {
		if err := root.MkdirAll(filepath.FromSlash(d), 0o755); err != nil {
			return fmt.Errorf("making folder %s: %w", d, err)
		}
	}
	for _, f := range m.Files {
		if dir := path.Dir(f.Path); dir != "." {
			if err := root.MkdirAll(filepath.FromSlash(dir), 0o755); err != nil {
				return fmt.Errorf("making folder %s: %w", dir, err)
			}
		}
		if f.Link != "" {
			if err := root.Symlink(filepath.FromSlash(f.Link), filepath.FromSlash(f.Path)); err != nil {
				return fmt.Errorf("making link %s: %w", f.Path, err)
			}
			continue
		}
		if err := c.downloadFile(ctx, root, f); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) downloadFile(ctx context.Context, root *os.Root, e artifact.Entry) error {
	mode := os.FileMode(0o644)
	if e.Mode == artifact.ModeExec {
		mode = 0o755
	}
	f, err := root.OpenFile(filepath.FromSlash(e.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("downloading: %w", err)
	}
	err = c.copyBlob(ctx, string(e.Digest()), f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("downloading %s: %w", e.Path, err)
	}
	return nil
}

// copyBlob downloads a blob to w and verifies it.
func (c *Client) copyBlob(ctx context.Context, digest string, w io.Writer) error {
	body, err := c.Blob(ctx, digest)
	if err != nil {
		return err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), body); err != nil {
		return fmt.Errorf("downloading %s: %w", digest, err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("downloading %s: what came has the digest %s", digest, got)
	}
	return nil
}

// limitedWriter refuses to write more than it may.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errors.New("more than an artefact's manifest may have")
	}
	l.left -= len(p)
	return l.w.Write(p)
}
