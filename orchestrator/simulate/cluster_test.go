package simulate

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// nodes are n nodes of so many GPUs of a model, with room for all else.
func nodes(n, gpus int, model string) []placement.Node {
	all := make([]placement.Node, n)
	for i := range all {
		all[i] = placement.Node{Name: model + "-" + string(rune('a'+i)), CPUMilli: 64_000, MemoryMiB: 1 << 18, GPUs: gpus, Model: model}
	}
	return all
}

// jobs are those of a trace without its header, a line each.
func jobs(t testing.TB, header string, lines ...string) []trace.Job {
	t.Helper()
	all, err := trace.ReadJobs("trace.csv", strings.NewReader(header+"\n"+strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// definitions are those of a file.
func definitions(t testing.TB, text string) *workspace.Definitions {
	t.Helper()
	d, diags := workspace.Parse(workspace.Source{Filename: "workspaces.hcl", Text: []byte(text)})
	for _, diag := range diags {
		if diag.Severity == hcl.DiagError {
			t.Fatal(diag)
		}
	}
	return &d
}

func run(t testing.TB, c Config) *Report {
	t.Helper()
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asJSON is a report as users get it.
func asJSON(t rapid.TB, r *Report) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
