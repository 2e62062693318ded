package mig

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocs checks the documentation's table against the models.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/gpu-mig.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range Models() {
		var profiles []string
		for _, p := range m.Profiles {
			profiles = append(profiles, fmt.Sprintf("%s (%d)", p.Name, p.Max))
		}
		row := fmt.Sprintf(" | %d | %s |", m.Slots, strings.Join(profiles, ", "))
		found := false
		for line := range strings.Lines(string(page)) {
			names, _ := strings.CutSuffix(line, row+"\n")
			if names == line {
				continue
			}
			for name := range strings.SplitSeq(strings.TrimPrefix(names, "| "), ", ") {
				found = found || name == m.Name
			}
		}
		if !found {
			t.Errorf("no row has %s with%s", m.Name, row)
		}
	}
}
