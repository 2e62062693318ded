package jobspec_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// A job ID is fit for Nomad's URLs, a key for the store's folders.
var validID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Names that cleaning and cutting would make equal stay apart.
func TestAlikeNamesHaveDistinctIDs(t *testing.T) {
	long := strings.Repeat("x", 120)
	nodes := []pipeline.NodeID{
		"step.Train Model", "step.train_model", "step.train-model", "step.train.model", "step.TRAIN-MODEL",
		pipeline.NodeID("step." + long + strings.Repeat("a", 80)),
		pipeline.NodeID("step." + long + strings.Repeat("b", 80)),
		"step.digits", "sweep.digits", "endpoint.digits", // the pipeline is named so too
		"step.обучение", "step.训练", "step.訓練", "step.étape", "step.etape",
		`step.s["a"]`, `step.s["A"]`, `step.s["a "]`, `step.s["-"]`, `step.s[""]`, "step.s-a",
		"step.../../x", "step.%2e%2e",
	}
	seen := map[string]pipeline.NodeID{}
	for _, n := range nodes {
		id := jobspec.JobID("01j3k5m7n9pq", n, nil, 1)
		if !validID.MatchString(id) || len(id) > 120 {
			t.Errorf("%s has the invalid ID %q", n, id)
		}
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s share the ID %s", n, other, id)
		}
		seen[id] = n
	}
}

// These IDs must never change: an engine that restarts after an upgrade finds
// its jobs by them.
func TestIDsAreFixed(t *testing.T) {
	tests := []struct {
		node  pipeline.NodeID
		trial *int
		want  string
	}{
		{"step.train", nil, "drover-01j3k5m7n9pq-train-ahnncyja-2"},
		{`step.train["a b"]`, nil, "drover-01j3k5m7n9pq-train-a-b-6sfi5cxg-2"},
		{"sweep.search", new(3), "drover-01j3k5m7n9pq-search-svxeq3yy-t3-2"},
	}
	for _, test := range tests {
		if got := jobspec.JobID("01j3k5m7n9pq", test.node, test.trial, 2); got != test.want {
			t.Errorf("%s: got %s, want %s", test.node, got, test.want)
		}
	}
}

func TestKeys(t *testing.T) {
	id := jobspec.Identity{Run: "01j3k5m7n9pq", Node: "sweep.search", Trial: new(3), Attempt: 2}
	slug := jobspec.Slug("sweep.search")
	if got, want := id.ResultKey(), "01j3k5m7n9pq/"+slug+"/trial-3/2"; got != want {
		t.Errorf("the result key is %s, want %s", got, want)
	}
	if got, want := id.CheckpointKey(), "01j3k5m7n9pq/"+slug+"/trial-3"; got != want {
		t.Errorf("the checkpoint key is %s, want %s", got, want)
	}
	id.Trial = nil
	if got, want := id.ResultKey(), "01j3k5m7n9pq/"+slug+"/2"; got != want {
		t.Errorf("the result key is %s, want %s", got, want)
	}
}

func TestAnyTwoTasksHaveDistinctIDs(t *testing.T) {
	nodes := rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom([]string{"a", "A", "a_b", "a-b", "a.b", "é", "数", "x"}).Draw(t, "name")
		kind := rapid.SampledFrom([]string{"step", "sweep"}).Draw(t, "kind")
		key := rapid.SampledFrom([]string{"", `["a"]`, `["t1"]`, `["1"]`}).Draw(t, "key")
		return kind + "." + name + key
	})
	rapid.Check(t, func(t *rapid.T) {
		task := func(label string) (string, string) {
			node := pipeline.NodeID(nodes.Draw(t, label))
			attempt := rapid.IntRange(1, 12).Draw(t, label+" attempt")
			var trial *int
			if n := rapid.IntRange(-1, 12).Draw(t, label+" trial"); n >= 0 {
				trial = &n
			}
			what := fmt.Sprint(node, " ", attempt, " ", trial == nil)
			if trial != nil {
				what += fmt.Sprint(" ", *trial)
			}
			return what, jobspec.JobID("01j3k5m7n9pq", node, trial, attempt)
		}
		a, idA := task("a")
		b, idB := task("b")
		if (a == b) != (idA == idB) {
			t.Fatalf("%s is %s, %s is %s", a, idA, b, idB)
		}
	})
}

// serviceName is what Nomad takes for a service's name.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

func TestEndpointIDs(t *testing.T) {
	long := strings.Repeat("n", 40)
	tests := map[string]struct{ workspace, name, job, service string }{
		"plain":                   {"default", "digits", "drover-endpoint-default-digits", "drover-default-digits"},
		"dashes in the name":      {"a", "b-c", "drover-endpoint-a-b-c", "drover-a-b-c"},
		"dashes in the workspace": {"a-b", "c", "drover-endpoint-a-b-c-xj2chc7lvxv", "drover-a-b-c-xj2chc7lvxv"},
		"too long": {"workspace-of-thirty-two-letters-x", long,
			"drover-endpoint-workspace-of-thirty-two-letters-x-n-x", "drover-workspace-of-thirty-two-letters-x-nnnnnnnnnn-x"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			job, service := jobspec.EndpointJobID(tt.workspace, tt.name), jobspec.ServiceName(tt.workspace, tt.name)
			if !strings.HasPrefix(job, tt.job) || !strings.HasPrefix(service, tt.service) {
				t.Errorf("got %s and %s, want %s and %s", job, service, tt.job, tt.service)
			}
		})
	}
}

// No two endpoints share a job or a service, and Nomad takes all of them.
func TestEndpointIDsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters and many dashes: names that are easily mistaken.
		workspace := rapid.StringMatching(`[ab][ab-]{0,31}`)
		name := rapid.OneOf(rapid.StringMatching(`[ab]([ab-]{0,38}[ab])?`), rapid.StringMatching(`[ab]{0,3}-x[a-b2]{10}`).Filter(pipeline.ValidEndpointName))
		w1, n1 := workspace.Draw(t, "workspace"), name.Draw(t, "name")
		w2, n2 := workspace.Draw(t, "another workspace"), name.Draw(t, "another name")
		if rapid.Bool().Draw(t, "cut elsewhere") { // the same text, divided at another dash
			whole := w1 + "-" + n1
			i := rapid.IntRange(1, len(whole)-2).Draw(t, "where")
			if whole[i] == '-' && pipeline.ValidEndpointName(whole[i+1:]) {
				w2, n2 = whole[:i], whole[i+1:]
			}
		}
		for _, f := range []func(string, string) string{jobspec.EndpointJobID, jobspec.ServiceName} {
			x, y := f(w1, n1), f(w2, n2)
			if (x == y) != (w1 == w2 && n1 == n2) {
				t.Fatalf("endpoint %q of %q is %s, endpoint %q of %q is %s", n1, w1, x, n2, w2, y)
			}
			if !serviceName.MatchString(x) {
				t.Fatalf("Nomad does not take %q", x)
			}
		}
	})
}
