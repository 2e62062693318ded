package metrics

import (
	"os"
	"regexp"
	"testing"
)

var names = regexp.MustCompile(`\b(DCGM_FI_(DEV|PROF)_[A-Z0-9_]+|drover_(gpu|node)_[a-z_]+[a-z])\b`)

// shown are the names of everything that is ever shown.
func shown(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, f := range ofSamples {
		all[f.name] = true
	}
	for _, f := range ofVitals {
		all[f.name] = true
	}
	for _, f := range ofInterfaces {
		all[f.name] = true
	}
	for _, scene := range scenes {
		r := newRig(Config{})
		scene(r)
		for name := range r.families(t) {
			all[name] = true
		}
	}
	return all
}

// TestDocumented: the page names all that there is, and the dashboard nothing
// else.
func TestDocumented(t *testing.T) {
	all := shown(t)
	page, err := os.ReadFile("../../docs/gpu-metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, name := range names.FindAllString(string(page), -1) {
		told[name] = true
	}
	for name := range all {
		abbreviated := regexp.MustCompile(`^drover_node_network_(receive|transmit)_`).MatchString(name)
		if !told[name] && names.MatchString(name) && !abbreviated {
			t.Errorf("docs/gpu-metrics.md does not tell of %s", name)
		}
	}
	dashboard, err := os.ReadFile("../../docs/gpu-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names.FindAllString(string(dashboard), -1) {
		if !all[name] {
			t.Errorf("docs/gpu-dashboard.json shows %s, which there is not", name)
		}
	}
}
