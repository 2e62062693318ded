package artifact_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
)

// cloningDisk mounts an XFS of 300 MiB, or skips the test.
func cloningDisk(t *testing.T) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(300 << 20)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.xfs", "-q", "-m", "reflink=1", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: sharing blocks needs mkfs.xfs and the right to mount: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func TestBlocksAreSharedWhereTheFileSystemCan(t *testing.T) {
	ctx := context.Background()
	disk := cloningDisk(t)
	s, err := artifact.Open("file://" + disk + "/store")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	src := filepath.Join(disk, "src")
	if err := os.WriteFile(src, make([]byte, 60<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	d, _, err := s.Put(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	// Eight copies would not fit.
	for i := range 8 {
		if err := s.Fetch(ctx, d, filepath.Join(disk, strconv.Itoa(i)), artifact.Durable()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{src, filepath.Join(disk, "0")} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("changed"), 30<<20)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Verify(ctx, d); err != nil {
		t.Errorf("a change to a copy reached the store: %v", err)
	}
	if got, _, err := artifact.DigestOf(ctx, filepath.Join(disk, "1")); err != nil || got != d {
		t.Errorf("a change to a copy reached another: %v, %v", got, err)
	}
}
