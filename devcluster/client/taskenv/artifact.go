package taskenv

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// maxArtifact bounds what one artifact may bring.
const maxArtifact = 100 << 30

// Fetch brings a task's artifacts, from http, https or a file on this
// machine. Archives (.tar, .tar.gz, .tgz) are unpacked unless the mode is
// "file".
func Fetch(ctx context.Context, artifacts []*api.TaskArtifact, env *Env, dirs Dirs, task string) error {
	for _, a := range artifacts {
		source := env.Replace(str(a.GetterSource))
		if err := fetchOne(ctx, a, source, env, dirs, task); err != nil {
			return fmt.Errorf("fetching artifact %s: %w", withoutQuery(source), err)
		}
	}
	return nil
}

// withoutQuery leaves out what may be secret.
func withoutQuery(source string) string { s, _, _ := strings.Cut(source, "?"); return s }

func fetchOne(ctx context.Context, a *api.TaskArtifact, source string, env *Env, dirs Dirs, task string) error {
	dest := env.Replace(str(a.RelativeDest))
	if dest == "" {
		dest = "local/"
	}
	target, err := Inside(dirs, task, dest)
	if err != nil {
		return err
	}
	mode := str(a.GetterMode)
	if mode != "" && mode != "any" && mode != "file" && mode != "dir" {
		return fmt.Errorf("mode %q is not known", mode)
	}
	in, name, err := open(ctx, source, a, env)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp, err := os.CreateTemp(dirs.Task(task), ".artifact-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := copyChecked(tmp, in, env.Replace(a.GetterOptions["checksum"])); err != nil {
		return err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if mode != "file" {
		if unpack := unpacker(name, a.GetterOptions["archive"]); unpack != nil {
			return unpack(tmp, target)
		}
		if mode == "dir" {
			return fmt.Errorf("mode is dir, but %q is no archive (.tar, .tar.gz, .tgz)", name)
		}
		target = filepath.Join(target, name)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), target)
}

func open(ctx context.Context, source string, a *api.TaskArtifact, env *Env) (io.ReadCloser, string, error) {
	u, err := url.Parse(source)
	if err != nil {
		return nil, "", errors.New("the source is not a URL")
	}
	name := path.Base(u.Path)
	switch u.Scheme {
	case "file", "":
		fi, err := os.Stat(u.Path)
		if err == nil && !fi.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", u.Path)
		}
		if err != nil {
			return nil, "", err
		}
		f, err := os.Open(u.Path)
		return f, name, err
	case "http", "https":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
		if err != nil {
			return nil, "", errors.New("the source is not a URL")
		}
		for k, v := range a.GetterHeaders {
			req.Header.Set(k, env.Replace(v))
		}
		client := http.Client{Transport: &http.Transport{ResponseHeaderTimeout: time.Minute, Proxy: http.ProxyFromEnvironment}}
		resp, err := client.Do(req)
		if err != nil {
			return nil, "", err
		}
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return nil, "", fmt.Errorf("the server answered %s", resp.Status)
		}
		return resp.Body, name, nil
	}
	return nil, "", fmt.Errorf("sources of type %q are not supported by this development cluster: use http, https or file", u.Scheme)
}

// copyChecked copies and verifies "sha256:<hex>", or just "<hex>", if given.
func copyChecked(dst io.Writer, src io.Reader, checksum string) error {
	var h hash.Hash
	want := checksum
	if kind, hexSum, ok := strings.Cut(checksum, ":"); ok {
		want = hexSum
		switch kind {
		case "md5":
			h = md5.New()
		case "sha1":
			h = sha1.New()
		case "sha256":
			h = sha256.New()
		case "sha512":
			h = sha512.New()
		default:
			return fmt.Errorf("checksum type %q is not known", kind)
		}
	} else if checksum != "" {
		h = sha256.New()
	}
	if h != nil {
		dst = io.MultiWriter(dst, h)
	}
	n, err := io.Copy(dst, io.LimitReader(src, maxArtifact+1))
	if err != nil {
		return err
	}
	if n > maxArtifact {
		return fmt.Errorf("it is larger than %d bytes", int64(maxArtifact))
	}
	if h != nil {
		if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, want) {
			return fmt.Errorf("its checksum is %s, not %s", got, want)
		}
	}
	return nil
}

func unpacker(name, archive string) func(io.Reader, string) error {
	if archive == "false" {
		return nil
	}
	is := func(suffixes ...string) bool {
		for _, s := range suffixes {
			if archive == s[1:] || archive == "" && strings.HasSuffix(name, s) {
				return true
			}
		}
		return false
	}
	switch {
	case is(".tar.gz", ".tgz"):
		return func(r io.Reader, dir string) error {
			gz, err := gzip.NewReader(r)
			if err != nil {
				return err
			}
			return untar(gz, dir)
		}
	case is(".tar"):
		return untar
	}
	return nil
}

// untar unpacks files and folders; links and what leaves dir are refused.
func untar(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var total int64
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking: %w", err)
		}
		name := filepath.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("unpacking: entry %q leaves the folder", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			if total += h.Size; total > maxArtifact {
				return fmt.Errorf("unpacking: it is larger than %d bytes", int64(maxArtifact))
			}
			err = untarFile(root, name, tr, h.FileInfo().Mode())
		case tar.TypeXGlobalHeader:
		default:
			err = errors.New("only files and folders are supported")
		}
		if err != nil {
			return fmt.Errorf("unpacking entry %q: %w", h.Name, err)
		}
	}
}

func untarFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644|mode&0o111)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
