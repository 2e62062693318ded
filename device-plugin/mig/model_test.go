package mig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTables checks every model for what must hold of any.
func TestTables(t *testing.T) {
	names := make(map[string]bool)
	devices := make(map[string]string)
	for _, m := range Models() {
		t.Run(m.Name, func(t *testing.T) {
			if names[m.Name] {
				t.Error("there are two models of that name")
			}
			names[m.Name] = true
			for _, d := range m.devices {
				if devices[d] != "" {
					t.Errorf("PCI device %s is %s's too", d, devices[d])
				}
				devices[d] = m.Name
			}
			if found, ok := ModelOf("NVIDIA " + m.Name); !ok || found.Name != m.Name {
				t.Errorf("its own name finds %q", found.Name)
			}
			for i, p := range m.Profiles {
				checkProfile(t, m, p)
				if slices.ContainsFunc(m.Profiles[:i], func(o Profile) bool { return o.Name == p.Name }) {
					t.Errorf("%s is there twice", p.Name)
				}
			}
			if l, err := NewLayout(m, m.Balanced); err != nil || len(l.Instances) != len(m.Balanced) {
				t.Errorf("balanced: %v", err)
			}
			whole := m.Profiles[len(m.Profiles)-1]
			for _, p := range m.Profiles {
				if p.Size == m.Slots {
					whole = p
				}
			}
			if whole.Compute != m.Compute || whole.Engines != m.Engines {
				t.Errorf("the largest slice %s does not have all of the board", whole.Name)
			}
		})
	}
}

func checkProfile(t *testing.T, m Model, p Profile) {
	t.Helper()
	if !strings.HasPrefix(p.Name, fmt.Sprintf("%dg.", p.Compute)) {
		t.Errorf("%s has %d compute slices", p.Name, p.Compute)
	}
	if !slices.IsSorted(p.Starts) || len(p.Starts) == 0 || p.Starts[0] < 0 || p.Starts[len(p.Starts)-1]+p.Size > m.Slots {
		t.Errorf("%s of %d slots starts at %v", p.Name, p.Size, p.Starts)
	}
	if p.Engines.beyond(m.Engines) != "" {
		t.Errorf("%s has more engines than the board", p.Name)
	}
	if p.MemoryMiB != nil && *p.MemoryMiB%128 != 0 {
		t.Errorf("%s has %d MiB, which is no multiple of 128", p.Name, *p.MemoryMiB)
	}
	if _, err := m.Place(slices.Repeat([]string{p.Name}, p.Max), 0); err != nil {
		t.Errorf("%s does not fit as often as it may: %v", p.Name, err)
	}
	if _, err := m.Place(slices.Repeat([]string{p.Name}, p.Max+1), 0); err == nil {
		t.Errorf("%s fits %d times", p.Name, p.Max+1)
	}
}

// TestA100 is the table that real boards print.
func TestA100(t *testing.T) {
	for _, board := range []struct {
		product string
		want    string
	}{
		{"NVIDIA A100-SXM4-40GB", `1g.5gb: 7 of 4864 MiB at [0 1 2 3 4 5 6]:1
1g.5gb+me: 1 of 4864 MiB at [0 1 2 3 4 5 6]:1
1g.10gb: 4 of 9856 MiB at [0 2 4 6]:2
2g.10gb: 3 of 9856 MiB at [0 2 4]:2
3g.20gb: 2 of 19968 MiB at [0 4]:4
4g.20gb: 1 of 19968 MiB at [0]:4
7g.40gb: 1 of 40192 MiB at [0]:8
`},
		{"NVIDIA A100-SXM4-80GB", `1g.10gb: 7 of 9856 MiB at [0 1 2 3 4 5 6]:1
1g.10gb+me: 1 of 9856 MiB at [0 1 2 3 4 5 6]:1
1g.20gb: 4 of 19968 MiB at [0 2 4 6]:2
2g.20gb: 3 of 19968 MiB at [0 2 4]:2
3g.40gb: 2 of 40192 MiB at [0 4]:4
4g.40gb: 1 of 40192 MiB at [0]:4
7g.80gb: 1 of 80384 MiB at [0]:8
`},
	} {
		m := modelOf(t, board.product)
		var got strings.Builder
		for _, p := range m.Profiles {
			fmt.Fprintf(&got, "%s: %d of %d MiB at %v:%d\n", p.Name, p.Max, *p.MemoryMiB, p.Starts, p.Size)
		}
		if diff := cmp.Diff(board.want, got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", board.product, diff)
		}
	}
}

func TestModelOf(t *testing.T) {
	for product, want := range map[string]string{
		"NVIDIA A30":                                   "A30",
		"NVIDIA A30-PCIE-24GB":                         "A30",
		"A100-SXM4-40GB":                               "A100-SXM4-40GB",
		"Mock NVIDIA A100-SXM4-40GB":                   "A100-SXM4-40GB",
		"NVIDIA A100-PCIE-40GB":                        "A100-PCIE-40GB",
		"NVIDIA A100 80GB PCIe":                        "A100 80GB PCIe",
		"NVIDIA A100-PCIE-80GB":                        "A100 80GB PCIe",
		"NVIDIA H100 80GB HBM3":                        "H100 80GB HBM3",
		"NVIDIA H100 PCIe":                             "H100 PCIe",
		"NVIDIA H100 NVL":                              "H100 NVL",
		"NVIDIA H200":                                  "H200",
		"NVIDIA H200 141GB HBM3e":                      "H200",
		"NVIDIA H200 NVL":                              "H200 NVL",
		"NVIDIA GH200 480GB":                           "GH200 480GB",
		"NVIDIA GH200 144G HBM3e":                      "GH200 144G HBM3e",
		"NVIDIA B200":                                  "B200",
		"NVIDIA B200 180GB HBM3e":                      "B200",
		"NVIDIA GB200":                                 "GB200",
		"NVIDIA B300 SXM6 AC":                          "B300",
		"NVIDIA GB300":                                 "GB300",
		"NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000 Blackwell",
		"NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTX PRO 6000 Blackwell",
		"NVIDIA RTX 6000 Ada Generation":                          "",
		"NVIDIA A10":                                              "",
		"NVIDIA L40S":                                             "",
		"Tesla T4":                                                "",
		"NVIDIA H100":                                             "", // not which of them
		"":                                                        "",
	} {
		if m, ok := ModelOf(product); m.Name != want || ok != (want != "") {
			t.Errorf("%q is a %q, want %q", product, m.Name, want)
		}
	}
}

func TestModelOfBoard(t *testing.T) {
	for id, want := range map[string]string{
		"0x20B010DE": "A100-SXM4-40GB", "0x20b210de": "A100-SXM4-80GB", "0x20F110DE": "A100-PCIE-40GB", "0x20B510DE": "A100 80GB PCIe",
		"0x233010DE": "H100 80GB HBM3", "0x232110DE": "H100 NVL", "0x233510DE": "H200", "0x294110DE": "GB200", "0x318210DE": "B300",
		"0x31C210DE": "GB300", "0x290110DE": "B200", "0x20B710DE": "A30", "0x2BB510DE": "RTX PRO 6000 Blackwell",
		"0x1FB010DE": "", "20B0": "", "0x": "", "": "",
	} {
		if m, _ := (Board{PCIDeviceID: id, Product: "NVIDIA Engineering Sample"}).Model(); m.Name != want {
			t.Errorf("%s is a %q, want %q", id, m.Name, want)
		}
	}
	if m, _ := (Board{Product: "NVIDIA H200 NVL"}).Model(); m.Name != "H200 NVL" {
		t.Errorf("without a PCI ID it is a %q", m.Name)
	}
}

func TestProfileNamesOfTheDriver(t *testing.T) {
	for name, test := range map[string]struct {
		product  string
		driver   string
		want     string
		balanced string
	}{
		"a GB200 whose driver tells 189 GB": {
			"NVIDIA GB200", "7g.189gb 4g.95gb 3g.95gb 2g.47gb 1g.47gb 1g.24gb+me 1g.24gb",
			"1g.24gb 1g.24gb+me 1g.47gb 2g.47gb 3g.95gb 4g.95gb 7g.189gb", "1g.24gb 1g.24gb 2g.47gb 3g.95gb",
		},
		"as the table has them": {
			"NVIDIA A30", "1g.6gb 1g.6gb+me 2g.12gb 2g.12gb+me 4g.24gb", "1g.6gb 1g.6gb+me 2g.12gb 2g.12gb+me 4g.24gb", "1g.6gb 1g.6gb 2g.12gb",
		},
		"an old driver, which lacks some": {
			a100, "1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb", "1g.5gb 1g.5gb+me 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb", "1g.5gb 1g.5gb 2g.10gb 3g.20gb",
		},
		"nonsense": {a100, "x 3g 0g.gb -1g.5gb", "1g.5gb 1g.5gb+me 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb", "1g.5gb 1g.5gb 2g.10gb 3g.20gb"},
	} {
		t.Run(name, func(t *testing.T) {
			m, ok := Board{Product: test.product, ProfileNames: strings.Fields(test.driver)}.Model()
			if got := strings.Join(m.ProfileNames(), " "); !ok || got != test.want {
				t.Errorf("profiles = %s\n want      %s", got, test.want)
			}
			if got := strings.Join(m.Balanced, " "); got != test.balanced {
				t.Errorf("balanced = %s, want %s", got, test.balanced)
			}
			if again, _ := ModelOf(test.product); strings.Join(again.ProfileNames(), " ") != strings.Join(modelOf(t, test.product).ProfileNames(), " ") {
				t.Error("the table was changed")
			}
		})
	}
	for _, m := range Models() {
		if diff := cmp.Diff(m.ProfileNames(), m.renamed(nil).ProfileNames()); diff != "" {
			t.Errorf("%s without a driver's names (-want +got):\n%s", m.Name, diff)
		}
	}
}
