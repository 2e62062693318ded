package checkpoint_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// onSmallDisk is a fixture on a file system of so many bytes.
func onSmallDisk(t *testing.T, size string) fixture {
	t.Helper()
	path := t.TempDir()
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED: a full disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return fixture{t, path, d}
}

func TestOnAFullDiskTheLastSealedStepStays(t *testing.T) {
	f := onSmallDisk(t, "256k")
	f.sealed(100, twoShards)
	f.step(200, twoShards)
	// The rest of the disk goes to a step that does not fit.
	if err := os.Mkdir(f.file("step-300.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.file("step-300.tmp/w"), []byte(strings.Repeat("x", 1<<20)), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if _, err := f.dir.Seal(context.Background(), 200); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Seal on a full disk: %v", err)
	}
	if got, reasons := f.newest(); got != 100 || len(reasons) != 1 {
		t.Errorf("Newest = %d, %v; want 100, and 200 as not sealed", got, reasons)
	}
	f.sealed(200, twoShards) // the unfinished step gave its space back
}
