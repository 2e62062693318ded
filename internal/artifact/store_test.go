package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
)

func openStore(t testing.TB) (*artifact.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := artifact.Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

func digestOf(b []byte) artifact.Digest {
	sum := sha256.Sum256(b)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

func blobPath(dir string, d artifact.Digest) string {
	return filepath.Join(dir, "blobs/sha256", d.Hex()[:2], d.Hex())
}

func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPutAndFetchAFolder(t *testing.T) {
	ctx := context.Background()
	s, _ := openStore(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, map[string]string{"a.txt": "a", "sub/b.txt": "b", "sub/empty.txt": "", "run": "#!/bin/sh"})
	for _, err := range []error{
		os.Chmod(filepath.Join(src, "run"), 0o700),
		os.MkdirAll(filepath.Join(src, "void/deep"), 0o755),
		os.Symlink("../a.txt", filepath.Join(src, "sub/link")),
		os.Symlink("nowhere", filepath.Join(src, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d, m, err := s.Put(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := artifact.DigestOf(ctx, src); err != nil || again != d {
		t.Fatalf("DigestOf = %v, %v; want %v", again, err, d)
	}
	if m.Kind != artifact.KindDir || m.Bytes() != 11 {
		t.Errorf("manifest = %+v", m)
	}
	if ok, err := s.Has(ctx, d); err != nil || !ok {
		t.Fatalf("Has = %v, %v", ok, err)
	}
	if err := s.Verify(ctx, d); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "dest")
	if err := s.Fetch(ctx, d, dest, artifact.Durable()); err != nil {
		t.Fatal(err)
	}
	if back, _, err := artifact.DigestOf(ctx, dest); err != nil || back != d {
		t.Fatalf("fetched copy has digest %v, %v; want %v", back, err, d)
	}
	if fi, err := os.Stat(filepath.Join(dest, "run")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("run: %v, %v; want mode 0755", fi, err)
	}
	if err := s.Fetch(ctx, d, dest); !errors.Is(err, fs.ErrExist) {
		t.Errorf("fetching onto something: %v, want fs.ErrExist", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) != 1 {
		t.Errorf("left beside dest: %v", left)
	}
}

func TestPutAndFetchAFile(t *testing.T) {
	ctx := context.Background()
	s, dir := openStore(t)
	file := filepath.Join(t.TempDir(), "model.bin")
	content := bytes.Repeat([]byte("drover"), 1<<20)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	d, m, err := s.Put(ctx, file)
	if err != nil || m.Kind != artifact.KindFile {
		t.Fatalf("Put = %v, %+v, %v", d, m, err)
	}
	dest := filepath.Join(t.TempDir(), "in")
	if err := s.Fetch(ctx, d, dest, artifact.ReadOnly()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dest)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("fetched %d bytes, %v", len(got), err)
	}
	if fi, _ := os.Stat(dest); fi.Mode().Perm() != 0o444 {
		t.Errorf("mode %v, want 0444", fi.Mode())
	}

	// Writing to the copy must not reach the store.
	if err := errors.Join(os.Chmod(dest, 0o600), os.WriteFile(dest, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx, d); err != nil {
		t.Error(err)
	}

	before, err := os.Stat(blobPath(dir, digestOf(content)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Put(ctx, file); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(blobPath(dir, digestOf(content))); err != nil || !os.SameFile(before, after) {
		t.Errorf("content that was there was written again (%v)", err)
	}
}

func TestCorruptBlobIsSetAsideAndCanBePutAgain(t *testing.T) {
	ctx := context.Background()
	damage := map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"long":    func(b []byte) []byte { return append(b, 'x') },
		"empty":   func([]byte) []byte { return nil },
	}
	read := map[string]func(*artifact.Store, artifact.Digest, string) error{
		"fetch": func(s *artifact.Store, d artifact.Digest, tmp string) error {
			return s.Fetch(ctx, d, filepath.Join(tmp, "dest"))
		},
		"verify": func(s *artifact.Store, d artifact.Digest, _ string) error { return s.Verify(ctx, d) },
		"open": func(s *artifact.Store, _ artifact.Digest, _ string) error {
			r, err := s.OpenBlob(ctx, digestOf([]byte("content")))
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		},
	}
	for how, damage := range damage {
		for by, read := range read {
			t.Run(how+" found by "+by, func(t *testing.T) {
				s, dir := openStore(t)
				src := filepath.Join(t.TempDir(), "src")
				writeTree(t, src, map[string]string{"x/f": "content"})
				d, _, err := s.Put(ctx, src)
				if err != nil {
					t.Fatal(err)
				}
				blob := digestOf([]byte("content"))
				file := blobPath(dir, blob)
				if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, damage([]byte("content")), 0o600)); err != nil {
					t.Fatal(err)
				}
				tmp := t.TempDir()
				err = read(s, d, tmp)
				var corrupt *artifact.CorruptError
				if !errors.As(err, &corrupt) || corrupt.Digest != blob {
					t.Fatalf("got %v, want a CorruptError of %s", err, blob)
				}
				if left, _ := os.ReadDir(tmp); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
				if ok, err := s.Has(ctx, d); ok || err != nil {
					t.Errorf("Has = %v, %v; want false", ok, err)
				}
				if _, _, err := s.Put(ctx, src); err != nil {
					t.Fatal(err)
				}
				if err := s.Verify(ctx, d); err != nil {
					t.Errorf("after putting it again: %v", err)
				}
			})
		}
	}
}

func TestPutRefuses(t *testing.T) {
	tests := map[string]struct {
		make func(dir string) error
		want string
	}{
		"absolute link":        {func(d string) error { return os.Symlink("/etc/passwd", d+"/l") }, "outside the artifact"},
		"escaping link":        {func(d string) error { return os.Symlink("../x", d+"/l") }, "outside the artifact"},
		"link by a detour":     {func(d string) error { return os.Symlink("a/../b", d+"/l") }, "outside the artifact"},
		"name not UTF-8":       {func(d string) error { return os.WriteFile(d+"/\xff", nil, 0o600) }, "UTF-8"},
		"fifo":                 {func(d string) error { return mkfifo(d + "/pipe") }, "neither a file"},
		"fifo in a sub-folder": {func(d string) error { return errors.Join(os.Mkdir(d+"/s", 0o700), mkfifo(d+"/s/pipe")) }, "neither a file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := openStore(t)
			dir := t.TempDir()
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Put(context.Background(), dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	t.Run("path that is a link", func(t *testing.T) {
		s, _ := openStore(t)
		dir := t.TempDir()
		if err := os.Symlink("/etc/hostname", dir+"/l"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Put(context.Background(), dir+"/l"); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("link on the way, out of the root", func(t *testing.T) {
		s, _ := openStore(t)
		dir := t.TempDir()
		if err := os.Symlink("/etc", dir+"/etc"); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if _, _, err := s.PutAt(context.Background(), root, "etc/hostname"); err == nil {
			t.Error("read a file outside the root")
		}
		outside := t.TempDir()
		if err := os.Symlink(outside, dir+"/out"); err != nil {
			t.Fatal(err)
		}
		writeTree(t, dir, map[string]string{"in/f": "x"})
		d, _, err := s.PutAt(context.Background(), root, "in/f")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"out/f", "../f", ".", ""} {
			if err := s.FetchAt(context.Background(), d, root, name); err == nil {
				t.Errorf("fetched to %q", name)
			}
		}
		if err := s.FetchAt(context.Background(), d, root, "in/g"); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("wrote outside the root: %v", left)
		}
	})
}

func TestSkip(t *testing.T) {
	s, _ := openStore(t)
	src := t.TempDir()
	writeTree(t, src, map[string]string{"keep.py": "1", "__pycache__/x.pyc": "2", "sub/__pycache__/y.pyc": "3"})
	_, m, err := s.Put(context.Background(), src, artifact.Skip(func(rel string) bool { return filepath.Base(rel) == "__pycache__" }))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Files) != 1 || m.Files[0].Path != "keep.py" || !slices.Equal(m.Dirs, []string{"sub"}) {
		t.Errorf("manifest = %+v", m)
	}
}

func TestBlobs(t *testing.T) {
	ctx := context.Background()
	s, dir := openStore(t)
	var want []artifact.Digest
	for _, content := range []string{"", "one", strings.Repeat("two", 1<<20)} {
		d, size, err := s.PutBlob(ctx, strings.NewReader(content))
		if err != nil || size != int64(len(content)) || d != digestOf([]byte(content)) {
			t.Fatalf("PutBlob = %v, %v, %v", d, size, err)
		}
		want = append(want, d)
	}
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(blobPath(dir, want[1]), old, old); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PutBlob(ctx, strings.NewReader("one")); err != nil {
		t.Fatal(err)
	}
	if info, err := s.StatBlob(ctx, want[1]); err != nil || time.Since(info.LastPut) > time.Hour {
		t.Errorf("putting a blob again left its time at %v (%v)", info.LastPut, err)
	}
	var got []artifact.Digest
	for info, err := range s.ListBlobs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Digest)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("ListBlobs = %v, want %v", got, want)
	}
	for range 2 {
		if err := s.DeleteBlob(ctx, want[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.StatBlob(ctx, want[0]); !errors.Is(err, artifact.ErrNotFound) {
		t.Errorf("StatBlob of a deleted blob: %v", err)
	}
	if _, err := s.OpenBlob(ctx, want[0]); !errors.Is(err, artifact.ErrNotFound) {
		t.Errorf("OpenBlob of a deleted blob: %v", err)
	}
}

func TestRecords(t *testing.T) {
	ctx := context.Background()
	s, _ := openStore(t)
	type doc struct{ N int }
	for i, key := range []string{"results/a.1", "results/b", "results/b/c", "other"} {
		if err := s.PutRecord(ctx, key, doc{i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutRecord(ctx, "results/b", doc{9}); err != nil {
		t.Fatal(err)
	}
	var got doc
	if err := s.GetRecord(ctx, "results/b", &got); err != nil || got.N != 9 {
		t.Errorf("GetRecord = %+v, %v", got, err)
	}
	for folder, want := range map[string][]string{
		"":          {"other", "results/a.1", "results/b", "results/b/c"},
		"results":   {"results/a.1", "results/b", "results/b/c"},
		"results/b": {"results/b/c"},
		"none":      nil,
	} {
		if keys, err := s.ListRecords(ctx, folder); err != nil || !slices.Equal(keys, want) {
			t.Errorf("ListRecords(%q) = %v, %v; want %v", folder, keys, err, want)
		}
	}
	for range 2 {
		if err := s.DeleteRecord(ctx, "results/b"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.GetRecord(ctx, "results/b", &got); !errors.Is(err, artifact.ErrNotFound) {
		t.Errorf("deleted record: %v", err)
	}
}

// Of many who create a record, one succeeds, and all find what that one wrote.
func TestCreateRecord(t *testing.T) {
	s, dir := openStore(t)
	const writers = 16
	errs := make([]error, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			s, err := artifact.Open("file://" + dir)
			if err != nil {
				errs[i] = err
				return
			}
			defer s.Close()
			errs[i] = s.CreateRecord(t.Context(), "a/b", i)
		})
	}
	all.Wait()
	var winner int
	if err := s.GetRecord(t.Context(), "a/b", &winner); err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		if i == winner && err != nil || i != winner && !errors.Is(err, artifact.ErrExists) {
			t.Errorf("writer %d got %v; the record is of writer %d", i, err, winner)
		}
	}
	if err := s.CreateRecord(t.Context(), "a/../b", 1); err == nil || errors.Is(err, artifact.ErrExists) {
		t.Errorf("a key that leads out: %v", err)
	}
	if err := s.PutRecord(t.Context(), "a/b", -1); err != nil {
		t.Fatal(err)
	}
}

func TestManyMayMakeAStoreAndPutTheSame(t *testing.T) {
	ctx := context.Background()
	url := "file://" + filepath.Join(t.TempDir(), "store")
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, map[string]string{"a": "a", "b/c": strings.Repeat("c", 3<<20)})
	want, _, err := artifact.DigestOf(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := artifact.Open(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			d, _, err := s.Put(ctx, src)
			if err == nil {
				err = s.PutRecord(ctx, "same/key", d)
			}
			if err == nil {
				err = s.Verify(ctx, d)
			}
			if err != nil || d != want {
				t.Errorf("Put = %v, %v; want %v", d, err, want)
			}
		})
	}
	all.Wait()
}

func TestHostileNames(t *testing.T) {
	ctx := context.Background()
	s, dir := openStore(t)
	outside := filepath.Join(filepath.Dir(dir), "x.json")
	if err := os.WriteFile(outside, []byte(`{"secret":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{
		"", ".", "..", "../x", "../../x", "a/../../x", "/etc/hostname", "a//b", "a/", "./a", "%2e%2e%2fx", "a b", "a\x00b",
		`..\x`, "…", "a/..", "x.json", "a.json/b", strings.Repeat("a", 300), strings.Repeat("a/", 600) + "a",
		"file:///etc/hosts", "http://h/a?/../../x", "http://h/a#/../x",
	}
	for _, name := range names {
		var v any
		errs := map[string]error{
			"PutRecord":    s.PutRecord(ctx, name, 1),
			"GetRecord":    s.GetRecord(ctx, name, &v),
			"DeleteRecord": s.DeleteRecord(ctx, name),
			"StatBlob":     func() error { _, err := s.StatBlob(ctx, artifact.Digest(name)); return err }(),
			"OpenBlob":     func() error { _, err := s.OpenBlob(ctx, artifact.Digest(name)); return err }(),
			"DeleteBlob":   s.DeleteBlob(ctx, artifact.Digest("sha256:"+name)),
			"Fetch":        s.Fetch(ctx, artifact.Digest("sha256:"+name), filepath.Join(t.TempDir(), "d")),
		}
		for op, err := range errs {
			if err == nil {
				t.Errorf("%s(%.40q) succeeded", op, name)
			} else if len(err.Error()) > 1000 || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s(%.40q): message of %d bytes: %.200s", op, name, len(err.Error()), err)
			}
		}
		if v != nil {
			t.Errorf("GetRecord(%.40q) read %v", name, v)
		}
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != `{"secret":1}` {
		t.Errorf("a file outside the store changed: %q, %v", got, err)
	}
}

func TestOpen(t *testing.T) {
	full := t.TempDir()
	writeTree(t, full, map[string]string{"thesis.tex": "precious"})
	newer := t.TempDir()
	writeTree(t, newer, map[string]string{"store.json": `{"version":2}`})
	for name, url := range map[string]string{
		"other scheme":    "s3://bucket/x",
		"no scheme":       "/var/lib/store",
		"relative":        "file:store",
		"host":            "file://host/store",
		"query":           "file:///tmp/x?y=1",
		"root folder":     "file:///",
		"not a URL":       "file://%zz",
		"foreign content": "file://" + full,
		"newer format":    "file://" + newer,
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := artifact.Open(url); err == nil {
				t.Errorf("opened %s", s.URL())
			}
		})
	}
	t.Run("spaces and its own URL", func(t *testing.T) {
		s, err := artifact.Open("file://" + t.TempDir() + "/a%20b")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PutRecord(context.Background(), "k", 1); err != nil {
			t.Fatal(err)
		}
		again, err := artifact.Open(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := again.GetRecord(context.Background(), "k", &n); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
