package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/orchestrator/api"
	"github.com/drover-ml/drover/orchestrator/api/apitest"
	"github.com/drover-ml/drover/orchestrator/api/client"
	"github.com/drover-ml/drover/orchestrator/run"
)

// server is the API over a world and a store; between comes before each
// request is answered.
func server(t *testing.T, w *apitest.World, between func(http.ResponseWriter, *http.Request) bool) (*client.Client, *artifact.Store) {
	t.Helper()
	store, err := artifact.Open("file://" + filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	handler := api.New(api.Config{Runs: w, History: w, Models: w, Endpoints: w, Incidents: w, Queue: w, Artifacts: store, MaxBlobBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if between == nil || !between(rw, r) {
			handler.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(func() { srv.Close(); store.Close() })
	c, err := client.New(client.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c, store
}

// tree makes files, by path.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "code")
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func scan(t *testing.T, name string) client.Source {
	t.Helper()
	s, err := client.ScanSource(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUploadSendsOnlyWhatIsMissing(t *testing.T) {
	var puts atomic.Int32
	c, store := server(t, &apitest.World{}, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/blobs/") {
			puts.Add(1)
		}
		return false
	})
	ctx := context.Background()
	dir := tree(t, map[string]string{"a.py": "print(1)\n", "sub/b.py": "print(2)\n", "sub/copy.py": "print(1)\n", ".git/HEAD": "x", "__pycache__/a.pyc": "y"})
	s := scan(t, dir)
	var last client.UploadProgress
	if _, err := c.Upload(ctx, s, func(p client.UploadProgress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if puts.Load() != 2 || last.Files != 2 || last.Sent != last.Bytes || last.Bytes != 18 {
		t.Errorf("%d uploads, progress %+v; want the two different files", puts.Load(), last)
	}
	if ok, err := store.Has(ctx, artifact.Digest(s.Digest)); err != nil || !ok {
		t.Errorf("the store has it: %v, %v", ok, err)
	}
	if _, err := c.Upload(ctx, s, nil); err != nil || puts.Load() != 2 {
		t.Errorf("again: %v, %d uploads", err, puts.Load())
	}
}

func TestUploadOfAChangingFile(t *testing.T) {
	tests := map[string]struct {
		changes int // uploads during which the file changes
		want    error
	}{
		"changes once":      {1, nil},
		"changes all along": {100, new(client.ChangedError)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, map[string]string{"data.csv": "0"})
			n := 0
			c, store := server(t, &apitest.World{}, func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v1/blobs/missing" && n < test.changes {
					n++
					if err := os.WriteFile(filepath.Join(dir, "data.csv"), fmt.Appendf(nil, "%d", n), 0o644); err != nil {
						t.Error(err)
					}
				}
				return false
			})
			s, err := c.Upload(context.Background(), scan(t, dir), nil)
			if test.want != nil {
				var changed *client.ChangedError
				if !errors.As(err, &changed) || !strings.HasSuffix(changed.Path, "data.csv") {
					t.Errorf("error %v, want a ChangedError", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := scan(t, dir); s.Digest != want.Digest {
				t.Errorf("uploaded %s, want what is there now, %s", s.Digest, want.Digest)
			}
			if err := store.Verify(context.Background(), artifact.Digest(s.Digest)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBlobsAreVerified(t *testing.T) {
	c, store := server(t, &apitest.World{}, nil)
	ctx := context.Background()
	digest := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	var refused *client.Error
	err := c.PutBlob(ctx, digest("other"), strings.NewReader("text"), 4)
	if !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
		t.Errorf("wrong digest: %v", err)
	}
	if _, err := store.StatBlob(ctx, artifact.Digest(digest("text"))); !errors.Is(err, artifact.ErrNotFound) {
		t.Errorf("what came was stored all the same: %v", err)
	}
	large := strings.Repeat("x", 1<<20+1)
	err = c.PutBlob(ctx, digest(large), strings.NewReader(large), int64(len(large)))
	if !errors.As(err, &refused) || refused.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %v", err)
	}
	if err := c.PutBlob(ctx, digest(""), strings.NewReader(""), 0); err != nil {
		t.Errorf("empty blob: %v", err)
	}
}

func TestArtifactNeedsItsBlobs(t *testing.T) {
	c, _ := server(t, &apitest.World{}, nil)
	s := scan(t, tree(t, map[string]string{"a": "1"}))
	manifest, err := s.Manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutArtifact(context.Background(), manifest); !client.IsConflict(err) {
		t.Errorf("error %v, want a conflict", err)
	}
}

func TestDownloadGivesBackWhatWasUploaded(t *testing.T) {
	c, _ := server(t, &apitest.World{}, nil)
	ctx := context.Background()
	dir := tree(t, map[string]string{"a": "1", "sub/b": "2", "sub/deep/c": "3"})
	if err := errors.Join(os.Symlink("a", filepath.Join(dir, "link")), os.Mkdir(filepath.Join(dir, "empty"), 0o755), os.Chmod(filepath.Join(dir, "a"), 0o755)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sub", "b")
	for name, source := range map[string]string{"a folder": dir, "a file": file} {
		t.Run(name, func(t *testing.T) {
			s, err := c.Upload(ctx, scan(t, source), nil)
			if err != nil {
				t.Fatal(err)
			}
			dest := filepath.Join(t.TempDir(), "got")
			if _, err := c.Download(ctx, s.Digest, dest); err != nil {
				t.Fatal(err)
			}
			if got := scan(t, dest); got.Digest != s.Digest {
				t.Errorf("got %s, want %s", got.Digest, s.Digest)
			}
			if _, err := c.Download(ctx, s.Digest, dest); err == nil {
				t.Error("wrote over what was there")
			}
			left, err := os.ReadDir(filepath.Dir(dest))
			if err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestFilesOfAnArtifact(t *testing.T) {
	c, _ := server(t, &apitest.World{}, nil)
	ctx := context.Background()
	dir := tree(t, map[string]string{"a b/ü.txt": "hello", "z": "1"})
	s, err := c.Upload(ctx, scan(t, dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Artifact(ctx, s.Digest)
	if err != nil || len(a.Files) != 2 || a.Bytes != 6 {
		t.Fatalf("%+v, %v", a, err)
	}
	resp, err := http.Get(c.Address() + "/v1/artifacts/" + s.Digest + "/files/a%20b/%C3%BC.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if string(body) != "hello" || err != nil || resp.ContentLength != 5 {
		t.Errorf("%s %q, %v", resp.Status, body, err)
	}
	missing, err := http.Get(c.Address() + "/v1/artifacts/" + s.Digest + "/files/..%2f..%2fstore.json")
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Body.Close()
	if missing.StatusCode != http.StatusNotFound {
		t.Errorf("a path that leads out: %s", missing.Status)
	}
}

func TestVerify(t *testing.T) {
	w := &apitest.World{}
	c, store := server(t, w, nil)
	ctx := context.Background()
	s, err := c.Upload(ctx, scan(t, tree(t, map[string]string{"a": "1"})), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.VerifyArtifact(ctx, s.Digest); err != nil || !v.Intact {
		t.Fatalf("%+v, %v", v, err)
	}
	spoil(t, strings.TrimPrefix(store.URL(), "file://"), s.Manifest.Files[0].SHA256)
	if v, err := c.VerifyArtifact(ctx, s.Digest); err != nil || v.Intact || v.Reason == "" {
		t.Errorf("after a flipped byte: %+v, %v", v, err)
	}
}

// spoil flips a byte of a blob.
func spoil(t *testing.T, store, sum string) {
	t.Helper()
	file := filepath.Join(store, "blobs", "sha256", sum[:2], sum)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestRequestsOutliveARestart(t *testing.T) {
	w := (&apitest.World{}).Add(run.Run{ID: "r", Workspace: "default", Phase: run.Running})
	drops := 2
	c, _ := server(t, w, func(rw http.ResponseWriter, _ *http.Request) bool {
		if drops == 0 {
			return false
		}
		drops--
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		conn.Close()
		return true
	})
	if r, err := c.Run(context.Background(), "r"); err != nil || r.ID != "r" {
		t.Errorf("%+v, %v", r, err)
	}
	drops = 1
	var unreachable *client.UnreachableError
	if _, err := c.Cancel(context.Background(), "r"); !errors.As(err, &unreachable) {
		t.Errorf("a request that may not be sent twice: %v", err)
	}
}

func TestNotADroverServer(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	c, err := client.New(client.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(context.Background(), "r"); err == nil || !strings.Contains(err.Error(), "is "+strings.TrimPrefix(srv.URL, "http://")+" a Drover server?") {
		t.Errorf("error %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := client.New(client.Config{Address: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	var unreachable *client.UnreachableError
	if _, err := c.Health(context.Background()); !errors.As(err, &unreachable) {
		t.Errorf("error %v, want an UnreachableError", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"localhost:4680", "ftp://x", "http://", "::"} {
		if _, err := client.New(client.Config{Address: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
