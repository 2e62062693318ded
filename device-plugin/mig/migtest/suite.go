package migtest

import (
	"slices"
	"testing"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// Suite checks a Controller against what users of one rely on. open returns
// one with at least one idle A100 of 40 GB, MIG mode off, as the first board.
func Suite(t *testing.T, open func(t *testing.T) mig.Controller) {
	board := func(t *testing.T, c mig.Controller) mig.Board {
		t.Helper()
		boards, err := c.Boards(t.Context())
		if err != nil || len(boards) == 0 {
			t.Fatalf("boards = %v, %v", boards, err)
		}
		return boards[0]
	}
	create := func(t *testing.T, c mig.Controller, profile string, start, size int, compute ...int) error {
		t.Helper()
		return c.Create(t.Context(), board(t, c).ID, mig.Instance{Profile: profile, Placement: mig.Placement{Start: start, Size: size}, Compute: compute})
	}
	on := func(t *testing.T) mig.Controller {
		t.Helper()
		c := open(t)
		if pending, err := c.SetMode(t.Context(), board(t, c).ID, true); pending || err != nil {
			t.Fatalf("an idle board: pending = %t, %v", pending, err)
		}
		return c
	}

	t.Run("the mode", func(t *testing.T) {
		c := open(t)
		if b := board(t, c); b.Enabled || b.Pending || b.ID == "" || b.Product == "" {
			t.Fatalf("at first %+v", b)
		}
		for _, enabled := range []bool{true, true, false, false} {
			if _, err := c.SetMode(t.Context(), board(t, c).ID, enabled); err != nil {
				t.Fatal(err)
			}
			if b := board(t, c); b.Enabled != enabled || b.Pending != enabled || len(b.Instances) > 0 {
				t.Fatalf("set to %t it is %+v", enabled, b)
			}
		}
	})
	t.Run("an instance is where it was wanted", func(t *testing.T) {
		c := on(t)
		for _, err := range []error{create(t, c, "3g.20gb", 4, 4, 3), create(t, c, "2g.10gb", 2, 2, 1, 1), create(t, c, "1g.5gb+me", 0, 1, 1)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		seen := make(map[string]bool)
		for _, in := range board(t, c).Instances {
			seen[in.Profile] = true
			want := map[string]mig.Instance{
				"3g.20gb":   {Placement: mig.Placement{Start: 4, Size: 4}, Compute: []int{3}},
				"2g.10gb":   {Placement: mig.Placement{Start: 2, Size: 2}, Compute: []int{1, 1}},
				"1g.5gb+me": {Placement: mig.Placement{Start: 0, Size: 1}, Compute: []int{1}},
			}[in.Profile]
			if in.Placement != want.Placement || !slices.Equal(in.Compute, want.Compute) || len(in.UUIDs) != len(in.Compute) {
				t.Errorf("%s is %+v, want %+v and a UUID for each compute instance", in.Profile, in, want)
			}
		}
		if len(seen) != 3 {
			t.Errorf("there are %v", seen)
		}
	})
	t.Run("only the instance that is meant is destroyed", func(t *testing.T) {
		c := on(t)
		for _, err := range []error{create(t, c, "1g.5gb", 0, 1, 1), create(t, c, "1g.5gb", 1, 1, 1)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		b := board(t, c)
		gone, stays := b.Instances[0], b.Instances[1]
		if err := c.Destroy(t.Context(), b.ID, gone.GPUInstance); err != nil {
			t.Fatal(err)
		}
		if err := c.Destroy(t.Context(), b.ID, gone.GPUInstance); err == nil {
			t.Error("it is destroyed twice")
		}
		if left := board(t, c).Instances; len(left) != 1 || left[0].GPUInstance != stays.GPUInstance || !slices.Equal(left[0].UUIDs, stays.UUIDs) {
			t.Errorf("left are %+v, want %+v", left, stays)
		}
	})
	t.Run("what is not possible is refused", func(t *testing.T) {
		c := open(t)
		if create(t, c, "1g.5gb", 0, 1, 1) == nil {
			t.Error("an instance without MIG mode")
		}
		c = on(t)
		if err := create(t, c, "3g.20gb", 0, 4, 3); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"a place that is taken":      create(t, c, "1g.5gb", 3, 1, 1),
			"a place that is none":       create(t, c, "2g.10gb", 5, 2, 2),
			"an unknown profile":         create(t, c, "9g.99gb", 4, 4, 3),
			"too many compute instances": create(t, c, "3g.20gb", 4, 4, 2, 2),
			"an unknown board":           c.Create(t.Context(), "GPU-none", mig.Instance{Profile: "1g.5gb", Placement: mig.Placement{Start: 4, Size: 1}, Compute: []int{1}}),
			"an unknown instance":        c.Destroy(t.Context(), board(t, c).ID, 99),
		} {
			if err == nil {
				t.Errorf("%s is accepted", what)
			}
		}
		if n := len(board(t, c).Instances); n != 1 {
			t.Errorf("there are %d instances, want 1", n)
		}
	})
}
