package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-ml/drover/task-driver/checkpoint"
)

// fixture is a checkpoint folder as a task and its supervisor make it.
type fixture struct {
	t    testing.TB
	path string
	dir  *checkpoint.Dir
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	path := t.TempDir()
	d, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return fixture{t, path, d}
}

func (f fixture) file(elem ...string) string {
	return filepath.Join(append([]string{f.path}, elem...)...)
}

func (f fixture) write(name, content string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.file(name)), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(f.file(name), []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) step(step int64, files map[string]string) {
	f.t.Helper()
	name := fmt.Sprintf("step-%d", step)
	for file, content := range files {
		f.write(name+".tmp/"+file, content)
	}
	if err := os.Rename(f.file(name+".tmp"), f.file(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f fixture) sealed(step int64, files map[string]string) {
	f.t.Helper()
	f.step(step, files)
	if _, err := f.dir.Seal(context.Background(), step); err != nil {
		f.t.Fatal(err)
	}
}

// newest is the step that Newest finds, -1 for none, and why others were not.
func (f fixture) newest() (int64, map[int64]string) {
	f.t.Helper()
	s, asides, err := f.dir.Newest(context.Background())
	reasons := map[int64]string{}
	for _, a := range asides {
		reasons[a.Step] = a.Reason
	}
	if errors.Is(err, checkpoint.ErrNone) {
		return -1, reasons
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Step, reasons
}

var twoShards = map[string]string{"shard-0": "weights", "opt/shard-1": "momentum"}

func TestNewestPassesOverWhatIsNotWhole(t *testing.T) {
	tests := map[string]struct {
		damage func(f fixture) error
		reason string
	}{
		"shard emptied":  {func(f fixture) error { return os.Truncate(f.file("step-200/shard-0"), 0) }, `"shard-0" has 0 bytes, 7 were sealed`},
		"shard short":    {func(f fixture) error { return os.Truncate(f.file("step-200/shard-0"), 3) }, `"shard-0" has 3 bytes, 7 were sealed`},
		"shard changed":  {func(f fixture) error { return os.WriteFile(f.file("step-200/shard-0"), []byte("weightz"), 0) }, `"shard-0" changed`},
		"shard missing":  {func(f fixture) error { return os.Remove(f.file("step-200/shard-0")) }, `"shard-0" is missing`},
		"shard added":    {func(f fixture) error { return os.WriteFile(f.file("step-200/more"), nil, 0o600) }, `"more" was added`},
		"shard a link":   {func(f fixture) error { return replaceByLink(f.file("step-200/shard-0"), "opt/shard-1") }, "another kind"},
		"step missing":   {func(f fixture) error { return os.RemoveAll(f.file("step-200")) }, ""},
		"step a link":    {func(f fixture) error { return replaceByLink(f.file("step-200"), "step-100") }, "symbolic link"},
		"seal missing":   {func(f fixture) error { return os.Remove(f.file("step-200.seal")) }, "not sealed"},
		"seal empty":     {func(f fixture) error { return os.Truncate(f.file("step-200.seal"), 0) }, "seal is damaged"},
		"seal of other":  {func(f fixture) error { return os.Rename(f.file("step-100.seal"), f.file("step-200.seal")) }, "seal is of step 100"},
		"seal a folder":  {func(f fixture) error { return replaceByDir(f.file("step-200.seal")) }, "directory"},
		"folder removed": {func(f fixture) error { return os.RemoveAll(f.file("step-200/opt")) }, `"opt/shard-1" is missing`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.sealed(50, twoShards)
			f.sealed(100, twoShards)
			f.sealed(200, twoShards)
			f.write("step-300.tmp/shard-0", "half")
			if err := tt.damage(f); err != nil {
				t.Fatal(err)
			}
			want := int64(100)
			if name == "seal of other" {
				want = 50
			}
			got, reasons := f.newest()
			if got != want || !strings.Contains(reasons[200], tt.reason) {
				t.Errorf("Newest = %d, %v; want %d, with %q", got, reasons, want, tt.reason)
			}
			if _, err := os.Lstat(f.file("step-300.tmp")); err == nil {
				t.Error("an unfinished write was left")
			}
			if tt.reason != "" {
				note, err := os.ReadFile(f.file("set-aside/step-200.json"))
				if _, lerr := os.Lstat(f.file("set-aside/step-200")); lerr != nil || err != nil || !strings.Contains(string(note), `"step":200`) {
					t.Errorf("not set aside with a note: %v, %v, %s", lerr, err, note)
				}
			}
			// Once set aside, the name is free and the answer stays.
			f.sealed(200, twoShards)
			if got, reasons := f.newest(); got != 200 || len(reasons) != 0 && name != "seal of other" {
				t.Errorf("after writing it again: %d, %v", got, reasons)
			}
		})
	}
}

func replaceByLink(name, target string) error {
	return errors.Join(os.RemoveAll(name), os.Symlink(target, name))
}

func replaceByDir(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o700)) }

func TestAnyFlippedByteOrTruncationIsFound(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	f.sealed(100, twoShards)
	f.sealed(200, twoShards)
	for _, name := range []string{"step-200/shard-0", "step-200/opt/shard-1", "step-200.seal"} {
		whole, err := os.ReadFile(f.file(name))
		if err != nil {
			t.Fatal(err)
		}
		check := func(how string, content []byte) {
			t.Helper()
			if err := os.WriteFile(f.file(name), content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := f.dir.Verify(ctx, 200)
			// Of the seal, spaces and the time are free: then what it vouches
			// for must still be what is there.
			if err == nil && (!strings.HasSuffix(name, ".seal") || s.Bytes() != 15) {
				t.Errorf("%s of %s was not found", how, name)
			}
		}
		for i := range whole {
			check(fmt.Sprintf("truncation to %d", i), whole[:i])
			for bit := range 8 {
				flipped := slices.Clone(whole)
				flipped[i] ^= 1 << bit
				check(fmt.Sprintf("flip of bit %d of byte %d", bit, i), flipped)
			}
		}
		if err := os.WriteFile(f.file(name), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.dir.Verify(ctx, 200); err != nil {
			t.Fatalf("restored: %v", err)
		}
	}
}

func TestStepsAreOrderedAsNumbers(t *testing.T) {
	f := newFixture(t)
	for step := int64(0); step <= 1_080_000; step += 40_000 {
		f.write(fmt.Sprintf("step-%d", step), "x")
		if _, err := f.dir.Seal(context.Background(), step); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := f.newest(); got != 1_080_000 {
		t.Errorf("Newest = %d, want 1080000", got)
	}
	removed, err := f.dir.Prune(3)
	if err != nil || len(removed) != 25 || removed[0] != 0 || removed[24] != 960_000 {
		t.Errorf("Prune = %v, %v", removed, err)
	}
	found, err := f.dir.Scan()
	if err != nil || !slices.Equal(found.Sealed, []int64{1_000_000, 1_040_000, 1_080_000}) {
		t.Errorf("left: %v, %v", found, err)
	}
	if names, _ := os.ReadDir(f.path); len(names) != 6 {
		t.Errorf("files left: %v", names)
	}
}

func TestScan(t *testing.T) {
	f := newFixture(t)
	f.sealed(9, twoShards)
	f.step(10, twoShards)
	f.write("step-8", "a plain file")
	for _, name := range []string{
		"step-11.tmp/x", "step-007", "step--1", "step-", "step-x", "step-1e3", "step-9223372036854775808",
		"step-12.bad", "notes.txt", "step-13.seal", ".drover-step-9.seal",
	} {
		f.write(name, "")
	}
	found, err := f.dir.Scan()
	if err != nil {
		t.Fatal(err)
	}
	wantOdd := []string{"step-", "step--1", "step-007", "step-12.bad", "step-1e3", "step-9223372036854775808", "step-x"}
	if !slices.Equal(found.Sealed, []int64{9}) || !slices.Equal(found.Unsealed, []int64{8, 10}) || !slices.Equal(found.Odd, wantOdd) {
		t.Errorf("Scan = %+v", found)
	}
}

func TestSealIsIdempotentAndOfPlainFilesToo(t *testing.T) {
	ctx := context.Background()
	f := newFixture(t)
	f.write("step-5", "weights")
	first, err := f.dir.Seal(ctx, 5)
	if err != nil || first.Bytes() != 7 {
		t.Fatalf("Seal = %+v, %v", first, err)
	}
	second, err := f.dir.Seal(ctx, 5)
	if err != nil || !second.SealedAt.Equal(first.SealedAt) {
		t.Errorf("sealed again: %+v, %v", second, err)
	}
	if _, err := f.dir.Seal(ctx, 6); err == nil {
		t.Error("sealed a step that is not there")
	}
	if f.dir.Path(5) != f.file("step-5") {
		t.Errorf("Path = %s", f.dir.Path(5))
	}
}

func TestNothingToResume(t *testing.T) {
	f := newFixture(t)
	if got, _ := f.newest(); got != -1 {
		t.Errorf("Newest of an empty folder = %d", got)
	}
	f.step(1, twoShards)
	got, reasons := f.newest()
	if got != -1 || !strings.Contains(reasons[1], "not sealed") {
		t.Errorf("Newest = %d, %v", got, reasons)
	}
}

func TestSetAsideIsBounded(t *testing.T) {
	f := newFixture(t)
	for range 5 {
		f.step(1, twoShards)
		f.newest()
	}
	if _, err := f.dir.Prune(2); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(f.file("set-aside")); len(left) != 4 {
		t.Errorf("left %v, want two steps and their notes", left)
	}
}

func TestLinksLeadNobodyElsewhere(t *testing.T) {
	f := newFixture(t)
	outside := t.TempDir()
	f.sealed(1, twoShards)
	f.step(2, twoShards)
	for _, name := range []string{"set-aside", ".drover-step-3.seal", "step-2.seal"} {
		if err := os.Symlink(outside, f.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(f.path, filepath.Join(outside, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Open(filepath.Join(outside, "link")); err == nil {
		t.Error("opened a folder by a link")
	}
	if err := os.Remove(filepath.Join(outside, "link")); err != nil {
		t.Fatal(err)
	}
	if got, _ := f.newest(); got != 1 {
		t.Errorf("Newest = %d, want 1", got)
	}
	f.sealed(3, twoShards)
	if _, err := f.dir.Prune(1); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("written outside: %v", left)
	}
}

func FuzzParseSeal(f *testing.F) {
	fix := newFixture(f)
	fix.sealed(7, twoShards)
	good, err := os.ReadFile(fix.file("step-7.seal"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"step":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := checkpoint.ParseSeal(data, 7)
		if err != nil {
			return
		}
		if d, err := s.Manifest.Digest(); err != nil || d != s.Digest || s.Step != 7 {
			t.Errorf("accepted a seal that does not agree with itself: %+v", s)
		}
	})
}
