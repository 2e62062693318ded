package checkpoint_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/task-driver/checkpoint"
)

const key = "default/job-1.train"

func newStore(t testing.TB) (*artifact.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := artifact.Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// exported is a node that wrote, sealed and exported steps.
func exported(t testing.TB, store *artifact.Store, steps ...int64) fixture {
	t.Helper()
	f := newFixture(t)
	for _, step := range steps {
		f.sealed(step, map[string]string{"w": strings.Repeat("x", int(step)), "same": "same"})
		if _, err := f.dir.Export(context.Background(), store, key, step, "alloc-1"); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func damageBlob(t testing.TB, dir string, content string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err == nil && string(b) == content {
			err = errors.Join(os.Chmod(p, 0o600), os.WriteFile(p, []byte(content[1:]+"!"), 0o600))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnotherNodeContinuesFromTheStore(t *testing.T) {
	ctx := context.Background()
	store, _ := newStore(t)
	first := exported(t, store, 9, 10)
	second := newFixture(t)
	s, asides, err := second.dir.Resume(ctx, store, key)
	if err != nil || s.Step != 10 || len(asides) != 0 {
		t.Fatalf("Resume = %+v, %v, %v", s, asides, err)
	}
	a, _, _ := artifact.DigestOf(ctx, first.file("step-10"))
	b, _, _ := artifact.DigestOf(ctx, second.file("step-10"))
	if a != b || a == "" {
		t.Errorf("content differs: %s, %s", a, b)
	}
	if got, _ := second.newest(); got != 10 {
		t.Errorf("the imported step is not sealed here: Newest = %d", got)
	}
	if got, err := checkpoint.Exported(ctx, store, key); err != nil || !slices.Equal(got, []int64{9, 10}) {
		t.Errorf("Exported = %v, %v", got, err)
	}
}

func TestResumeTakesTheNewerOfBothPlaces(t *testing.T) {
	ctx := context.Background()
	store, dir := newStore(t)
	tests := map[string]struct {
		prepare func(f fixture)
		want    int64
		passed  int
	}{
		"here newer":                        {func(f fixture) { f.sealed(30, twoShards) }, 30, 0},
		"here older":                        {func(f fixture) { f.sealed(5, twoShards) }, 20, 0},
		"here newer but damaged":            {func(f fixture) { f.sealed(30, twoShards); f.write("step-30/shard-0", "") }, 20, 1},
		"here newer but not sealed":         {func(f fixture) { f.step(30, twoShards) }, 20, 1},
		"same step here, damaged":           {func(f fixture) { f.sealed(20, twoShards); f.write("step-20/shard-0", "") }, 20, 1},
		"store damaged, older here":         {func(f fixture) { f.sealed(15, twoShards); damageBlob(f.t, dir, strings.Repeat("x", 20)) }, 15, 1},
		"store damaged, older in the store": {func(f fixture) { damageBlob(f.t, dir, strings.Repeat("x", 20)) }, 10, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			exported(t, store, 10, 20)
			f := newFixture(t)
			tt.prepare(f)
			s, asides, err := f.dir.Resume(ctx, store, key)
			if err != nil || s.Step != tt.want || len(asides) != tt.passed {
				t.Errorf("Resume = %d, %v, %v; want %d and %d passed over", s.Step, asides, err, tt.want, tt.passed)
			}
			if _, err := f.dir.Verify(ctx, tt.want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAStoreThatFailsNeverMeansAStartFromTheBeginning(t *testing.T) {
	ctx := context.Background()
	store, dir := newStore(t)
	exported(t, store, 10)
	// The folder of records becomes a file: reading it fails, as of a machine.
	records := filepath.Join(dir, "records/checkpoints")
	if err := errors.Join(os.RemoveAll(records), os.Symlink("loop", filepath.Join(dir, "records/loop")), os.Symlink("loop", records)); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	if s, _, err := f.dir.Resume(ctx, store, key); err == nil || errors.Is(err, checkpoint.ErrNone) {
		t.Errorf("nothing here: Resume = %v, %v; want the store's error", s.Step, err)
	}
	f.sealed(3, twoShards)
	s, asides, err := f.dir.Resume(ctx, store, key)
	if err != nil || s.Step != 3 || len(asides) != 1 || asides[0].Step != -1 {
		t.Errorf("one here: Resume = %v, %v, %v", s.Step, asides, err)
	}
}

func TestExportRefusesWhatIsNotWhatWasSealed(t *testing.T) {
	ctx := context.Background()
	store, _ := newStore(t)
	f := newFixture(t)
	f.sealed(1, twoShards)
	f.write("step-1/shard-0", "weightz")
	if _, err := f.dir.Export(ctx, store, key, 1, ""); err == nil || !strings.Contains(err.Error(), "shard-0") {
		t.Errorf("changed step: %v", err)
	}
	f.step(2, twoShards)
	if _, err := f.dir.Export(ctx, store, key, 2, ""); err == nil {
		t.Error("exported a step that is not sealed")
	}
	if got, err := checkpoint.Exported(ctx, store, key); err != nil || len(got) != 0 {
		t.Errorf("Exported = %v, %v", got, err)
	}
}

func TestPruneExported(t *testing.T) {
	ctx := context.Background()
	store, _ := newStore(t)
	exported(t, store, 1, 2, 10, 9)
	if err := checkpoint.PruneExported(ctx, store, key, 2); err != nil {
		t.Fatal(err)
	}
	if got, err := checkpoint.Exported(ctx, store, key); err != nil || !slices.Equal(got, []int64{9, 10}) {
		t.Errorf("left %v, %v", got, err)
	}
}
