package workspace

import (
	"os"
	"strings"
	"testing"
)

// The reference's files are right, and it names every block and attribute, each
// in the section of its block.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../../docs/quotas.md")
	if err != nil {
		t.Fatal(err)
	}
	pieces := strings.Split(string(text), "```hcl\n")
	for _, piece := range pieces[1:] {
		src, _, _ := strings.Cut(piece, "```")
		read(t, src)
	}
	for kind, attrs := range attributes {
		_, section, found := strings.Cut(string(text), "\n### "+kind+"\n")
		if !found {
			t.Errorf("there is no section on %s", kind)
		}
		section, _, _ = strings.Cut(section, "\n### ")
		for _, a := range attrs {
			name, required := strings.CutSuffix(a, "!")
			line := lineWith(section, "`"+name+"`")
			if line == "" || required != strings.HasSuffix(line, "| **required** |") {
				t.Errorf("%s of a %s (required: %v) is told so: %q", name, kind, required, line)
			}
		}
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| `") && strings.Contains(line, part) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
