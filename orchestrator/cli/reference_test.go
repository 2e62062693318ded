package cli_test

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/drover-ml/drover/orchestrator/cli"
)

// TestReference keeps the end of docs/cli.md equal to what -help says.
func TestReference(t *testing.T) {
	const file, marker = "../../docs/cli.md", "-update -->\n"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, got, ok := strings.Cut(string(doc), marker)
	if !ok {
		t.Fatalf("%s has no line that ends in %q", file, marker)
	}
	var want strings.Builder
	writeReference(t, &want, nil)
	if *update {
		if err := os.WriteFile(file, []byte(before+marker+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want.String() {
		t.Errorf("%s is not what -help says; go test ./orchestrator/cli -run TestReference -update writes it anew", file)
	}
}

var commandLine = regexp.MustCompile(`(?m)^  ([a-z-]+) {2,}[A-Z]`)

// writeReference writes a command's help and that of all commands below it.
func writeReference(t *testing.T, b *strings.Builder, path []string) {
	t.Helper()
	text := help(t, path)
	if len(path) > 0 {
		text, _, _ = strings.Cut(text, "\nGeneral options\n") // the first one has them
	}
	b.WriteString("\n### " + strings.Join(append([]string{"drover"}, path...), " ") + "\n\n```\n" + strings.TrimSpace(text) + "\n```\n")
	text, _, _ = strings.Cut(text, "\nOptions\n")
	if !strings.Contains(text, " COMMAND ") {
		return
	}
	for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
		writeReference(t, b, append(append([]string{}, path...), m[1]))
	}
}

func help(t *testing.T, path []string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code := cli.Main(context.Background(), append(append([]string{}, path...), "-help"), cli.IO{Out: &out, Err: &errs})
	if code != 0 {
		t.Fatalf("drover %s -help: exit code %d: %s", strings.Join(path, " "), code, errs.String())
	}
	return out.String()
}
