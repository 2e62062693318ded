package artifact_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
)

// A test that needs a process of its own starts this binary again with
// ARTIFACT_TEST_ROLE naming what to be.
func TestMain(m *testing.M) {
	role, ok := map[string]func() error{"put": putForever, "put-limited": putLimited}[os.Getenv("ARTIFACT_TEST_ROLE")]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(); err != nil {
		fmt.Println("error:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

func startRole(t *testing.T, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ARTIFACT_TEST_ROLE="+role, "ARTIFACT_TEST_ARGS="+strings.Join(args, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, bufio.NewReader(out)
}

func roleArgs() []string { return strings.Split(os.Getenv("ARTIFACT_TEST_ARGS"), "\n") }

// putForever puts folders of its own, and one that others put too, and says
// each digest once it is stored.
func putForever() error {
	args := roleArgs()
	s, err := artifact.Open(args[0])
	if err != nil {
		return err
	}
	ctx := context.Background()
	for i := 0; ; i++ {
		src := filepath.Join(args[1], strconv.Itoa(i))
		for name, content := range map[string]string{
			"own":    fmt.Sprint(args[1], i),
			"shared": fmt.Sprint("shared", i),
			"large":  strings.Repeat(fmt.Sprint("large", i), 1<<18),
		} {
			if err := os.MkdirAll(src, 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o600); err != nil {
				return err
			}
		}
		d, _, err := s.Put(ctx, src)
		if err != nil {
			return err
		}
		if err := s.PutRecord(ctx, "runs/"+filepath.Base(args[1]), d); err != nil {
			return err
		}
		fmt.Println(d)
	}
}

// wantNoGarbage checks that tmp/ holds no more than the folder and lock of the
// store that the test itself has open.
func wantNoGarbage(t *testing.T, dir string) {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(dir, "tmp/*"))
	files, err2 := filepath.Glob(filepath.Join(dir, "tmp/*/*"))
	if err = errors.Join(err, err2); err != nil || len(folders) > 1 || len(files) > 1 {
		t.Errorf("left in tmp: %v, %v, %v", folders, files, err)
	}
}

func TestKillAtAnyMomentLosesNothingAndLeavesNothing(t *testing.T) {
	ctx := context.Background()
	s, dir := openStore(t)
	var stored []artifact.Digest
	var mu sync.Mutex
	for range 6 {
		var writers sync.WaitGroup
		for range 2 {
			cmd, out := startRole(t, "put", s.URL(), filepath.Join(t.TempDir(), "src"))
			writers.Go(func() {
				defer cmd.Wait()
				// The moment is counted from the first success, as this test
				// is of putting and not of starting.
				timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
				for {
					line, err := out.ReadString('\n')
					if err != nil {
						return
					}
					mu.Lock()
					stored = append(stored, artifact.Digest(strings.TrimSpace(line)))
					mu.Unlock()
					timer.Reset(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
				}
			})
		}
		writers.Wait()
	}
	if len(stored) < 12 {
		t.Fatalf("only %d artifacts were stored", len(stored))
	}
	for _, d := range stored {
		if err := s.Verify(ctx, d); err != nil {
			t.Error(err)
		}
	}
	for info, err := range s.ListBlobs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.OpenBlob(ctx, info.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("a half-written blob became visible: %v", err)
		}
		r.Close()
	}
	var last artifact.Digest
	if err := s.GetRecord(ctx, "runs/src", &last); err != nil {
		t.Error(err)
	}
	if _, err := artifact.Open(s.URL()); err != nil {
		t.Fatal(err)
	}
	wantNoGarbage(t, dir)
}

func TestSweepingSparesTheLiving(t *testing.T) {
	ctx := context.Background()
	s, _ := openStore(t)
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, _, err := s.PutBlob(ctx, in)
		done <- err
	}()
	half := bytes.Repeat([]byte("x"), 3<<20)
	if _, err := out.Write(half); err != nil {
		t.Fatal(err)
	}
	var opens sync.WaitGroup
	for range 8 {
		opens.Go(func() {
			other, err := artifact.Open(s.URL())
			if err == nil {
				_, _, err = other.PutBlob(ctx, strings.NewReader("y"))
			}
			if err = errors.Join(err, other.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	opens.Wait()
	out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// putLimited puts a folder with a limit on the size of files, and so dies of a
// signal, or gets an error, in the middle of a write.
func putLimited() error {
	args := roleArgs()
	limit, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	if args[3] == "error" {
		signal.Ignore(syscall.SIGXFSZ)
	}
	s, err := artifact.Open(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	d, _, err := s.Put(context.Background(), args[1])
	if err == nil {
		err = s.PutRecord(context.Background(), "done", strings.Repeat("r", 300))
	}
	if err == nil {
		fmt.Println(d)
	}
	return errors.Join(err, s.Close())
}

// TestEveryWriteMayFail ends a put in the middle of each of its writes, by a
// death and by an error as a full disk gives it.
func TestEveryWriteMayFail(t *testing.T) {
	ctx := context.Background()
	src := filepath.Join(t.TempDir(), "src")
	large := strings.Repeat("a large file in several chunks ", 80_000)
	writeTree(t, src, map[string]string{"ten": "0123456789", "forty": strings.Repeat("4", 40), "large": large})
	limits := []int{0, 1, 9, 10, 11, 39, 40, 100, 200, 299, 302, 1000, 1 << 20, 1<<20 + 1, 2 << 20, len(large) - 1, len(large)}
	for _, how := range []string{"error", "death"} {
		for _, limit := range limits {
			t.Run(fmt.Sprintf("%s at %d bytes", how, limit), func(t *testing.T) {
				s, dir := openStore(t)
				cmd, out := startRole(t, "put-limited", s.URL(), src, strconv.Itoa(limit), how)
				said, err := io.ReadAll(out)
				if err = errors.Join(err, cmd.Wait()); (err == nil) != (limit >= len(large)) {
					t.Fatalf("ended with %v, said %s", err, said)
				}
				if how == "error" && limit < len(large) && !strings.Contains(string(said), "file too large") {
					t.Errorf("the error does not say what happened: %s", said)
				}
				for info, err := range s.ListBlobs(ctx) {
					if err == nil {
						var r io.ReadCloser
						if r, err = s.OpenBlob(ctx, info.Digest); err == nil {
							_, err = io.Copy(io.Discard, r)
							r.Close()
						}
					}
					if err != nil {
						t.Errorf("half written: %v", err)
					}
				}
				if _, err := artifact.Open(s.URL()); err != nil {
					t.Fatal(err)
				}
				wantNoGarbage(t, dir)
				d, _, err := s.Put(ctx, src)
				if err = errors.Join(err, s.Verify(ctx, d)); err != nil {
					t.Errorf("putting it again: %v", err)
				}
			})
		}
	}
}
