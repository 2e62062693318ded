package simulated

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPlace(t *testing.T) {
	g := models["a100-40gb"].mig
	tests := []struct {
		profiles string
		want     string // starts, or what the error says
		refused  bool
	}{
		{profiles: "3g.20gb 4g.20gb", want: "4 0"}, // first fit would put the 3g at 0
		{profiles: "1g.5gb 2g.10gb 4g.20gb", want: "6 4 0"},
		{profiles: "3g.20gb 2g.10gb 2g.10gb", want: "4 0 2"},
		{profiles: "1g.5gb 1g.5gb 2g.10gb 3g.20gb", want: "0 1 2 4"},
		{profiles: "1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb", want: "0 1 2 3 4 5 6"},
		{profiles: "1g.10gb 1g.10gb 1g.10gb 1g.10gb", want: "0 2 4 6"},
		{profiles: "3g.20gb 3g.20gb 1g.5gb", want: "no legal placement", refused: true},
		{profiles: "2g.10gb 2g.10gb 2g.10gb 2g.10gb", want: "fits 3 times", refused: true},
		{profiles: "7g.40gb 1g.5gb", want: "needs 8 compute slices", refused: true},
		{profiles: "1g.5gb+me 1g.5gb+me", want: "fits 1 times", refused: true},
		{profiles: "1g.10gb 5g.30gb", want: `unknown MIG profile "5g.30gb"; this board has 1g.5gb, 1g.5gb+me, 1g.10gb`, refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.profiles, func(t *testing.T) {
			layout, err := g.place(strings.Fields(tt.profiles))
			if tt.refused {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error is %v, want one about %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var starts []string
			for _, p := range layout {
				starts = append(starts, fmt.Sprint(p.start))
			}
			if got := strings.Join(starts, " "); got != tt.want {
				t.Errorf("starts %s, want %s", got, tt.want)
			}
		})
	}
}

// TestPlaceProperties: a placement is legal, and one is found whatever order
// the profiles are in.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := models[rapid.SampledFrom([]string{"a100-40gb", "a100-80gb", "h100", "h200", "b200"}).Draw(t, "model")].mig
		all := g.profiles()
		var wanted []string
		for range rapid.IntRange(1, 7).Draw(t, "count") {
			wanted = append(wanted, all[rapid.IntRange(0, len(all)-1).Draw(t, "profile")].name)
		}
		layout, err := g.place(wanted)
		shuffled, shuffledErr := g.place(rapid.Permutation(wanted).Draw(t, "order"))
		if (err == nil) != (shuffledErr == nil) || len(layout) != len(shuffled) {
			t.Fatalf("order decides: %v, %v", err, shuffledErr)
		}
		var used [memorySlots]bool
		for i, p := range layout {
			if p.name != wanted[i] || !slices.Contains(p.starts, p.start) {
				t.Fatalf("%s is at %d", p.name, p.start)
			}
			for slot := p.start; slot < p.start+p.slots; slot++ {
				if slot >= memorySlots || used[slot] {
					t.Fatalf("slot %d of %v is taken or not there", slot, layout)
				}
				used[slot] = true
			}
		}
	})
}
