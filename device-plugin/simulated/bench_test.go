package simulated

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// BenchmarkSecond is what a plugin asks of a node of eight boards with seven
// slices each in a second: it is to take well under a thousandth of that.
func BenchmarkSecond(b *testing.B) {
	m, err := Preset("dgx-a100/all-1g.5gb")
	if err != nil {
		b.Fatal(err)
	}
	s := New(Config{Machine: m})
	defer s.Close()
	inv, err := s.Inventory(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var boards, ids []gpu.ID
	for _, board := range inv.Boards {
		boards = append(boards, board.ID)
		ids = append(ids, board.ID)
		for _, slice := range board.Slices {
			ids = append(ids, slice.ID)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Inventory(b.Context()); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Sample(b.Context(), ids); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Vitals(b.Context(), boards); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFaultToHint is how long it takes from a new fault file to the hint
// that the inventory changed.
func BenchmarkFaultToHint(b *testing.B) {
	m, err := Preset("dgx-h100")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "faults.hcl")
	s := New(Config{Machine: m, FaultFile: path})
	defer s.Close()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		content := fmt.Appendf(nil, "fault \"3\" { reason = \"%d\" }\n", i)
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := os.Rename(path+".new", path); err != nil {
			b.Fatal(err)
		}
		<-s.Changes()
		if inv, err := s.Inventory(b.Context()); err != nil || inv.Boards[3].Fault != fmt.Sprint(i) {
			b.Fatal(inv.Boards[3].Fault, err)
		}
	}
}

// BenchmarkLook is one look for processes that use GPUs on this host.
func BenchmarkLook(b *testing.B) {
	t := &processTable{root: "/proc"}
	now := hostBooted()
	t.look(now) // the first one reads every environment
	now = now.Add(2 * settleAfter)
	b.ReportAllocs()
	for b.Loop() {
		t.look(now)
	}
}
