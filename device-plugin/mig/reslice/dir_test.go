package reslice

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/mig"
)

func openDir(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	d := openDir(t)
	if s, err := d.Load(); err != nil || len(s.Boards) > 0 {
		t.Fatalf("at first %+v, %v", s, err)
	}
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	want, err := d.Update(func(s *State) error {
		s.Want("GPU-a", Request{Name: "pair", Layout: mig.Layout{Enabled: true, Instances: []mig.Want{{Profile: "3g.20gb", Compute: []int{2, 1}}}}, Evict: true, Timeout: time.Minute}, now)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Boards, got.Boards); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if got.Boards["GPU-a"].Deadline != now.Add(time.Minute) {
		t.Errorf("deadline = %s", got.Boards["GPU-a"].Deadline)
	}

	before, err := os.Stat(d.file())
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode().Perm() != 0o600 {
		t.Errorf("mode = %s", before.Mode())
	}
	no := errors.New("no")
	if _, err := d.Update(func(s *State) error { clear(s.Boards); return no }); !errors.Is(err, no) {
		t.Errorf("error = %v", err)
	}
	if _, err := d.Update(func(*State) error { return nil }); err != nil {
		t.Error(err)
	}
	if after, err := os.Stat(d.file()); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written although nothing changed: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.path, ".mig-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDirTransactions changes the state from many sides at once; no change is
// lost.
func TestDirTransactions(t *testing.T) {
	d := openDir(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			own := &Dir{d.path} // as another process would
			for j := range 10 {
				if _, err := own.Update(func(s *State) error {
					s.Want(fmt.Sprintf("GPU-%d-%d", i, j), Request{Name: "x"}, time.Now())
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if s, err := d.Load(); err != nil || len(s.Boards) != 80 {
		t.Errorf("%d boards, %v; want 80", len(s.Boards), err)
	}
}

func TestDirAcquire(t *testing.T) {
	d := openDir(t)
	release, err := d.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Dir{d.path}).Acquire(); !errors.Is(err, ErrHeld) {
		t.Errorf("a second one: %v, want %v", err, ErrHeld)
	}
	if _, err := d.Update(func(s *State) error { s.Want("GPU-a", Request{}, time.Now()); return nil }); err != nil {
		t.Errorf("others cannot ask for anything meanwhile: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = d.Acquire()
	if err != nil {
		t.Errorf("after it was released: %v", err)
	}
	_ = release()
}

func TestDirRefuses(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"cut short":       {`{"version":1,"boards":{"GPU-a":{"id"`, "unexpected end of JSON"},
		"another version": {`{"version":2}`, "version 2 is not 1: another release wrote it"},
		"another phase":   {`{"version":1,"boards":{"GPU-a":{"id":"1","phase":"resting"}}}`, `board GPU-a is in phase "resting"`},
		"no ID":           {`{"version":1,"boards":{"GPU-a":{"phase":"done"}}}`, "has no board or no ID"},
		"large":           {strings.Repeat(" ", maxStateBytes+1), "larger than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDir(t)
			if err := os.WriteFile(d.file(), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{
				"load":   second(d.Load()),
				"update": second(d.Update(func(*State) error { return nil })),
				"new":    second(New(Config{Store: d})),
			} {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "mig.json (move it away to start without)") {
					t.Errorf("%s: error = %v, want %s", what, err, test.want)
				}
			}
			if content, _ := os.ReadFile(d.file()); string(content) != test.content {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := OpenDir("/dev/null/state"); err == nil {
		t.Error("no error for a folder that cannot be")
	}
}

func second[T any](_ T, err error) error { return err }

// TestReleasedFormats opens a file of each release.
func TestReleasedFormats(t *testing.T) {
	src, err := os.ReadFile("testdata/mig-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := decode(src)
	if err != nil {
		t.Fatal(err)
	}
	waits := s.Boards["GPU-33aa44b1-5564-83af-bdbf-990e60695d5e"]
	if waits.Phase != Moving || !waits.Evict || waits.Layout.String() != "4g.20gb, 3g.20gb (compute 2+1)" || len(waits.Cordon) != 2 || waits.Deadline.IsZero() {
		t.Errorf("one that waits is %+v", waits)
	}
	failed := s.Boards["GPU-b6d988d9-fd9e-887d-8d06-cf1b2ee93601"]
	if failed.Phase != Failed || !failed.Touched || failed.Failures != 5 || failed.Layout.Enabled {
		t.Errorf("one that failed is %+v", failed)
	}
	if again, err := s.encode(); err != nil || string(again) != string(src) {
		t.Errorf("written again it is %s, %v", again, err)
	}
}

func FuzzDecode(f *testing.F) {
	src, err := os.ReadFile("testdata/mig-v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Add([]byte(`{"version":1,"boards":{"GPU-a":{"id":"1","phase":"done"}}}`))
	board := mig.Board{ID: "GPU-a", Product: a100, Enabled: true, Pending: true}
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := decode(src)
		if err != nil {
			return
		}
		for id, task := range s.Boards {
			task.Faults(id)
			next, action := task.Next(&board, time.Now(), Limits{})
			if action.Step != nil && !next.Touched {
				t.Errorf("a step is to be done of which nothing is stored: %+v", next)
			}
		}
	})
}
