package workspace

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

var update = flag.Bool("update", false, "write the expected problems anew")

func read(t *testing.T, src string) Definitions {
	t.Helper()
	d, diags := Parse(Source{"w.hcl", []byte(src)})
	if len(diags) > 0 {
		t.Fatalf("%v", diags)
	}
	return d
}

// Each file of testdata/bad has something wrong with it; what is said about it is
// beside it.
func TestProblemsOfFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(file)
			_, diags := Parse(Source{name, src})
			if len(diags) == 0 {
				t.Fatal("nothing is said")
			}
			var got bytes.Buffer
			if err := pipeline.WriteDiagnostics(&got, diags, map[string][]byte{name: src}, false, 0); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".hcl") + ".txt"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAmountsAreExact(t *testing.T) {
	tests := map[string]struct {
		text string
		want queue.Amount
		err  string
	}{
		"whole":            {"8", 8000, ""},
		"thousandths":      {"0.125", 125, ""},
		"no binary number": {"0.1", 100, ""},
		"text":             {`"2.5"`, 2500, ""},
		"a sum":            {"0.1 + 0.2", 300, ""},
		"a product":        {"4 * 8", 32000, ""},
		"exponent":         {"1e3", 1_000_000, ""},
		"the most":         {"1099511627.776", queue.MaxAmount, ""},
		"more":             {"1099511627.777", 0, "Amount too large"},
		"much more":        {"1e99999999", 0, "Amount too large"},
		"negative":         {"-1", 0, "Negative amount"},
		"negative zero":    {"-0", 0, ""},
		"four decimals":    {"0.1234", 0, "Invalid amount"},
		"a third":          {"1/3", 0, "Invalid amount"},
		"nearly nothing":   {"1e-99999999", 0, "Invalid amount"},
		"divided by zero":  {"1/0", 0, "Amount too large"},
		"text of nothing":  {`"eight"`, 0, "Wrong type"},
		"null":             {"null", 0, "Wrong type"},
		"a list":           {"[8]", 0, "Wrong type"},
		"a name":           {"eight", 0, "Variables not allowed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d, diags := Parse(Source{"w.hcl", []byte("workspace \"w\" {\n  quota \"cpu\" { nominal = " + test.text + " }\n}\n")})
			if test.err != "" {
				if !diags.HasErrors() || diags[0].Summary != test.err || diags[0].Subject.Start.Line != 2 {
					t.Errorf("%v; want %s in line 2", diags, test.err)
				}
				return
			}
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			if got := queue.Amount(d.Workspaces[0].Quotas[CPU].Nominal); got != test.want {
				t.Errorf("%d thousandths, want %d", got, test.want)
			}
		})
	}
}

func TestFilesAreOne(t *testing.T) {
	a := Source{"a.hcl", []byte("cohort \"c\" {}\nworkspace \"w\" { cohort = \"nope\" }\n")}
	b := Source{"b.hcl", []byte("workspace \"v\" { cohort = \"c\" }\nworkspace \"w\" {}\n")}
	_, diags := Parse(a, b)
	if len(diags) != 2 || diags[0].Subject.Filename != "a.hcl" || diags[1].Subject.Filename != "b.hcl" || diags[1].Summary != "Duplicate workspace" {
		t.Errorf("%v; want the unknown cohort in a.hcl, and the duplicate in b.hcl", diags)
	}
}

func TestExportParsesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := definitions(t)
		for _, p := range d.Check() {
			if !p.Warning {
				t.Fatalf("the definitions drawn are wrong: %s", p)
			}
		}
		text := d.Export()
		back, diags := Parse(Source{"w.hcl", text})
		if diags.HasErrors() {
			t.Fatalf("%v in\n%s", diags, text)
		}
		if diff := cmp.Diff(d.canonical(), back); diff != "" {
			t.Fatalf("(-drawn +back)\n%s\n%s", diff, text)
		}
		if again := back.Export(); !bytes.Equal(text, again) {
			t.Fatalf("exported\n%s\nand then\n%s", text, again)
		}
	})
}

func TestJSONReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := definitions(t)
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var back Definitions
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, back); diff != "" {
			t.Fatalf("(-drawn +back)\n%s\n%s", diff, b)
		}
	})
}

// FuzzParse looks for files that make parsing, or what comes after, panic, or
// that the queue refuses though nothing was said.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "testdata/whole.hcl") {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		d, diags := Parse(Source{"w.hcl", src})
		pipeline.Describe(diags, map[string][]byte{"w.hcl": src})
		if diags.HasErrors() {
			return
		}
		back, diags := Parse(Source{"w.hcl", d.Export()})
		if diags.HasErrors() || len(Diff(d, back)) > 0 {
			t.Fatalf("%v\n%s", diags, d.Export())
		}
		opens(t, d, noon, Seen{Workspaces: []string{"someone"}})
	})
}

func TestThereMayBeSoMany(t *testing.T) {
	tests := map[string]struct {
		text string
		line int
	}{
		"flavors":    {strings.Repeat("flavor \"f\" {}\n", maxFlavors+1), 0},
		"workspaces": {strings.Repeat("workspace \"w\" {}\n", maxWorkspaces+1), 0},
		"pools":      {"workspace \"w\" {\n  node_pools = [" + strings.Repeat(`"p",`, maxPools+1) + "]\n}\n", 2},
		"schedules":  {"cohort \"c\" {\n" + strings.Repeat("  schedule \"s\" {}\n", maxSchedules+1) + "}\n", 1},
		"bytes":      {strings.Repeat("#", maxSourceBytes+1), 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, diags := Parse(Source{"w.hcl", []byte(test.text)})
			if len(diags) != 1 || !strings.HasPrefix(diags[0].Summary, "Too many") && diags[0].Summary != "File too large" {
				t.Fatalf("%d problems: %v", len(diags), diags[0])
			}
			if at := diags[0].Subject; test.line > 0 && (at == nil || at.Start.Line != test.line) {
				t.Errorf("it is said of %v, want line %d", at, test.line)
			}
		})
	}
}
