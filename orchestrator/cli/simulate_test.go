package cli_test

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/orchestrator/cli"
)

// TestSimulationDoc runs what docs/simulation.md shows: files that it prints with
// cat, and commands with what they answer.
func TestSimulationDoc(t *testing.T) {
	doc, err := os.ReadFile("../../docs/simulation.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	ran := 0
	for _, block := range regexp.MustCompile(`(?m)(?:^    .*\n|^\n)+`).FindAllString(string(doc), -1) {
		block = strings.ReplaceAll("\n"+block, "\n    ", "\n")
		for _, part := range strings.Split(block, "\n$ ")[1:] {
			command, want, _ := strings.Cut(part, "\n")
			want = strings.TrimSpace(want) + "\n"
			if name, ok := strings.CutPrefix(command, "cat "); ok {
				if err := os.WriteFile(name, []byte(want), 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			ran++
			var out bytes.Buffer
			cli.Main(t.Context(), strings.Fields(command)[1:], cli.IO{Out: &out, Err: &out})
			if diff := cmp.Diff(want, out.String()); diff != "" {
				t.Errorf("%s (-shown +got):\n%s", command, diff)
			}
		}
	}
	if ran < 2 {
		t.Errorf("%d commands ran", ran)
	}
}
