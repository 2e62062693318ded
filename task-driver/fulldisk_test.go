package main

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// smallDisk is a folder with 2 MiB of space.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("needs to mount a small disk: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all space and returns what gives it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		err = nil
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// makeStep makes a checkpoint of the task's, as the task would.
func makeStep(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name+".tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, name+".tmp"), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// A task's own disk is full: what can't be sealed is sealed later, and the
// seals that are there stay good.
func TestDiskFullWhileSealing(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	c := n.task(with(shell(`exec sleep 1000`), map[string]any{"checkpoint": []any{map[string]any{}}}))
	disk := smallDisk(t)
	c.AllocDir = filepath.Join(disk, "alloc")
	if err := os.MkdirAll(file(c, "local"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.start(c)
	dir := inFolder(c, "checkpoints")
	makeStep(t, dir, "step-1")
	n.shown(c, "Checkpoint 1 sealed")
	makeStep(t, dir, "step-2.hidden") // its folder needs space of its own
	free := fill(t, disk)
	if err := os.Rename(filepath.Join(dir, "step-2.hidden"), filepath.Join(dir, "step-2")); err != nil {
		t.Fatal(err)
	}
	n.shown(c, "Checkpoint 2 can't be sealed")
	n.shown(c, "no space left")
	free()
	n.shown(c, "Checkpoint 2 sealed")
	d, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, step := range []int64{1, 2} {
		if _, err := d.Verify(n.ctx(), step); err != nil {
			t.Error(err)
		}
	}
}

// The store's disk is full: the task goes on, its checkpoints are copied when
// there is space, and nothing in the store is half of something.
func TestStoreFullWhileCopying(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	store, err := artifact.Open("file://" + filepath.Join(disk, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	n := newNode(t, map[string]any{"store": store.URL()})
	c := n.trainTask(training(`{"steps": 2, "hang": 1}`, "run/full"))
	free := fill(t, disk)
	n.start(c)
	n.shown(c, "Checkpoint 1 sealed")
	n.shown(c, "can't be copied")
	n.shown(c, "no space left")
	free()
	eventually(t, "the copy of step 1", func() bool {
		steps, err := checkpoint.Exported(n.ctx(), store, "run/full")
		return err == nil && len(steps) == 1
	})
	if err := n.driver().StopTask(n.ctx(), c.ID, time.Second, ""); err != nil {
		t.Fatal(err)
	}
	if exit := n.wait(c); exit.Signal != 15 {
		t.Errorf("exit = %+v", exit)
	}
	for blob, err := range store.ListBlobs(n.ctx()) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := store.OpenBlob(n.ctx(), blob.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("blob %s: %v", blob.Digest, err)
		}
		r.Close()
	}
}

// The driver's own disk is full when the task ends: the exit status waits for
// space, and is not lost.
func TestStateDiskFullAtTheEnd(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	n := newNode(t, map[string]any{"state_dir": filepath.Join(disk, "state")})
	c := n.task(shell(slow))
	n.start(c)
	started(t, c)
	free := fill(t, disk)
	release(t, c)
	eventually(t, "an attempt to store the exit status", func() bool {
		return exists(n.stateFile(c, "exit.json.new"))
	})
	st, err := n.driver().InspectTask(n.ctx(), c.ID)
	if err != nil || st.Exit != nil {
		t.Errorf("status = %+v, %v; want it without an exit", st, err)
	}
	free()
	if exit := n.wait(c); exit.ExitCode != 42 || exit.Err != nil {
		t.Errorf("exit = %+v, want 42", exit)
	}
}
