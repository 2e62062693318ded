package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/mig"
)

const (
	a100    = "NVIDIA A100-SXM4-40GB"
	a100x80 = "NVIDIA A100-SXM4-80GB"
)

// boardsOf makes boards of products, in order.
func boardsOf(products ...string) []mig.Board {
	devices := map[string]string{a100: "0x20B010DE", a100x80: "0x20B210DE", "NVIDIA H100 80GB HBM3": "0x233010DE", "NVIDIA H200": "0x233510DE", "NVIDIA A30": "0x20B710DE"}
	var boards []mig.Board
	for i, p := range products {
		boards = append(boards, mig.Board{ID: fmt.Sprintf("GPU-%d", i), Index: i, Product: p, PCIDeviceID: devices[p]})
	}
	return boards
}

func times(n int, product string) []mig.Board {
	products := make([]string, n)
	for i := range products {
		products[i] = product
	}
	return boardsOf(products...)
}

// described is a line for each board: "4: 1g.5gb ×7".
func described(targets []Target) string {
	var b strings.Builder
	for _, t := range targets {
		fmt.Fprintf(&b, "%d: %s\n", t.Board.Index, t.Layout)
	}
	return b.String()
}

func parsed(t testing.TB, file string) File {
	t.Helper()
	path := filepath.Join("testdata", file)
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(file, src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestResolve(t *testing.T) {
	// Four cards to compute with and a fifth for the display, which has no
	// MIG mode and so is not among the boards.
	station := times(4, a100x80)
	station[3].Index = 4
	for name, test := range map[string]struct {
		file, layout string
		node         string
		boards       []mig.Board
		want         string
	}{
		"eight boards, each its own way": {
			file: "default.yaml", layout: "custom-config", boards: times(8, a100),
			want: "0: MIG off\n1: MIG off\n2: MIG off\n3: MIG off\n4: 1g.5gb ×7\n5: 2g.10gb ×3\n6: 3g.20gb ×2\n7: 1g.5gb ×2, 2g.10gb, 3g.20gb\n",
		},
		"3g listed before the 4g": {
			file: "eight-80gb.yaml", layout: "mixed", boards: times(8, a100x80),
			want: "0: MIG off\n1: 7g.80gb\n2: 2g.20gb ×3\n3: 3g.40gb, 4g.40gb\n4: 3g.40gb, 4g.40gb\n5: 3g.40gb, 4g.40gb\n6: 3g.40gb, 4g.40gb\n7: 1g.10gb, 2g.20gb, 4g.40gb\n",
		},
		"all does not mean the display card": {
			file: "station.yaml", layout: "all-1g.10gb-station", boards: station,
			want: "0: 1g.10gb ×7\n1: 1g.10gb ×7\n2: 1g.10gb ×7\n4: 1g.10gb ×7\n",
		},
		"MIG without slices": {file: "default.yaml", layout: "all-enabled", boards: times(1, a100), want: "0: MIG on without slices\n"},
		"by filter": {
			file: "default.yaml", layout: "all-1g.10gb", boards: boardsOf(a100, a100x80), want: "0: 1g.10gb ×4\n1: 1g.10gb ×7\n",
		},
		"by model, UUID and node": {
			file: "choices.yaml", layout: "by-everything", node: "gpu-02", boards: boardsOf(a100, "NVIDIA H200", "NVIDIA H200"),
			want: "0: 3g.20gb ×2\n2: 7g.141gb\n",
		},
		"on another node": {
			file: "choices.yaml", layout: "by-everything", node: "gpu-01", boards: boardsOf(a100, "NVIDIA H200", "NVIDIA H200"),
			want: "2: 7g.141gb\n",
		},
		"compute instances": {
			file: "choices.yaml", layout: "shared", boards: times(1, a100), want: "0: 4g.20gb, 3g.20gb (compute 2+1)\n",
		},
		"built in, beside a file": {file: "choices.yaml", layout: "all-disabled", boards: times(1, a100), want: "0: MIG off\n"},
	} {
		t.Run(name, func(t *testing.T) {
			targets, err := parsed(t, test.file).Resolve(test.layout, test.node, test.boards)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, described(targets)); diff != "" {
				t.Errorf("layouts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		file, layout string
		boards       []mig.Board
		want         string
	}{
		"no such layout": {"choices.yaml", "blue", times(1, a100), `choices.yaml has no layout "blue"; it has by-everything, shared, twice, and built in are all-disabled`},
		"no such board":  {"default.yaml", "custom-config", times(6, a100), "default.yaml:"},
		"another model":  {"eight-80gb.yaml", "mixed", times(8, a100), `board 1 (NVIDIA A100-SXM4-40GB): A100-SXM4-40GB has no MIG profile "7g.80gb"`},
		"a board twice":  {"choices.yaml", "twice", times(2, a100), "choices.yaml:31: board 1 (GPU-1) has a layout from choices.yaml:28 already"},
		"for no board":   {"station.yaml", "all-1g.10gb-station", times(1, a100), "is for no board of this machine; it has 0 (NVIDIA A100-SXM4-40GB)"},
		"no boards":      {"default.yaml", "all-enabled", nil, "it has no boards with a MIG mode"},
		"no known model": {"default.yaml", "all-3g.20gb", []mig.Board{{Product: "NVIDIA Z900"}}, "of no model with known MIG profiles"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parsed(t, test.file).Resolve(test.layout, "", test.boards); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v\n want   %s", err, test.want)
			}
		})
	}
}

func TestBuiltIn(t *testing.T) {
	all := boardsOf(a100, a100x80, "NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL", "NVIDIA GH200 480GB", "NVIDIA H200", "NVIDIA B200", "NVIDIA GB200",
		"NVIDIA B300", "NVIDIA GB300", "NVIDIA A30", "NVIDIA RTX PRO 6000 Blackwell Server Edition")
	for name, test := range map[string]struct {
		boards  []mig.Board
		want    string
		wantErr string
	}{
		"all-balanced": {boards: all, want: `0: 1g.5gb ×2, 2g.10gb, 3g.20gb
1: 1g.10gb ×2, 2g.20gb, 3g.40gb
2: 1g.10gb ×2, 2g.20gb, 3g.40gb
3: 1g.12gb ×2, 2g.24gb, 3g.47gb
4: 1g.12gb ×2, 2g.24gb, 3g.48gb
5: 1g.18gb ×2, 2g.35gb, 3g.71gb
6: 1g.23gb ×2, 2g.45gb, 3g.90gb
7: 1g.23gb ×2, 2g.47gb, 3g.93gb
8: 1g.34gb ×2, 2g.67gb, 3g.135gb
9: 1g.35gb ×2, 2g.70gb, 3g.139gb
10: 1g.6gb ×2, 2g.12gb
11: 1g.24gb ×2, 2g.48gb
`},
		"all-disabled":       {boards: all[:1], want: "0: MIG off\n"},
		"all-enabled":        {boards: all[:1], want: "0: MIG on without slices\n"},
		"all-1g.10gb":        {boards: all[:2], want: "0: 1g.10gb ×4\n1: 1g.10gb ×7\n"},
		"all-1g.5gb.me":      {boards: all[:1], want: "0: 1g.5gb+me\n"},
		"all-1g.5gb+me":      {boards: all[:1], want: "0: 1g.5gb+me\n"},
		"all-1g.24gb.me.all": {boards: all[11:], want: "11: 1g.24gb+me.all\n"},
		"all-1g.24gb-me":     {boards: all[11:], want: "11: 1g.24gb-me ×4\n"},
		"all-2g.48gb.gfx":    {boards: all[11:], want: "11: 2g.48gb+gfx ×2\n"},
		"all-3g.40gb":        {boards: all[:2], wantErr: `board 0 (NVIDIA A100-SXM4-40GB): A100-SXM4-40GB has no MIG profile "3g.40gb"`},
		"balanced":           {boards: all, wantErr: `unknown MIG layout "balanced"; built in are all-disabled, all-enabled, all-balanced and all-<profile>`},
		"all-":               {boards: all[:1], wantErr: `no MIG profile ""`},
	} {
		t.Run(name, func(t *testing.T) {
			targets, err := BuiltIn(name, test.boards)
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error = %v, want %s", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, described(targets)); diff != "" {
				t.Errorf("layouts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseChoice(t *testing.T) {
	boards := boardsOf(a100, "NVIDIA H200", a100)
	for text, want := range map[string]string{
		"": "0 1 2", "all": "0 1 2", "0": "0", "0, 2": "0 2", "GPU-1": "1", "0,GPU-1": "0 1", a100: "0 2", "NVIDIA H200": "1",
	} {
		c, err := ParseChoice(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		chosen, err := c.Choose(boards)
		var got []string
		for _, b := range chosen {
			got = append(got, fmt.Sprint(b.Index))
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q = %v, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"-1": "is no board", "x": "is no board", "NVIDIA L4": "is no board", "0,": "is no board"} {
		if _, err := ParseChoice(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{"3": "no board 3 with a MIG mode", "GPU-x": "no board GPU-x", "NVIDIA A30": "no such board"} {
		c, err := ParseChoice(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Choose(boards); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestProfiles(t *testing.T) {
	targets, err := Profiles([]string{"1g.10gb", "1g.10gb"}, boardsOf(a100x80, a100))
	if err != nil || described(targets) != "0: 1g.10gb ×2\n1: 1g.10gb ×2\n" {
		t.Errorf("layouts = %s, %v", described(targets), err)
	}
	if _, err := Profiles([]string{"3g.20gb", "3g.20gb", "1g.5gb"}, boardsOf(a100)); err == nil || !strings.Contains(err.Error(), "need 9 memory slots") {
		t.Errorf("error = %v", err)
	}
}
