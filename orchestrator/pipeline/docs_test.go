package pipeline

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The reference names every block, attribute and function, and no other
// function.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../docs/pipeline.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for kind, f := range map[string]fields{
		"file": fileFields, "variable": variableFields, "step": allStepFields, "sweep": sweepFields, "endpoint": endpointFields,
	} {
		for _, name := range slices.Concat(f.attrs, f.blocks) {
			if !strings.Contains(doc, "`"+name) {
				t.Errorf("%s of a %s is missing", name, kind)
			}
		}
	}
	_, section, _ := strings.Cut(doc, "## Functions")
	section, _, _ = strings.Cut(section, "\n## ")
	var named []string
	for i, word := range strings.Split(section, "`") {
		if i%2 == 1 {
			name, _, _ := strings.Cut(word, "(")
			named = append(named, name)
		}
	}
	slices.Sort(named)
	if !slices.Equal(named, functionNames()) {
		t.Errorf("the reference has the functions\n%v, there are\n%v", named, functionNames())
	}
}
