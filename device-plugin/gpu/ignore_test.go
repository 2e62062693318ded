package gpu_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

func TestIgnoreList(t *testing.T) {
	inv := healthy(2)
	inv.Boards[0].ID = "GPU-fef8089b-820a-4e65-8b39-3e9a1d3f5ad2"
	inv.Boards[1] = sliced(inv.Boards[1], 0, 3)
	all := []gpu.ID{inv.Boards[0].ID, "MIG-1-0", "MIG-1-3"}
	tests := []struct {
		name      string
		list      gpu.IgnoreList
		visible   []gpu.ID
		unmatched []gpu.Unmatched
	}{
		{name: "empty", visible: all},
		{name: "whole UUID", list: gpu.IgnoreList{all[0]}, visible: all[1:]},
		{
			name: "shortened UUID hides nothing and is reported", list: gpu.IgnoreList{"GPU-fef8089b"}, visible: all,
			unmatched: []gpu.Unmatched{{Entry: "GPU-fef8089b", Meant: all[0]}},
		},
		{
			name: "another machine's UUID is reported", list: gpu.IgnoreList{"GPU-x"}, visible: all,
			unmatched: []gpu.Unmatched{{Entry: "GPU-x"}},
		},
		{name: "parent hides its slices", list: gpu.IgnoreList{"GPU-1"}, visible: all[:1]},
		{name: "slice hides itself only", list: gpu.IgnoreList{"MIG-1-0"}, visible: []gpu.ID{all[0], "MIG-1-3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var visible []gpu.ID
			for _, d := range tt.list.Visible(gpu.State{}.Next(inv).Devices) {
				visible = append(visible, d.ID)
			}
			if diff := cmp.Diff(tt.visible, visible); diff != "" {
				t.Errorf("visible (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.unmatched, tt.list.Unmatched(inv)); diff != "" {
				t.Errorf("unmatched (-want +got):\n%s", diff)
			}
		})
	}
	inv.Lost = []gpu.Lost{{Index: 2, Reason: "lost"}}
	if u := (gpu.IgnoreList{"GPU-x"}).Unmatched(inv); u != nil {
		t.Errorf("with a lost board, which may be the one, %v are reported", u)
	}
}
