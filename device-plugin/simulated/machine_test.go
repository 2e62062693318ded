package simulated

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func TestPreset(t *testing.T) {
	tests := []struct {
		spec    string
		devices int
		first   string // name of the first device
		memory  int64
		err     string
	}{
		{spec: "dgx-a100", devices: 8, first: "NVIDIA A100-SXM4-40GB", memory: 40536},
		{spec: "dgx-a100-80gb", devices: 8, first: "NVIDIA A100-SXM4-80GB", memory: 81920},
		{spec: "dgx-h100", devices: 8, first: "NVIDIA H100 80GB HBM3", memory: 81559},
		{spec: "dgx-h200", devices: 8, first: "NVIDIA H200", memory: 143771},
		{spec: "dgx-b200", devices: 8, first: "NVIDIA B200", memory: 183359},
		{spec: "2xdgx-h100", devices: 16, first: "NVIDIA H100 80GB HBM3", memory: 81559},
		{spec: "l4", devices: 1, first: "NVIDIA L4", memory: 23034},
		{spec: "3xt4", devices: 3, first: "Tesla T4", memory: 15360},
		{spec: "dgx-a100/all-1g.5gb", devices: 56, first: "NVIDIA A100-SXM4-40GB MIG 1g.5gb", memory: 4864},
		{spec: "dgx-a100/all-1g.10gb", devices: 32, first: "NVIDIA A100-SXM4-40GB MIG 1g.10gb", memory: 9856},
		{spec: "a100-40gb/all-balanced", devices: 4, first: "NVIDIA A100-SXM4-40GB MIG 2g.10gb", memory: 9856},
		{spec: "a100-80gb/all-7g.80gb", devices: 1, first: "NVIDIA A100-SXM4-80GB MIG 7g.80gb", memory: 80384},
		{spec: "h200/all-1g.18gb", devices: 7, first: "NVIDIA H200 MIG 1g.18gb", memory: 16384},
		{spec: "dgx-h100/all-enabled", devices: 0},
		{spec: "dgx-h100/all-disabled", devices: 8, first: "NVIDIA H100 80GB HBM3", memory: 81559},
		{spec: "", err: "unknown GPU preset"},
		{spec: "dgx-v100", err: `unknown GPU preset "dgx-v100"; use one of a100-40gb`},
		{spec: "0xl4", err: "1 to 64 boards, so l4 can be there 1 to 64 times"},
		{spec: "9xdgx-h100", err: "so dgx-h100 can be there 1 to 8 times"},
		{spec: "9223372036854775807xdgx-h100", err: "1 to 64 boards"},
		{spec: "l4/all-balanced", err: "NVIDIA L4 has no MIG mode"},
		{spec: "dgx-a100/balanced", err: `unknown MIG layout "balanced"`},
		{spec: "dgx-a100/all-9g.1gb", err: `has no MIG profile "9g.1gb"`},
	}
	for _, tt := range tests {
		t.Run(tt.spec, func(t *testing.T) {
			m, err := Preset(tt.spec)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error is %v, want one about %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			devices := gpu.State{}.Next(m.inventory(m.described())).Devices
			if len(devices) != tt.devices {
				t.Fatalf("%d devices, want %d", len(devices), tt.devices)
			}
			if tt.devices > 0 && (devices[0].Name != tt.first || *devices[0].Specs.MemoryMiB != tt.memory) {
				t.Errorf("first device is %q with %d MiB", devices[0].Name, *devices[0].Specs.MemoryMiB)
			}
		})
	}
}

func TestIDs(t *testing.T) {
	ids := func(spec, node string) map[gpu.ID]bool {
		m, err := Preset(spec)
		if err != nil {
			t.Fatal(err)
		}
		m.Node = node
		all := map[gpu.ID]bool{}
		for _, d := range (gpu.State{}).Next(m.inventory(m.described())).Devices {
			all[d.ID] = true
			all[d.Parent] = true
		}
		return all
	}
	for _, spec := range []string{"dgx-h100", "dgx-a100/all-balanced"} {
		a, again, b := ids(spec, "node-a"), ids(spec, "node-a"), ids(spec, "node-b")
		if diff := cmp.Diff(a, again); diff != "" {
			t.Errorf("%s: IDs change from start to start:\n%s", spec, diff)
		}
		for id := range a {
			if b[id] {
				t.Errorf("%s: two nodes have %s", spec, id)
			}
		}
	}
	if n := len(ids("dgx-a100/all-1g.5gb", "n")); n != 8+56 {
		t.Errorf("%d distinct IDs, want 64", n)
	}
}

func TestParseFile(t *testing.T) {
	type device struct {
		Name   string
		Memory int64
	}
	tests := []struct {
		name string
		file string
		src  string
		want []device
		errs []string
	}{
		{
			name: "mixed node",
			src: `
driver_version = "550.54.15"
board "a100-40gb" { count = 2 }
board "a100-40gb" { mig = ["3g.20gb", "4g.20gb"] }
board "a100-40gb" { mig = [] }
board "custom" {
  product    = "NVIDIA RTX 6000 Ada Generation"
  memory_mib = 49140
  uuid       = "GPU-11111111-2222-3333-4444-555555555555"
}
`,
			want: []device{
				{"NVIDIA A100-SXM4-40GB", 40536}, {"NVIDIA A100-SXM4-40GB", 40536},
				{"NVIDIA A100-SXM4-40GB MIG 4g.20gb", 19968}, {"NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19968},
				{"NVIDIA RTX 6000 Ada Generation", 49140},
			},
		},
		{
			name: "JSON",
			file: "boards.json",
			src:  `{"board": [{"h200": {"count": 1}}, {"l4": {"power_w": 60}}]}`,
			want: []device{{"NVIDIA H200", 143771}, {"NVIDIA L4", 23034}},
		},
		{name: "empty", src: "", errs: []string{"boards.hcl:1:1: no board block"}},
		{name: "syntax", src: "board \"l4\" {\n  count = \n}", errs: []string{"boards.hcl:2:"}},
		{
			name: "every problem at once",
			src: `board "a100" {}
board "custom" {}
board "l4" { count = 0 }
board "l4" { mig = ["1g.5gb"] }
board "a100-40gb" { mig = ["3g.20gb", "3g.20gb", "1g.5gb"] }
board "h100" {
  uuid  = "GPU-1"
  count = 2
}
board "h100" { uuid = "GPU-1" }
board "h100" { uuid = "a,b" }
board "h100" { power_w = -1 }
`,
			errs: []string{
				`boards.hcl:1:7: unknown board "a100"; use one of a100-40gb`,
				"boards.hcl:2:7: a custom board needs a product name",
				"boards.hcl:3:22: count is 1 to 64, not 0",
				"boards.hcl:4:20: NVIDIA L4 has no MIG mode",
				"boards.hcl:5:27: 3g.20gb (2 times) and 1g.5gb need 9 memory slots",
				"boards.hcl:7:11: a block with a uuid describes one board",
				"boards.hcl:10:23: uuid GPU-1 is given twice",
				"boards.hcl:11:23: a uuid has no commas or spaces",
				"boards.hcl:12:7: amounts of a board cannot be negative",
			},
		},
		{name: "unknown attribute", src: "board \"l4\" {\n  cuont = 2\n}", errs: []string{"boards.hcl:2:3: Unsupported argument"}},
		{name: "wrong type", src: "board \"l4\" {\n  count = \"many\"\n}", errs: []string{"boards.hcl:2:12: Unsuitable value type"}},
		{name: "fraction", src: "board \"l4\" {\n  count = 1.5\n}", errs: []string{"boards.hcl:2:11:"}},
		{name: "too many", src: "board \"l4\" { count = 40 }\nboard \"t4\" { count = 40 }", errs: []string{"boards.hcl:2:7: a machine has at most 64 boards, not 80"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = "boards.hcl"
			}
			m, err := ParseFile(file, []byte(tt.src))
			if len(tt.errs) > 0 {
				if err == nil {
					t.Fatal("no error")
				}
				for _, want := range tt.errs {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("no %q in:\n%v", want, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []device
			for _, d := range (gpu.State{}).Next(m.inventory(m.described())).Devices {
				got = append(got, device{d.Name, *d.Specs.MemoryMiB})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "boards.hcl")
	write(t, path, `board "l4" {}`)
	if m, err := Load(path); err != nil || len(m.boards) != 1 {
		t.Errorf("board file: %v, %v", m, err)
	}
	if m, err := Load("dgx-h100"); err != nil || len(m.boards) != 8 {
		t.Errorf("preset: %v, %v", m, err)
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "none.hcl"): "reading board file",
		dir + "/.hcl":                  "reading board file",
	} {
		if _, err := Load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	big := filepath.Join(dir, "big.json")
	write(t, big, strings.Repeat(" ", maxFileBytes+1))
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file over the limit: %v", err)
	}
}

// TestPresetFile: the board file of a preset is that preset.
func TestPresetFile(t *testing.T) {
	for _, name := range Presets() {
		src, err := PresetFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fromFile, err := ParseFile(name+".hcl", src)
		if err != nil {
			t.Fatal(err)
		}
		fromFile.Node = "n"
		a, b := start(t, Config{Machine: machine(t, name)}), start(t, Config{Machine: fromFile})
		if diff := cmp.Diff(inventory(t, a), inventory(t, b)); diff != "" {
			t.Errorf("%s (-preset +file):\n%s", name, diff)
		}
		if diff := cmp.Diff(graph(t, a), graph(t, b)); diff != "" {
			t.Errorf("%s (-preset +file):\n%s", name, diff)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add(true, `board "a100-40gb" { mig = ["3g.20gb", "4g.20gb"] }`)
	f.Add(true, "node = \"n\"\nboard \"custom\" {\n product = \"x\"\n memory_mib = 1\n count = 64\n}")
	f.Add(false, `{"board": {"h200": {"count": 1, "mig": []}}}`)
	f.Fuzz(func(t *testing.T, hcl bool, src string) {
		name := "boards.json"
		if hcl {
			name = "boards.hcl"
		}
		m, err := ParseFile(name, []byte(src))
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error does not name the file: %v", err)
			}
			return
		}
		if n := len(m.boards); n < 1 || n > maxBoards {
			t.Fatalf("%d boards", n)
		}
		ids := map[gpu.ID]bool{}
		for _, d := range (gpu.State{}).Next(m.inventory(m.described())).Devices {
			if ids[d.ID] || d.ID == "" || d.Name == "" {
				t.Fatalf("device %+v", d)
			}
			ids[d.ID] = true
		}
	})
}
