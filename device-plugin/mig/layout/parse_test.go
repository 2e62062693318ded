package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefuses(t *testing.T) {
	entry := func(lines ...string) string {
		return "version: v1\nmig-configs:\n  x:\n    - " + strings.Join(lines, "\n      ") + "\n"
	}
	on := func(devices string) string {
		return entry("devices: all", "mig-enabled: true", "mig-devices: "+devices)
	}
	for name, test := range map[string]struct{ src, want string }{
		"empty":                 {"", "f:1: the file is empty; it needs version and mig-configs"},
		"not YAML":              {"version: v1\nmig-configs: [", "f:2: "},
		"a tab":                 {"version: v1\nmig-configs:\n\tx: 1\n", "f:3: found character that cannot start any token"},
		"several":               {"version: v1\n---\nversion: v1\n", "f: a layout file is one document, not several"},
		"a list":                {"- 1\n", "f:1: a layout file is a mapping, not a list"},
		"no version":            {"mig-configs: {x: [{devices: all, mig-enabled: false}]}\n", "f:1: version is missing; it is v1"},
		"another version":       {"version: v2\nmig-configs: {}\n", `f:1: version is v1, not "v2"`},
		"no layouts":            {"version: v1\n", "f:1: mig-configs is missing"},
		"another key":           {"version: v1\nmig-config: {}\nmig-configs: {}\n", `f:2: a layout file has no "mig-config"; it has version, mig-configs`},
		"no entries":            {"version: v1\nmig-configs:\n  x: []\n", `f:3: layout "x" is a list of at least one entry, not a list`},
		"no entry":              {"version: v1\nmig-configs:\n  x:\n    - all\n", `f:4: an entry is a mapping, not "all"`},
		"a layout twice":        {"version: v1\nmig-configs:\n  x: [{devices: all, mig-enabled: false}]\n  x: [{devices: all, mig-enabled: false}]\n", `f:4: "x" is there twice`},
		"an unknown key":        {entry("devices: all", "mig-enabled: true", "profiles: []"), `f:6: an entry has no "profiles"; it has devices, device-filter, models, nodes, mig-enabled, mig-devices`},
		"no devices":            {entry("mig-enabled: true"), "f:4: devices is missing; it is all, or a list of indexes or UUIDs"},
		"no mode":               {entry("devices: all"), "f:4: mig-enabled is missing; it is true or false"},
		"mode as text":          {entry("devices: all", `mig-enabled: "true"`), `f:5: mig-enabled is true or false, not "true"`},
		"mode as yes":           {entry("devices: all", "mig-enabled: yes"), `f:5: mig-enabled is true or false, not "yes"`},
		"devices empty":         {entry("devices: []", "mig-enabled: true"), "f:4: devices is empty"},
		"devices none":          {entry("devices: none", "mig-enabled: true"), `f:4: a device is an index (0, 1, …) or a UUID (GPU-…), not "none"`},
		"a negative index":      {entry("devices: [0, -1]", "mig-enabled: true"), `f:4: a device is an index (0, 1, …) or a UUID (GPU-…), not "-1"; for every board use devices: all`},
		"all in a list":         {entry("devices: [all]", "mig-enabled: true"), `for every board use devices: all`},
		"a filter":              {entry("devices: all", "device-filter: A100", "mig-enabled: true"), `f:5: device-filter has PCI device IDs, as 0x20B010DE, not "A100"`},
		"a filter that is none": {entry("devices: all", "device-filter: []", "mig-enabled: true"), "f:5: device-filter is empty"},
		"a model":               {entry("devices: all", "models: [NVIDIA L4]", "mig-enabled: true"), `f:5: "NVIDIA L4" is no model with known MIG profiles; those are NVIDIA A30`},
		"a node":                {entry("devices: all", "nodes: [a b]", "mig-enabled: true"), `f:5: nodes has names of nodes, not "a b"`},
		"slices without MIG":    {entry("devices: all", "mig-enabled: false", "mig-devices: {1g.5gb: 1}"), "f:6: there are no slices without MIG mode"},
		"a profile":             {on("{9g.5gb: 1}"), `f:6: no model has a MIG profile "9g.5gb"; profiles are as 1g.5gb`},
		"a profile in a list":   {on("[[1g.5gb]]"), "f:6: a profile is a text, as 1g.5gb, not a list"},
		"a part":                {on("[8c.7g.40gb]"), `f:6: no model has a MIG profile "8c.7g.40gb"`},
		"slices as text":        {on("1g.5gb"), `f:6: mig-devices is a mapping of profiles to counts, or a list of profiles, not "1g.5gb"`},
		"no slices":             {on("{1g.5gb: 0}"), `f:6: the number of 1g.5gb is 1 to 64, not "0"`},
		"half a slice":          {on("{1g.5gb: 0.5}"), `f:6: the number of 1g.5gb is 1 to 64, not "0.5"`},
		"too many slices":       {on("{1g.5gb: 100000000}"), `f:6: the number of 1g.5gb is 1 to 64`},
		"a profile twice":       {on("{1g.5gb: 1, 1g.5gb: 2}"), `f:6: "1g.5gb" is there twice`},
		"more than fit":         {on("{3g.20gb: 3}"), "f:6: no model that this is for can have these slices together: A100-PCIE-40GB: 3g.20gb fits at most 2 times"},
		"not together":          {on("{3g.20gb: 2, 1g.5gb: 1}"), "3g.20gb (2 times) and 1g.5gb need 9 memory slots; the board has 8"},
		"of other boards": {entry("devices: all", "device-filter: 0x20B210DE", "mig-enabled: true", "mig-devices: {3g.20gb: 1}"),
			`f:7: no model that this is for can have these slices together: A100-SXM4-80GB: A100-SXM4-80GB has no MIG profile "3g.20gb"; it has 1g.10gb`},
		"an alias of itself": {"version: v1\nmig-configs: &a\n  x: *a\n", "f:3: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", []byte(test.src))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v\n want   %s\nof\n%s", err, test.want, test.src)
			}
		})
	}
	if _, err := Parse("f", make([]byte, MaxBytes+1)); err == nil || !strings.Contains(err.Error(), "at most 1048576 bytes") {
		t.Errorf("a large file: %v", err)
	}
	many := "version: v1\nmig-configs:\n  x:\n" + strings.Repeat("    - {devices: all, mig-enabled: false}\n", maxEntries+1)
	if _, err := Parse("f", []byte(many)); err == nil || err.Error() != fmt.Sprintf("f:%d: a layout file has at most %d entries", maxEntries+3, maxEntries) {
		t.Errorf("many entries: %v", err)
	}
}

// TestParseTellsEverything wants all problems at once, in the order of lines.
func TestParseTellsEverything(t *testing.T) {
	src := `version: v3
mig-configs:
  b:
    - devices: here
      mig-enabled: maybe
  a:
    - mig-enabled: true
      mig-devices: {"4g.20gb": 2}
`
	want := `f:1: version is v1, not "v3"
f:4: a device is an index (0, 1, …) or a UUID (GPU-…), not "here"; for every board use devices: all
f:5: mig-enabled is true or false, not "maybe"
f:7: devices is missing; it is all, or a list of indexes or UUIDs
f:8: no model that this is for can have these slices together: A100-PCIE-40GB: 4g.20gb fits at most once on one A100-PCIE-40GB, not 2 times`
	_, err := Parse("f", []byte(src))
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("version: v1\nmig-configs: &a\n  x: *a\n"))
	f.Add([]byte("a: &a [*a]"))
	boards := boardsOf(a100, a100x80, "NVIDIA A30")
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse("f", src)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("an error without its place: %v", err)
			}
			return
		}
		for _, name := range file.Names() {
			targets, err := file.Resolve(name, "n", boards)
			if err != nil {
				continue
			}
			for _, target := range targets {
				m, _ := target.Board.Model()
				if err := target.Layout.Check(m); err != nil {
					t.Errorf("layout %q for %s is not possible: %v", name, m.Name, err)
				}
			}
		}
	})
}
