package artifact_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
)

// testdata/store-v1 was written by the first version. It must stay readable.
func TestStoreOfVersion1(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(dir, os.DirFS("testdata/store-v1")); err != nil {
		t.Fatal(err)
	}
	s, err := artifact.Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var d artifact.Digest
	if err := s.GetRecord(ctx, "samples/first", &d); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "dest")
	if err := s.Fetch(ctx, d, dest); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dest, "a.txt")); err != nil || string(got) != "hello\n" {
		t.Errorf("a.txt: %q, %v", got, err)
	}
	if to, err := os.Readlink(filepath.Join(dest, "latest")); err != nil || to != "sub/run" {
		t.Errorf("latest: %q, %v", to, err)
	}
	if fi, err := os.Stat(filepath.Join(dest, "void")); err != nil || !fi.IsDir() {
		t.Errorf("void: %v, %v", fi, err)
	}
	if back, _, err := artifact.DigestOf(ctx, dest); err != nil || back != d {
		t.Errorf("this version computes digest %v, %v; the first computed %v", back, err, d)
	}
}
