package simulated

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentation: the examples of the documentation are right.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../docs/gpu-simulation.md")
	if err != nil {
		t.Fatal(err)
	}
	scripts, files := 0, 0
	for _, block := range regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		src := block[1]
		switch {
		case strings.Contains(src, "plugin_dir"): // the agent's
		case strings.HasPrefix(src, "nvlink"):
			files++
			if _, err := ParseFile("boards.hcl", []byte("board \"a100-40gb\" { count = 4 }\n"+src)); err != nil {
				t.Error(err)
			}
		case strings.Contains(src, "board \""):
			files++
			if _, err := ParseFile("boards.hcl", []byte(src)); err != nil {
				t.Error(err)
			}
		default:
			scripts++
			if _, err := ParseScript("faults.hcl", []byte(src)); err != nil {
				t.Errorf("%v in\n%s", err, src)
			}
		}
	}
	if scripts < 6 || files < 2 {
		t.Errorf("%d scripts and %d board files found", scripts, files)
	}
	for _, name := range Presets() {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("preset %s is not documented", name)
		}
	}
}
