package pipeline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// FuzzParse looks for files that make parsing, or what comes after, panic, or
// that are refused without a reason.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../examples/digits/pipeline.hcl") {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("pipeline \"p\" {}\n" + upstream))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, diags := pipeline.Parse("p.hcl", src, pipeline.Options{
			Sources: func(path string) (string, bool) { return digestOf(path), true },
		})
		if (p == nil) != diags.HasErrors() {
			t.Fatalf("a pipeline is there: %v; errors: %v", p != nil, diags)
		}
		var out bytes.Buffer
		if err := pipeline.WriteDiagnostics(&out, diags, map[string][]byte{"p.hcl": src}, true, 80); err != nil {
			t.Fatal(err)
		}
		pipeline.Describe(diags, map[string][]byte{"p.hcl": src})
		if p == nil {
			return
		}
		if err := pipeline.WriteGraph(&out, p); err != nil {
			t.Fatal(err)
		}
		r := pipeline.Results{}
		for _, n := range p.Nodes {
			for _, id := range n.DependsOn {
				if _, ended := r[id]; !ended && !n.OnExit {
					t.Fatalf("%s comes before %s, which it depends on", n.ID, id)
				}
			}
			if runs, _ := n.When(r); runs {
				if task, diags := n.Resolve(r); !diags.HasErrors() {
					task.CacheKey(n.Kind)
				}
				if n.Sweep != nil && n.Sweep.Size() <= 100 {
					if _, diags := n.Trials(r); !diags.HasErrors() {
						n.SkipReason(r)
					}
				}
			}
			r[n.ID] = succeeded(map[string]float64{"loss": 1})
		}
	})
}

// FuzzParseVarFile looks for files of variables that make it panic, and for
// values that do not come through.
func FuzzParseVarFile(f *testing.F) {
	f.Add([]byte("a = 1\nb = \"x\"\nc = [1, { d = null }]\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		values, diags := pipeline.ParseVarFile("v.hcl", src)
		if diags.HasErrors() {
			return
		}
		for name, value := range values {
			p, diags := pipeline.Parse("p.hcl", []byte("pipeline \"p\" {}\nvariable \"v\" { type = any }\n"),
				pipeline.Options{Vars: map[string]string{"v": value}})
			if diags.HasErrors() {
				t.Fatalf("%s = %q: %v", name, value, diags)
			}
			if p.Variables["v"] != value {
				t.Fatalf("%s is %v, not %q", name, p.Variables["v"], value)
			}
		}
	})
}
