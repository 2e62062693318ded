package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/reslice"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// TestResliceIsPublished: what `mig apply` asks for is done by the running
// plugin. The board is out of service meanwhile and nothing else is; then its
// slices are on offer, and the board is not.
func TestResliceIsPublished(t *testing.T) {
	dir := t.TempDir()
	p := newPlugin(hclog.NewNullLogger())
	config := map[string]any{"simulate": "2xa100-40gb", "simulate_node": "n", "state_dir": dir}
	if err := p.SetConfig(t.Context(), encoded(t, config)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	published := bench{plugin: p}.watch(ctx)
	groups := <-published
	board, other := groups[0].Devices[0].ID, groups[0].Devices[1].ID

	model, _ := mig.ModelOf("NVIDIA A100-SXM4-40GB")
	layout, err := mig.NewLayout(model, []string{"3g.20gb", "4g.20gb"})
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := reslice.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tasks.Update(func(s *reslice.State) error {
		s.Want(board, reslice.Request{Name: "halves", Layout: layout}, time.Now())
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	cordoned := false
	for deadline := time.After(time.Minute); ; {
		select {
		case groups = <-published:
		case <-deadline:
			t.Fatalf("after a minute: %s", described(groups))
		}
		if d := healthOf(groups, other); !d.Healthy {
			t.Errorf("the other board is %q", d.HealthDescription)
		}
		if d := healthOf(groups, board); strings.HasPrefix(d.HealthDescription, "cordoned: MIG layout halves") {
			cordoned = true
		}
		if offers(groups, "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100-SXM4-40GB MIG 4g.20gb") {
			break
		}
	}
	if !cordoned {
		t.Error("the board was never cordoned")
	}
	if d := healthOf(groups, board); d.ID != "" {
		t.Errorf("the board is still offered: %+v", d)
	}
	cancel()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// offers reports whether there is a group of each name with a healthy device.
func offers(groups []device.Group, names ...string) bool {
	found := 0
	for _, g := range groups {
		for _, name := range names {
			if g.Name == name && len(g.Devices) > 0 && g.Devices[0].Healthy {
				found++
			}
		}
	}
	return found == len(names)
}
