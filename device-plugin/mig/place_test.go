package mig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func modelOf(t testing.TB, product string) Model {
	t.Helper()
	m, ok := ModelOf(product)
	if !ok {
		t.Fatalf("no model for %q", product)
	}
	return m
}

// at is "4g.20gb@0 3g.20gb@4": places in the order of the board.
func at(placed []Placed) string {
	placed = slices.Clone(placed)
	slices.SortFunc(placed, func(a, b Placed) int { return a.Start - b.Start })
	var l []string
	for _, p := range placed {
		l = append(l, fmt.Sprintf("%s@%d", p.Profile.Name, p.Start))
	}
	return strings.Join(l, " ")
}

func TestPlace(t *testing.T) {
	for name, test := range map[string]struct {
		model    string // default: A100-SXM4-40GB
		profiles string
		occupied Slots
		want     string
		wantErr  string
	}{
		"3g before the 4g that has one place": {profiles: "3g.20gb 4g.20gb", want: "4g.20gb@0 3g.20gb@4"},
		"small ones first":                    {profiles: "1g.5gb 2g.10gb 4g.20gb", want: "4g.20gb@0 2g.10gb@4 1g.5gb@6"},
		"2g that need the first half":         {profiles: "3g.20gb 2g.10gb 2g.10gb", want: "2g.10gb@0 2g.10gb@2 3g.20gb@4"},
		"balanced":                            {profiles: "1g.5gb 1g.5gb 2g.10gb 3g.20gb", want: "2g.10gb@0 1g.5gb@2 1g.5gb@3 3g.20gb@4"},
		"seven":                               {profiles: "1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb 1g.5gb", want: "1g.5gb@0 1g.5gb@1 1g.5gb@2 1g.5gb@3 1g.5gb@4 1g.5gb@5 1g.5gb@6"},
		"nothing":                             {want: ""},
		"two 3g fill the memory": {
			profiles: "3g.20gb 3g.20gb 1g.5gb", wantErr: "3g.20gb (2 times) and 1g.5gb need 9 memory slots; the board has 8",
		},
		"four 2g": {
			profiles: "2g.10gb 2g.10gb 2g.10gb 2g.10gb", wantErr: "2g.10gb fits at most 3 times on one A100-SXM4-40GB, not 4 times",
		},
		"beside the whole board": {
			profiles: "7g.40gb 1g.5gb", wantErr: "7g.40gb and 1g.5gb need 8 compute slices; the board has 7",
		},
		"no half is free": {
			profiles: "3g.20gb", occupied: SlotSet(0, 1, 5), wantErr: "3g.20gb needs slots 0-3 or 4-7; slots 0, 1 and 5 are taken",
		},
		"the second half is free": {profiles: "3g.20gb", occupied: SlotSet(0, 1, 2), want: "3g.20gb@4"},
		"only together impossible": {
			profiles: "2g.10gb 1g.5gb 2g.10gb 2g.10gb", occupied: SlotSet(6),
			wantErr: "2g.10gb (3 times) and 1g.5gb cannot be placed together: 2g.10gb needs slots 0-1, 2-3 or 4-5, 1g.5gb needs slots 0, 1, 2, 3, 4, 5 or 6; slot 6 is taken",
		},
		"too little is free": {
			profiles: "3g.20gb 4g.20gb", occupied: SlotSet(5),
			wantErr: "4g.20gb and 3g.20gb need 8 memory slots; the board has 8, of which slot 5 is taken",
		},
		"1g leaves room for a 4g":  {profiles: "1g.5gb", want: "1g.5gb@6"},
		"2g leaves room for a 4g":  {profiles: "2g.10gb", want: "2g.10gb@4"},
		"3g leaves room for a 4g":  {profiles: "3g.20gb", want: "3g.20gb@4"},
		"1g goes into a gap":       {profiles: "1g.5gb", occupied: SlotSet(0), want: "1g.5gb@1"},
		"one media extension":      {profiles: "1g.5gb+me 1g.5gb+me", wantErr: "1g.5gb+me fits at most once on one A100-SXM4-40GB, not 2 times"},
		"media engines are shared": {model: "A30", profiles: "1g.6gb+me 2g.12gb+me", wantErr: "2g.12gb+me and 1g.6gb+me need 2 JPEG decoders; the board has 1"},
		"a quarter of an A30":      {model: "A30", profiles: "1g.6gb 2g.12gb 1g.6gb", want: "2g.12gb@0 1g.6gb@2 1g.6gb@3"},
		"all media engines": {
			model: "RTX PRO 6000 Blackwell", profiles: "1g.24gb+me.all 1g.24gb-me 2g.48gb-me", want: "2g.48gb-me@0 1g.24gb+me.all@2 1g.24gb-me@3",
		},
		"no media engines left": {
			model: "RTX PRO 6000 Blackwell", profiles: "1g.24gb+me.all 1g.24gb", wantErr: "1g.24gb and 1g.24gb+me.all need 5 video decoders; the board has 4",
		},
		"unknown": {
			profiles: "3g.40gb", wantErr: `A100-SXM4-40GB has no MIG profile "3g.40gb"; it has 1g.5gb, 1g.5gb+me, 1g.10gb, 2g.10gb, 3g.20gb, 4g.20gb, 7g.40gb`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.model == "" {
				test.model = "A100-SXM4-40GB"
			}
			m := modelOf(t, test.model)
			for profiles := range permutations(strings.Fields(test.profiles)) {
				placed, err := m.Place(profiles, test.occupied)
				if test.wantErr != "" {
					if err == nil || err.Error() != test.wantErr {
						t.Fatalf("placing %v: error = %v\n want %s", profiles, err, test.wantErr)
					}
					continue
				}
				if err != nil || at(placed) != test.want {
					t.Fatalf("placing %v = %s, %v, want %s", profiles, at(placed), err, test.want)
				}
				for i, p := range placed {
					if p.Profile.Name != profiles[i] {
						t.Fatalf("placing %v: the %dth place is of %s", profiles, i, p.Profile.Name)
					}
				}
			}
		})
	}
}

// permutations are all orders of a list; of more than five only the list
// itself and its reverse.
func permutations(l []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		if len(l) > 5 {
			reverse := slices.Clone(l)
			slices.Reverse(reverse)
			_ = yield(l) && yield(reverse)
			return
		}
		var permute func(done, rest []string) bool
		permute = func(done, rest []string) bool {
			if len(rest) == 0 {
				return yield(slices.Clone(done))
			}
			for i := range rest {
				others := slices.Delete(slices.Clone(rest), i, i+1)
				if !permute(append(slices.Clone(done), rest[i]), others) {
					return false
				}
			}
			return true
		}
		permute(nil, l)
	}
}

// everyLayout calls found with each set of slices that can be on a board at
// once beside occupied slots, by trying all that is not forbidden.
func everyLayout(m Model, occupied Slots, most int, found func([]Placed)) {
	var candidates []Placed
	for _, p := range m.Profiles {
		for _, start := range p.Starts {
			candidates = append(candidates, Placed{p, Placement{start, p.Size}})
		}
	}
	var extend func(layout []Placed, from int, taken Slots)
	extend = func(layout []Placed, from int, taken Slots) {
		count := make(map[string]int)
		var engines Engines
		compute := 0
		for _, p := range layout {
			count[p.Profile.Name]++
			engines = engines.plus(p.Profile.Engines)
			compute += p.Profile.Compute
			if count[p.Profile.Name] > p.Profile.Max || compute > m.Compute || engines.beyond(m.Engines) != "" {
				return
			}
		}
		found(layout)
		if len(layout) == most {
			return
		}
		for i := from; i < len(candidates); i++ {
			if c := candidates[i]; taken&c.Slots() == 0 {
				extend(append(slices.Clone(layout), c), i+1, taken|c.Slots())
			}
		}
	}
	extend(nil, 0, occupied)
}

// key names a set of profiles.
func key(profiles []string) string {
	profiles = slices.Clone(profiles)
	slices.Sort(profiles)
	return strings.Join(profiles, " ")
}

// everySet calls do with all sets of at most n profiles.
func everySet(m Model, n int, do func([]string)) {
	var extend func(set []string, from int)
	extend = func(set []string, from int) {
		do(set)
		if len(set) == n {
			return
		}
		for i := from; i < len(m.Profiles); i++ {
			extend(append(slices.Clone(set), m.Profiles[i].Name), i)
		}
	}
	extend(nil, 0)
}

// checkAgainstOracle compares Place with brute force: the same sets are
// possible, and what is left free is the best that any way leaves.
func checkAgainstOracle(t *testing.T, m Model, occupied Slots, most int) (layouts, sets int) {
	t.Helper()
	s := &search{model: m, room: make(map[Slots][]int)}
	roomOf := func(layout []Placed) []int {
		taken := occupied
		for _, p := range layout {
			taken |= p.Slots()
		}
		return s.roomBeside(taken)
	}
	best := make(map[string][]int)
	everyLayout(m, occupied, most, func(layout []Placed) {
		layouts++
		var names []string
		for _, p := range layout {
			names = append(names, p.Profile.Name)
		}
		k, room := key(names), roomOf(layout)
		if old, ok := best[k]; !ok || slices.Compare(room, old) > 0 {
			best[k] = room
		}
	})
	everySet(m, most, func(set []string) {
		sets++
		placed, err := m.Place(set, occupied)
		want, possible := best[key(set)]
		if (err == nil) != possible {
			t.Fatalf("%s beside slots %s: %v, %v; by brute force possible = %t", key(set), occupied, at(placed), err, possible)
		}
		if err != nil {
			return
		}
		checkLegal(t, m, placed, occupied)
		if got := roomOf(placed); slices.Compare(got, want) != 0 {
			t.Fatalf("%s beside slots %s at %s leaves room %v; %v is possible", key(set), occupied, at(placed), got, want)
		}
	})
	return layouts, sets
}

func checkLegal(t *testing.T, m Model, placed []Placed, occupied Slots) {
	t.Helper()
	taken := occupied
	for _, p := range placed {
		if !slices.Contains(p.Profile.Starts, p.Start) || p.Size != p.Profile.Size || p.Start+p.Size > m.Slots || taken&p.Slots() != 0 {
			t.Fatalf("%s at %d:%d is not legal beside slots %s", p.Profile.Name, p.Start, p.Size, taken)
		}
		taken |= p.Slots()
	}
}

func TestPlaceAgainstBruteForce(t *testing.T) {
	for _, name := range []string{"A100-SXM4-40GB", "A30", "RTX PRO 6000 Blackwell"} {
		m := modelOf(t, name)
		layouts, sets := checkAgainstOracle(t, m, 0, m.Compute+1)
		t.Logf("%s: %d layouts, %d sets of profiles", name, layouts, sets)
		if testing.Short() {
			continue
		}
		for occupied := Slots(1); occupied <= m.allSlots(); occupied++ {
			checkAgainstOracle(t, m, occupied, 3)
		}
	}
}

// firstFit is what a driver does with instances in the order that they are
// asked for.
func firstFit(m Model, profiles []string, occupied Slots) ([]Placed, bool) {
	var placed []Placed
	for _, name := range profiles {
		p, _ := m.Profile(name)
		at := slices.IndexFunc(p.Starts, func(start int) bool { return occupied&(Placement{start, p.Size}).Slots() == 0 })
		if at < 0 {
			return nil, false
		}
		placed = append(placed, Placed{p, Placement{p.Starts[at], p.Size}})
		occupied |= placed[len(placed)-1].Slots()
	}
	return placed, true
}

func TestNeverWorseThanFirstFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		profiles := rapid.SliceOfN(rapid.SampledFrom(m.ProfileNames()), 0, 7).Draw(t, "profiles")
		occupied := Slots(rapid.Uint16Range(0, uint16(m.allSlots())).Draw(t, "occupied"))
		placed, err := m.Place(profiles, occupied)
		naive, ok := firstFit(m, profiles, occupied)
		if !ok {
			return
		}
		if err != nil {
			// First-fit knows nothing of the board's engines and counts.
			if strings.Contains(err.Error(), "fits at most") || strings.Contains(err.Error(), "decoders") || strings.Contains(err.Error(), "engines") || strings.Contains(err.Error(), "compute slices") {
				return
			}
			t.Fatalf("%v: %v, but first-fit has %s", profiles, err, at(naive))
		}
		s := &search{model: m, room: make(map[Slots][]int)}
		room := func(placed []Placed) []int {
			taken := occupied
			for _, p := range placed {
				taken |= p.Slots()
			}
			return s.roomBeside(taken)
		}
		if slices.Compare(room(placed), room(naive)) < 0 {
			t.Fatalf("%s leaves less than first-fit's %s", at(placed), at(naive))
		}
		shuffled := rapid.Permutation(profiles).Draw(t, "shuffled")
		again, err := m.Place(shuffled, occupied)
		if err != nil || at(again) != at(placed) {
			t.Fatalf("%v at %s; in another order %s, %v", profiles, at(placed), at(again), err)
		}
	})
}

func TestSlots(t *testing.T) {
	for want, s := range map[string]Slots{"": 0, "3": SlotSet(3), "0 and 7": SlotSet(0, 7), "0, 1 and 5": SlotSet(5, 1, 0)} {
		if s.String() != want {
			t.Errorf("%016b = %q, want %q", s, s.String(), want)
		}
	}
	if diff := cmp.Diff(SlotSet(4, 5, 6, 7), Placement{4, 4}.Slots()); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkPlace(b *testing.B) {
	m := modelOf(b, "A100-SXM4-40GB")
	for b.Loop() {
		if _, err := m.Place([]string{"1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"}, 0); err != nil {
			b.Fatal(err)
		}
	}
}
