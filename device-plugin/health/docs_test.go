package health_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/health"
)

var update = flag.Bool("update", false, "rewrite the table in the documentation")

// TestDocumentedCodes compares the table in the documentation to the catalogue.
func TestDocumentedCodes(t *testing.T) {
	const path = "../../docs/gpu-health.md"
	const start, end = "-update -->\n", "<!-- end of codes -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), start)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the codes", path)
	}
	want := documentedCodes()
	if *update {
		if err := os.WriteFile(path, []byte(before+start+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
	for _, s := range health.Signals() {
		if !strings.Contains(string(page), "`"+string(s)+"`") {
			t.Errorf("%s does not tell of the signal %s", path, s)
		}
	}
}

func documentedCodes() string {
	var b strings.Builder
	var unused []string
	b.WriteString("\n| Xid | Meaning | Class | NVIDIA advises | Severity | Action | Concerns |\n|---|---|---|---|---|---|---|\n")
	for _, x := range health.Catalogue() {
		if x.Class == health.Unused {
			unused = append(unused, fmt.Sprint(x.Code))
			continue
		}
		concerns := "GPU"
		if x.InSlice {
			concerns = "slice"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s | %s |\n", x.Code, x.Meaning, x.Class, x.Resolution, x.Default.Severity, x.Default.Action, concerns)
	}
	fmt.Fprintf(&b, "\nCodes that no driver of today is known to report, all `degraded`: %s.\n\n", strings.Join(unused, ", "))
	return b.String()
}
