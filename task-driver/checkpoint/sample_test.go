package checkpoint_test

import (
	"context"
	"os"
	"testing"
)

// testdata/v1 was written by the first version. It must stay usable.
func TestCheckpointOfVersion1(t *testing.T) {
	f := newFixture(t)
	if err := os.CopyFS(f.path, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	s, asides, err := f.dir.Newest(context.Background())
	if err != nil || s.Step != 120 || len(asides) != 0 || s.Bytes() != 15 {
		t.Errorf("Newest = %+v, %v, %v", s, asides, err)
	}
}
