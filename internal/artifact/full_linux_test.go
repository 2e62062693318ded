package artifact_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
)

// smallDisk mounts a file system of so many bytes, or skips the test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED: a full disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullDiskIsAnErrorAndLeavesTheStoreAsItWas(t *testing.T) {
	ctx := context.Background()
	disk := smallDisk(t, "2m")
	s, err := artifact.Open("file://" + disk + "/store")
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, map[string]string{"small": "small"})
	before, _, err := s.Put(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(t.TempDir(), "big")
	writeTree(t, big, map[string]string{"a": strings.Repeat("a", 900_000), "b": strings.Repeat("b", 3<<20)})
	for range 3 { // each as the first: nothing is left to fill the disk
		if _, _, err := s.Put(ctx, big); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), big) {
			t.Errorf("Put on a full disk: %v", err)
		}
	}
	if err := s.Verify(ctx, before); err != nil {
		t.Error(err)
	}
	if err := s.PutRecord(ctx, "k", strings.Repeat("x", 1<<20)); err != nil {
		t.Errorf("space was not given back: %v", err)
	}

	elsewhere, _ := openStore(t)
	d, _, err := elsewhere.Put(ctx, big)
	if err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Fetch(ctx, d, disk+"/dest"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Fetch to a full disk: %v", err)
	}
	if left, _ := os.ReadDir(disk); len(left) != 1 {
		t.Errorf("left on the disk: %v", left)
	}
}
