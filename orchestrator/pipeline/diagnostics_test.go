package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares got with a file under testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// Each file under testdata/bad gets every problem at once, as its .txt shows.
func TestBadFilesGetEveryProblem(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".hcl"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, diags := pipeline.Parse(name, src, pipeline.Options{})
			if p != nil || !diags.HasErrors() {
				t.Fatal("the file was accepted")
			}
			for _, d := range diags {
				if d.Subject == nil || d.Subject.Start.Line < 1 || d.Subject.Start.Column < 1 || d.Detail == "" {
					t.Errorf("%q has no place or no detail", d.Summary)
				}
			}
			var out bytes.Buffer
			sources := map[string][]byte{name: src}
			if err := pipeline.WriteDiagnostics(&out, diags, sources, false, 100); err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimPrefix(strings.TrimSuffix(file, ".hcl"), "testdata/")+".txt", out.Bytes())
		})
	}
}

func TestMissingPathsAreReported(t *testing.T) {
	src := []byte(`pipeline "p" {}
dataset "digits" { path = "data/digits.csv" }
step "train" {
  code    = "src"
  command = ["x"]
}
`)
	_, diags := pipeline.Parse("p.hcl", src, pipeline.Options{
		Check: func(path string, _ bool) error { return errors.New(path + " does not exist") },
	})
	var got []string
	for _, d := range diags {
		got = append(got, d.Subject.String()+" "+d.Summary+": "+d.Detail)
	}
	want := []string{
		"p.hcl:2,27-44 Dataset not found: data/digits.csv does not exist. Paths are relative to the folder of this file.",
		"p.hcl:4,13-18 Code not found: src does not exist. Paths are relative to the folder of this file.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPinnedDatasetThatChangedIsReported(t *testing.T) {
	pin, now := digestOf("a"), digestOf("b")
	src := []byte(`pipeline "p" {}
dataset "d" {
  path   = "d"
  sha256 = "` + pin + `"
}
`)
	parse := func(found string) bool {
		_, diags := pipeline.Parse("p.hcl", src, pipeline.Options{
			Sources: func(string) (string, bool) { return found, true },
		})
		return diags.HasErrors()
	}
	if parse(pin) {
		t.Error("the pinned data was refused")
	}
	if !parse(now) {
		t.Error("changed data was accepted")
	}
}

func TestHostileBytes(t *testing.T) {
	deep := func(open, closing string) string {
		return "pipeline \"p\" {}\nlocals { x = " + strings.Repeat(open, 200_000) + "1" + strings.Repeat(closing, 200_000) + " }\n"
	}
	locals := func(n int, open, closing string) string {
		var b strings.Builder
		b.WriteString("pipeline \"p\" {}\nlocals {\n")
		for i := range n {
			fmt.Fprintf(&b, " l%d = %slocal.l%d%s\n", i, open, i+1, closing)
		}
		fmt.Fprintf(&b, " l%d = true\n}\n", n)
		return b.String()
	}
	tests := []struct {
		name, src, want string
	}{
		{"locals in a row", locals(200, "", ""), "Nested too deeply"},
		{"too large", strings.Repeat("#", 4<<20+1), "File too large"},
		{"NUL", "pipeline \"p\" {}\n# a\x00b", "NUL byte"},
		{"Latin-1", "pipeline \"p\" {}\n# caf\xe9", "Not UTF-8"},
		{"parentheses", deep("(", ")"), "Nested too deeply"},
		{"brackets", deep("[", "]"), "Nested too deeply"},
		{"braces", deep("{a=", "}"), "Nested too deeply"},
		{"templates", deep(`"${`, `}"`), "Nested too deeply"},
		{"negations", deep("!", ""), "Nested too deeply"},
		{"sums", deep("1+", ""), "Nested too deeply"},
		{"conditions", deep("true?1:", ""), "Nested too deeply"},
		{"indexes", deep("a", "[0]"), "Nested too deeply"},
		{"blocks", strings.Repeat("a {\n", 200_000), "Nested too deeply"},
		{"heredoc", "locals {\n x = <<E\n" + strings.Repeat("${<<F\n", 200_000) + "E\n}\n", "Nested too deeply"},
		{"template ifs", deep("\"%{ if true }", ""), "Nested too deeply"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, diags := pipeline.Parse("p.hcl", []byte(test.src), pipeline.Options{})
			if p != nil || !diags.HasErrors() {
				t.Fatal("accepted")
			}
			if got := diags[0].Summary; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// The deepest file that is accepted leaves the stack room to spare: Go ends the
// process at 1 GB.
func TestDeepestFile(t *testing.T) {
	defer debug.SetMaxStack(debug.SetMaxStack(256 << 20))
	for _, nesting := range [][2]string{{"!", ""}, {"(", ")"}, {"[", "][0]"}, {"{a=", "}.a"}, {"\"${", "}\" == \"true\""}, {"max(1,", ")"}, {"true ? ", " : 1"}} {
		var b strings.Builder
		b.WriteString("pipeline \"p\" {}\nlocals {\n")
		times := 480 / (len(nesting[0]) + len(nesting[1]))
		for i := range 99 {
			fmt.Fprintf(&b, " l%d = %slocal.l%d%s\n", i, strings.Repeat(nesting[0], times), i+1, strings.Repeat(nesting[1], times))
		}
		b.WriteString(" l99 = true\n}\n")
		_, diags := pipeline.Parse("p.hcl", []byte(b.String()), pipeline.Options{})
		for _, d := range diags {
			if d.Summary == "Nested too deeply" {
				t.Errorf("%s…%s: refused: %s", nesting[0], nesting[1], d.Detail)
			}
		}
	}
}

func TestDiagnosticsKeepControlCharactersFromTheTerminal(t *testing.T) {
	src := []byte("pipeline \"p\" {}\nstep \"\u202ea\x1b[2J\" {\n\tcommand = [\"x\"]\n}\n")
	_, diags := pipeline.Parse("p.hcl", src, pipeline.Options{})
	var out bytes.Buffer
	if err := pipeline.WriteDiagnostics(&out, diags, map[string][]byte{"p.hcl": src}, false, 80); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.ContainsAny(text, "\x1b\u202e\t") {
		t.Errorf("control characters in %q", text)
	}
}

func TestDescribeGivesPlaces(t *testing.T) {
	src := []byte("pipeline \"p\" {}\nstep \"a\" { comand = [1] }\n")
	_, diags := pipeline.Parse("p.hcl", src, pipeline.Options{})
	got, err := json.Marshal(pipeline.Describe(diags[:1], map[string][]byte{"p.hcl": src}))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"severity":"error","summary":"Unknown attribute","detail":"A step has no attribute \"comand\". Did you mean \"command\"?","file":"p.hcl",` +
		`"start":{"line":2,"column":12},"end":{"line":2,"column":18},"snippet":"step \"a\" { comand = [1] }"}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
