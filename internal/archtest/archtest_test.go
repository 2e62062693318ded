// Package archtest holds the rules of which package may import which, and
// fails the build where one is broken.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/drover-ml/drover/"

// pure packages take values and return values.
var pure = []string{
	"orchestrator/pipeline", "orchestrator/jobspec", "orchestrator/gate", "orchestrator/failover", "orchestrator/queue", "orchestrator/placement", "orchestrator/inventory", "orchestrator/trace", "orchestrator/simulate", "devcluster/scheduler",
	"device-plugin/gpu", "device-plugin/mig", "device-plugin/health", "device-plugin/sharing",
	"internal/topology", "internal/devicematch",
}

// adapters know the outside, and not each other.
var adapters = []string{
	"orchestrator/cluster", "orchestrator/catalog", "orchestrator/store", "orchestrator/gateway",
}

// rules say what packages below a path must not import. A trailing slash
// matches everything below.
var rules = []struct {
	why    string
	from   string
	except []string
	not    []string
}{
	{"the SDK stands alone", "nomadplugin/", nil, []string{"orchestrator/", "device-plugin/", "task-driver/", "devcluster/", "internal/artifact", "internal/mltask"}},
	{"plugins never import the orchestrator", "device-plugin/", nil, []string{"orchestrator/", "devcluster/", "task-driver/"}},
	{"plugins never import the orchestrator", "task-driver/", nil, []string{"orchestrator/", "devcluster/", "device-plugin/"}},
	{"the devcluster stands in for Nomad and knows nothing of Drover", "devcluster/", nil, []string{"orchestrator/", "task-driver/", "device-plugin/"}},
	{"the orchestrator speaks Nomad's API only", "orchestrator/", []string{"orchestrator", "orchestrator/cli", "orchestrator/server"}, []string{"devcluster/", "nomadplugin/", "task-driver/", "device-plugin/"}},
	{"shared packages know no part", "internal/artifact", nil, []string{"orchestrator/", "devcluster/", "task-driver/", "device-plugin/", "nomadplugin/"}},
	{"shared packages know no part", "internal/topology", nil, []string{"orchestrator/", "devcluster/", "task-driver/", "device-plugin/", "nomadplugin/"}},
	{"shared packages know no part", "internal/devicematch", nil, []string{"orchestrator/", "devcluster/", "task-driver/", "device-plugin/", "nomadplugin/"}},
	{"shared packages know no part", "internal/mltask", nil, []string{"orchestrator/", "devcluster/", "task-driver/", "device-plugin/", "nomadplugin/"}},
}

// forbidden modules are under licences that the product must not carry.
var forbidden = []string{"github.com/hashicorp/nomad/plugins", "github.com/hashicorp/nomad/nomad", "github.com/hashicorp/nomad/client", "github.com/hashicorp/nomad/helper"}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rules {
			if !below(path, r.from) || slices.Contains(r.except, path) {
				continue
			}
			for _, dep := range p.Deps {
				dep, ours := strings.CutPrefix(dep, module)
				for _, not := range r.not {
					if ours && below(dep, not) {
						t.Errorf("%s depends on %s: %s", path, dep, r.why)
					}
				}
			}
		}
		for _, dep := range p.Deps {
			for _, f := range forbidden {
				if strings.HasPrefix(dep, f) {
					t.Errorf("%s depends on %s, whose licence the product must not carry", path, dep)
				}
			}
		}
		if slices.Contains(adapters, path) {
			for _, dep := range p.Imports {
				dep := strings.TrimPrefix(dep, module)
				if slices.Contains(adapters, dep) && !(path == "orchestrator/gateway" && dep == "orchestrator/catalog") {
					t.Errorf("adapter %s imports adapter %s", path, dep)
				}
			}
		}
		if slices.Contains(pure, path) {
			for _, dep := range p.Imports {
				if slices.Contains([]string{"net/http", "database/sql", "os", "os/exec", "net", "modernc.org/sqlite"}, dep) {
					t.Errorf("pure package %s imports %s", path, dep)
				}
			}
		}
	}
}

func TestNoVagueNames(t *testing.T) {
	for _, p := range list(t) {
		for _, part := range strings.Split(p.ImportPath, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "misc"}, part) {
				t.Errorf("package %s: name it after what it holds", p.ImportPath)
			}
		}
	}
}

func below(path, prefix string) bool {
	if dir, ok := strings.CutSuffix(prefix, "/"); ok {
		return path == dir || strings.HasPrefix(path, prefix)
	}
	return path == prefix
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var packages []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("no packages listed")
	}
	return packages
}
