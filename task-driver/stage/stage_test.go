package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
)

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newStore(t *testing.T) *artifact.Store {
	t.Helper()
	s, err := artifact.Open("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newCache(t *testing.T) *Cache {
	t.Helper()
	c, err := OpenCache(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// request is of a task in a new folder.
func request(t *testing.T, c mltask.Config) (Request, *[]string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "local"), 0o755); err != nil {
		t.Fatal(err)
	}
	events := new([]string)
	return Request{
		TaskDir: dir, Config: &c, Cache: newCache(t),
		Event: func(_, message string, _ map[string]string) { *events = append(*events, message) },
	}, events
}

func TestFolders(t *testing.T) {
	r, _ := request(t, mltask.Config{Params: `{"a": 1}`})
	in := func(elem ...string) string {
		return filepath.Join(append([]string{r.TaskDir, mltask.Folder}, elem...)...)
	}
	// What an earlier start left.
	write(t, in("outputs/half"), "x")
	write(t, in("inputs/old"), "x")
	write(t, in("code/old"), "x")
	write(t, in("checkpoints/step-3/state"), "x")
	write(t, in("metrics.jsonl"), `{"step":1,"metrics":{}}`+"\n")
	s, err := Stage(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if s.Folder != in() || s.WorkDir != filepath.Join(r.TaskDir, "local") || s.Resume != "" {
		t.Errorf("staged = %+v", s)
	}
	for name, want := range map[string]bool{
		"outputs/half": false, "inputs/old": false, "code/old": false, "checkpoints/step-3/state": true, "inputs": true, "outputs": true,
	} {
		if _, err := os.Stat(in(name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	if got := read(t, in("params.json")); got != `{"a": 1}` {
		t.Errorf("params = %q", got)
	}
	if got := read(t, in("metrics.jsonl")); got != "" {
		t.Errorf("metrics of a start from the beginning = %q", got)
	}
}

// Links that an earlier start left lead nobody out of the task's folder.
func TestLinksOfAnEarlierStart(t *testing.T) {
	for _, name := range []string{"", "outputs", "inputs", "code", "checkpoints", "metrics.jsonl", "params.json"} {
		t.Run("link "+name, func(t *testing.T) {
			r, _ := request(t, mltask.Config{Params: `{"a": 1}`})
			outside := t.TempDir()
			write(t, filepath.Join(outside, "precious"), "precious")
			target := outside
			if strings.Contains(name, ".") {
				target = filepath.Join(outside, "precious")
			}
			link := filepath.Join(r.TaskDir, mltask.Folder, name)
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			if _, err := Stage(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 || read(t, filepath.Join(outside, "precious")) != "precious" {
				t.Errorf("outside = %v, %v", entries, err)
			}
			if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink != 0 {
				t.Errorf("%s is still a link", link)
			}
		})
	}
}

func TestWorkDir(t *testing.T) {
	for _, test := range []struct{ name, workDir, want string }{
		{"of the task", "local/sub", "local/sub"},
		{"missing", "local/none", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := request(t, mltask.Config{WorkDir: test.workDir})
			write(t, filepath.Join(r.TaskDir, "local/sub/x"), "")
			s, err := Stage(t.Context(), r)
			if test.want == "" {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil || s.WorkDir != filepath.Join(r.TaskDir, test.want) {
				t.Errorf("work dir = %q, %v", s.WorkDir, err)
			}
		})
	}
}

func TestCodeMustBeAFolder(t *testing.T) {
	r, _ := request(t, mltask.Config{Code: "local/main.py"})
	write(t, filepath.Join(r.TaskDir, "local/main.py"), "print()")
	if _, err := Stage(t.Context(), r); err == nil || !strings.Contains(err.Error(), "must be a folder") {
		t.Errorf("error = %v", err)
	}
}

func TestStageAgain(t *testing.T) {
	r, events := request(t, mltask.Config{Code: "local/src", Inputs: []mltask.Input{{Name: "data", Source: "local/data"}}})
	write(t, filepath.Join(r.TaskDir, "local/src/run.sh"), "echo")
	write(t, filepath.Join(r.TaskDir, "local/data"), "1")
	for range 2 {
		s, err := Stage(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join(s.WorkDir, "run.sh")); got != "echo" {
			t.Errorf("code = %q", got)
		}
		if got := read(t, filepath.Join(s.Folder, "inputs/data")); got != "1" {
			t.Errorf("input = %q", got)
		}
	}
	if diff := cmp.Diff([]string{"Staging code, data", "Staging code, data"}, *events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestCacheServesWithoutTheStore(t *testing.T) {
	store, cache := newStore(t), newCache(t)
	file := filepath.Join(t.TempDir(), "x")
	write(t, file, "content")
	d, _, err := store.Put(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	if err := cache.Fetch(t.Context(), store, d, filepath.Join(dest, "first")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(strings.TrimPrefix(store.URL(), "file://")); err != nil {
		t.Fatal(err)
	}
	if err := cache.Fetch(t.Context(), store, d, filepath.Join(dest, "second")); err != nil {
		t.Errorf("from the cache: %v", err)
	}
}

// A cache that rots is filled again.
func TestCacheThatRots(t *testing.T) {
	store, cache := newStore(t), newCache(t)
	file := filepath.Join(t.TempDir(), "x")
	write(t, file, "content")
	d, m, err := store.Put(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	if err := cache.Fetch(t.Context(), store, d, filepath.Join(dest, "0")); err != nil {
		t.Fatal(err)
	}
	sum := m.Files[0].SHA256
	blob := filepath.Join(strings.TrimPrefix(cache.store.URL(), "file://"), "blobs/sha256", sum[:2], sum)
	for i, rot := range []func() error{
		func() error { return os.WriteFile(blob, []byte("CONTENT"), 0o644) },
		func() error { return os.Truncate(blob, 3) },
		func() error { return os.Remove(blob) },
	} {
		if err := os.Chmod(blob, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := rot(); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dest, fmt.Sprint(i+1))
		if err := cache.Fetch(t.Context(), store, d, out); err != nil || read(t, out) != "content" {
			t.Errorf("rot %d: %v", i, err)
		}
	}
}

func TestCacheKeepsToItsSize(t *testing.T) {
	store := newStore(t)
	cache, err := OpenCache(t.TempDir(), 25_000)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	dest := t.TempDir()
	for i := range 6 {
		file := filepath.Join(t.TempDir(), "x")
		write(t, file, strings.Repeat(fmt.Sprint(i), 10_000))
		d, _, err := store.Put(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		if err := cache.Fetch(t.Context(), store, d, filepath.Join(dest, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		var sum int64
		for b, err := range cache.store.ListBlobs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			sum += b.Size
		}
		if sum > 25_000 {
			t.Errorf("the cache holds %d bytes", sum)
		}
	}
}

func TestCacheIsShared(t *testing.T) {
	store, cache := newStore(t), newCache(t)
	dir := t.TempDir()
	for i := range 20 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat(fmt.Sprint(i), 1000))
	}
	d, _, err := store.Put(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := cache.Fetch(t.Context(), store, d, filepath.Join(dest, fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestMetricsUpToAStep(t *testing.T) {
	line := func(step int) string { return fmt.Sprintf(`{"step":%d,"metrics":{"loss":1}}`+"\n", step) }
	long := strings.Repeat("x", mltask.MaxMetricsLine+10) + "\n"
	for _, test := range []struct{ name, have, want string }{
		{"none", "", ""},
		{"later ones go", line(1) + line(2) + line(3), line(1) + line(2)},
		{"order does not matter", line(3) + line(2) + line(9) + line(1), line(2) + line(1)},
		{"malformed ones go", line(1) + "nonsense\n" + long + line(2), line(1) + line(2)},
		{"a last one cut short goes", line(1) + `{"step":2,"metrics":{}}`, line(1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got strings.Builder
			if err := upTo(2, strings.NewReader(test.have), &got); err != nil || got.String() != test.want {
				t.Errorf("metrics = %q, %v; want %q", got.String(), err, test.want)
			}
		})
	}
}

func TestStores(t *testing.T) {
	stores := Stores(filepath.Join(t.TempDir(), "stores"))
	dir := filepath.Join(t.TempDir(), "store")
	url := "file://" + dir
	if _, err := stores.Open(url); !errors.Is(err, ErrNoStore) || Transient(err) || !strings.Contains(err.Error(), dir) {
		t.Errorf("missing folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := stores.Check(url); err != nil {
		t.Errorf("new folder: %v", err)
	}
	s, err := stores.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	// The folder is empty again: its file system is not mounted.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := stores.Open(url); !Transient(err) {
		t.Errorf("unmounted: %v, want a transient error", err)
	}
	if err := stores.Check(url); !Transient(err) {
		t.Errorf("unmounted: %v, want a transient error", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("something was written to it: %v", entries)
	}
}

func TestTransient(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("x"), false},
		{context.Canceled, false},
		{os.ErrNotExist, false},
		{fmt.Errorf("a: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), true},
		{errors.Join(errors.New("x"), syscall.EIO), true},
		{ErrNoStore, false},
	} {
		if got := Transient(test.err); got != test.want {
			t.Errorf("Transient(%v) = %v", test.err, got)
		}
	}
}
