package gpu_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// filtered is a machine for filters: a board of a long UUID, one of two
// slices, and a display card.
func filtered() gpu.Inventory {
	inv := healthy(3)
	inv.Boards[0].ID = "GPU-fef8089b-820a-4e65-8b39-3e9a1d3f5ad2"
	inv.Boards[0].PCIDeviceID = "0x20B010DE"
	inv.Boards[1] = sliced(inv.Boards[1], 0, 3)
	inv.Boards[2].Product = "NVIDIA DGX Display"
	return inv
}

func TestFilter(t *testing.T) {
	const long = "GPU-fef8089b-820a-4e65-8b39-3e9a1d3f5ad2"
	everything := []gpu.ID{long, "MIG-1-0", "MIG-1-3", "GPU-2"}
	tests := []struct {
		name                      string
		include, exclude, ignored []string
		want                      []gpu.ID
		unmatched                 []gpu.Unmatched
	}{
		{name: "none", want: everything},
		{name: "whole UUID", ignored: []string{long}, want: everything[1:]},
		{
			name: "shortened UUID hides nothing and is told", ignored: []string{"GPU-fef8089b"}, want: everything,
			unmatched: []gpu.Unmatched{{Option: "ignored_gpu_ids[0]", Entry: "GPU-fef8089b", Meant: long}},
		},
		{
			name: "another machine's UUID is told", exclude: []string{"GPU-x"}, want: everything,
			unmatched: []gpu.Unmatched{{Option: "exclude[0]", Entry: "GPU-x"}},
		},
		{
			name: "another case is told", exclude: []string{strings.ToUpper(long)}, want: everything,
			unmatched: []gpu.Unmatched{{Option: "exclude[0]", Entry: strings.ToUpper(long), Meant: long}},
		},
		{name: "parent hides its slices", ignored: []string{"GPU-1"}, want: []gpu.ID{long, "GPU-2"}},
		{name: "slice hides itself only", exclude: []string{"MIG-1-0"}, want: []gpu.ID{long, "MIG-1-3", "GPU-2"}},
		{name: "index", exclude: []string{"index:1"}, want: []gpu.ID{long, "GPU-2"}},
		{name: "bus ID of a log line", exclude: []string{"pci:0000:02:00"}, want: everything[:3]},
		{name: "PCI device ID", exclude: []string{"device:20b0"}, want: everything[1:]},
		{name: "PCI device ID with its vendor", exclude: []string{"device:0x20B010DE"}, want: everything[1:]},
		{name: "model", exclude: []string{"model:nvidia dgx display*"}, want: everything[:3]},
		{name: "model of slices", include: []string{"model:*MIG 1g.5gb"}, want: everything[1:3]},
		{
			name: "part of a model is told", exclude: []string{"model:Display"}, want: everything,
			unmatched: []gpu.Unmatched{{Option: "exclude[0]", Entry: "model:Display", Meant: "model:NVIDIA DGX Display"}},
		},
		{
			name: "include, less what is excluded", include: []string{"index:1", "index:2", "index:7"}, exclude: []string{"MIG-1-3"},
			want:      []gpu.ID{"MIG-1-0", "GPU-2"},
			unmatched: []gpu.Unmatched{{Option: "include[2]", Entry: "index:7"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := gpu.NewFilter(tt.include, tt.exclude, tt.ignored)
			if err != nil {
				t.Fatal(err)
			}
			inv := filtered()
			if diff := cmp.Diff(tt.want, offered(gpu.State{}.Next(inv).Offer(gpu.Policy{Filter: f}, gpu.Overlay{}))); diff != "" {
				t.Errorf("offered (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.unmatched, f.Unmatched(inv)); diff != "" {
				t.Errorf("unmatched (-want +got):\n%s", diff)
			}
			inv.Lost = []gpu.Lost{{Index: 3, Reason: "lost"}}
			if u := f.Unmatched(inv); u != nil {
				t.Errorf("with a lost board, which may be the one, %v are told", u)
			}
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	_, err := gpu.NewFilter([]string{"index:x"}, []string{"GPU-1", "pci:zz", "device:1", "model:[", "7"}, []string{""})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`include[0]: "index:x"`, `exclude[1]: "pci:zz"`, `exclude[2]: "device:1"`, `exclude[3]: "model:["`, `exclude[4]: "7": write a whole UUID`, `ignored_gpu_ids[0]: empty`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "exclude[0]") {
		t.Errorf("an entry without a mistake is refused: %v", err)
	}
}

func TestNormalBusID(t *testing.T) {
	tests := map[string]string{
		"00000000:07:00.0": "00000000:07:00.0", "0000:07:00": "00000000:07:00.0", "PCI:0000:07:00": "", "7:0.0": "00000000:07:00.0",
		"0001:AB:00.1": "00000001:AB:00.1", "0001:ab:1f.7": "00000001:AB:1F.7", "": "", "a:b:c:d": "", "0:100:0.0": "", "0:0:20.0": "", "0:0:0.8": "",
	}
	for text, want := range tests {
		if got, ok := gpu.NormalBusID(text); got != want || ok != (want != "") {
			t.Errorf("NormalBusID(%q) = %q, %v; want %q", text, got, ok, want)
		}
	}
}

// FuzzFilter: an entry of any text is refused, or works on any machine.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{"GPU-1", "index:1", "pci:0000:02:00.0", "device:0x20B010DE", "model:NVIDIA*", "model:[a-", "x"} {
		f.Add(text)
	}
	inv := filtered()
	s := gpu.State{}.Next(inv)
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := gpu.NewFilter([]string{text}, nil, nil)
		if err != nil {
			return
		}
		matched := len(offered(s.Offer(gpu.Policy{Filter: filter}, gpu.Overlay{}))) > 0
		if told := len(filter.Unmatched(inv)) > 0; matched && told {
			t.Errorf("%q matches, and is told not to", text)
		}
	})
}
