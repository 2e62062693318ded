package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/lab"
	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/run"
)

// onEach runs a test on the devcluster and on a real Nomad.
func onEach(t *testing.T, test func(t *testing.T, c lab.Cluster)) {
	t.Run("devcluster", func(t *testing.T) { test(t, lab.NewDevcluster(t, bin)) })
	t.Run("nomad", func(t *testing.T) {
		path, err := exec.LookPath("nomad")
		if err != nil {
			t.Skip("skipped on real Nomad: no nomad binary on the PATH")
		}
		if os.Geteuid() != 0 {
			t.Skip("skipped on real Nomad: its client needs root")
		}
		test(t, lab.NewNomad(t, path, bin))
	})
}

// submit submits the test pipeline and returns the run's ID and the folder
// with its marks.
func submit(t *testing.T, p *lab.Platform, vars ...string) (run.ID, string) {
	t.Helper()
	// Tasks may run as another user.
	marks, err := os.MkdirTemp(p.Dir, "marks")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "-detach", "-json", "-no-cache", "-var", "marks=" + marks}
	for _, v := range vars {
		args = append(args, "-var", v)
	}
	out, code := p.CLI(append(args, "testdata/pipeline.hcl")...)
	var r run.Run
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("submitting: exit code %d, %v: %s", code, err, out)
	}
	return r.ID, marks
}

// outputs are the digests of everything that a run produced.
func outputs(r run.Run) map[string]string {
	m := map[string]string{}
	for _, n := range r.Nodes {
		for name, o := range n.Outputs {
			m[string(n.ID)+"."+name] = o.Digest
		}
		if n.Best != nil {
			m[string(n.ID)+".best"] = fmt.Sprint(n.Trials[*n.Best].Params)
		}
	}
	return m
}

func sameOutputs(t *testing.T, got, want run.Run) {
	t.Helper()
	if g, w := outputs(got), outputs(want); !maps.Equal(g, w) {
		t.Errorf("outputs differ from those of an undisturbed run:\ngot  %v\nwant %v", g, w)
	}
}

// starts are the lines that the starts of a step's tasks left.
func starts(t *testing.T, marks, step string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(marks, "starts"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, step+" ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// startedOnce fails if any task of the test pipeline was started other than
// once, but for those in except.
func startedOnce(t *testing.T, marks string, except ...string) {
	t.Helper()
	want := map[string]int{
		"step.first": 1, `step.branch["left"]`: 1, `step.branch["right"]`: 1,
		"sweep.search": 3, "step.train": 1, "step.evaluate": 1, "step.goodbye": 1,
	}
	for step, n := range want {
		if slices.Contains(except, step) {
			continue
		}
		if lines := starts(t, marks, step); len(lines) != n {
			t.Errorf("%s was started %d times, want %d: %q", step, len(lines), n, lines)
		}
	}
}

// storedCheckpoint is a checkpoint in the store.
type storedCheckpoint struct {
	step   int
	digest artifact.Digest
}

// storedCheckpoints are those of the run's training, newest first.
func storedCheckpoints(t *testing.T, c lab.Cluster, id run.ID) []storedCheckpoint {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(c.StoreDir(), "records", "checkpoints", string(id), "*", "step-*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var found []storedCheckpoint
	for _, name := range records {
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // pruned meanwhile
		}
		var r mltask.CheckpointRecord
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, storedCheckpoint{int(r.Step), artifact.Digest(r.Digest)})
	}
	slices.SortFunc(found, func(a, b storedCheckpoint) int { return b.step - a.step })
	return found
}

// weights is the file with a checkpoint's weights, in the store.
func weights(t *testing.T, c lab.Cluster, s storedCheckpoint) string {
	t.Helper()
	store, err := artifact.Open(c.Store())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m, err := store.Manifest(context.Background(), s.digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.Files {
		if e.Path == "weights" {
			return filepath.Join(c.StoreDir(), "blobs", "sha256", e.SHA256[:2], e.SHA256)
		}
	}
	t.Fatalf("checkpoint %d has no weights: %+v", s.step, m)
	return ""
}

func flipByte(t *testing.T, c lab.Cluster, s storedCheckpoint) {
	t.Helper()
	name := weights(t, c, s)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.Chmod(name, 0o600), os.WriteFile(name, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, c lab.Cluster, s storedCheckpoint) {
	t.Helper()
	name := weights(t, c, s)
	if err := errors.Join(os.Chmod(name, 0o600), os.Truncate(name, 1000)); err != nil {
		t.Fatal(err)
	}
}

// checkpointed waits until the store has a checkpoint of the run's training of
// step n or later.
func checkpointed(t *testing.T, c lab.Cluster, id run.ID, n int) {
	t.Helper()
	lab.Eventually(t, fmt.Sprintf("checkpoint %d in the store", n), func() string {
		stored := storedCheckpoints(t, c, id)
		if len(stored) == 0 {
			return "there is none"
		}
		if stored[0].step < n {
			return fmt.Sprintf("the newest is %d", stored[0].step)
		}
		return ""
	})
}
