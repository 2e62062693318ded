package mig

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Slots is a set of memory slots of a board, as bits.
type Slots uint16

// SlotSet makes a set of slots. It panics below 0 and above 15.
func SlotSet(slots ...int) Slots {
	var s Slots
	for _, slot := range slots {
		if slot < 0 || slot > 15 {
			panic(fmt.Sprintf("memory slot %d", slot))
		}
		s |= 1 << slot
	}
	return s
}

// Slots are those that a placement covers.
func (p Placement) Slots() Slots { return (1<<p.Size - 1) << p.Start }

func (s Slots) list() []string {
	var l []string
	for slot := range 16 {
		if s&(1<<slot) != 0 {
			l = append(l, strconv.Itoa(slot))
		}
	}
	return l
}

// String is "0, 1 and 5".
func (s Slots) String() string { return enumerate(s.list(), "and") }

// enumerate is "a, b and c".
func enumerate(l []string, last string) string {
	if len(l) < 2 {
		return strings.Join(l, "")
	}
	return strings.Join(l[:len(l)-1], ", ") + " " + last + " " + l[len(l)-1]
}

// Placed is a slice at its place.
type Placed struct {
	Profile Profile
	Placement
}

// Place finds a legal place for each of the profiles, and returns them in the
// same order. Occupied slots are left alone. The order of the profiles does
// not matter: a place is found wherever there is one, or the error says why
// there is none.
//
// Of all ways it takes the one after which the largest profiles still have the
// most places, then the next smaller ones, and so on: a slice on an empty
// board goes where it does not break up the room for larger ones.
func (m Model) Place(profiles []string, occupied Slots) ([]Placed, error) {
	want := make([]Profile, len(profiles))
	for i, name := range profiles {
		p, err := m.Profile(name)
		if err != nil {
			return nil, err
		}
		want[i] = p
	}
	return m.placeBeside(want, nil, occupied)
}

// placeBeside places profiles beside slices that stay.
func (m Model) placeBeside(want []Profile, kept []Placed, occupied Slots) ([]Placed, error) {
	for _, k := range kept {
		occupied |= k.Slots()
	}
	// Large profiles have the fewest places, so they are tried first. Equal
	// ones keep their order, and get ascending places.
	order := make([]int, len(want))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return larger(want[a], want[b]) })
	sorted := make([]Profile, len(want))
	for i, at := range order {
		sorted[i] = want[at]
	}
	if err := m.checkAmounts(sorted, kept, occupied); err != nil {
		return nil, err
	}
	s := search{model: m, want: sorted, starts: make([]int, len(want)), room: make(map[Slots][]int)}
	s.try(0, occupied)
	if s.best == nil {
		return nil, m.conflict(sorted, occupied)
	}
	placed := make([]Placed, len(want))
	for i, at := range order {
		placed[at] = Placed{sorted[i], Placement{s.best[i], sorted[i].Size}}
	}
	return placed, nil
}

// search tries all ways to place profiles.
type search struct {
	model Model
	want  []Profile
	// starts are the places of the profiles so far.
	starts []int
	// best are the places of the best way so far, and bestRoom what it leaves.
	best, bestRoom []int
	room           map[Slots][]int // by the slots that are taken
}

func (s *search) try(i int, taken Slots) {
	if i == len(s.want) {
		if room := s.roomBeside(taken); s.best == nil || slices.Compare(room, s.bestRoom) > 0 {
			s.best, s.bestRoom = slices.Clone(s.starts), room
		}
		return
	}
	p := s.want[i]
	for _, start := range p.Starts {
		if i > 0 && s.want[i-1].Name == p.Name && start < s.starts[i-1] {
			continue // the same two the other way round
		}
		if slots := (Placement{start, p.Size}).Slots(); taken&slots == 0 {
			s.starts[i] = start
			s.try(i+1, taken|slots)
		}
	}
}

// roomBeside tells for each kind of profile, largest first, how many of it
// there is still room for.
func (s *search) roomBeside(taken Slots) []int {
	if room, ok := s.room[taken]; ok {
		return room
	}
	profiles := slices.Clone(s.model.Profiles)
	slices.SortFunc(profiles, larger)
	room := make([]int, len(profiles))
	for i, p := range profiles {
		// All take as many slots, so always taking the next free ones gives
		// the most.
		beside := taken
		for _, start := range p.Starts {
			if slots := (Placement{start, p.Size}).Slots(); beside&slots == 0 && room[i] < p.Max {
				beside |= slots
				room[i]++
			}
		}
	}
	s.room[taken] = room
	return room
}

// checkAmounts refuses what does not fit wherever it is placed.
func (m Model) checkAmounts(want []Profile, kept []Placed, occupied Slots) error {
	all := slices.Clone(want)
	for _, k := range kept {
		all = append(all, k.Profile)
	}
	count := make(map[string]int)
	var engines Engines
	compute, memory := 0, 0
	for i, p := range all {
		count[p.Name]++
		engines = engines.plus(p.Engines)
		compute += p.Compute
		if i < len(want) {
			memory += p.Size
		}
	}
	for _, p := range want {
		if count[p.Name] > p.Max {
			return fmt.Errorf("%s fits at most %s on one %s, not %d times", p.Name, times(p.Max), m.Name, count[p.Name])
		}
	}
	if compute > m.Compute {
		return fmt.Errorf("%s %d compute slices; the board has %d", need(all), compute, m.Compute)
	}
	if free := m.Slots - len((occupied & m.allSlots()).list()); memory > free {
		err := fmt.Errorf("%s %d memory slots; the board has %d", need(want), memory, m.Slots)
		if free < m.Slots {
			err = fmt.Errorf("%w, of which %s taken", err, areTaken(occupied))
		}
		// Of a single profile its places say more.
		if len(want) > 1 {
			return err
		}
	}
	if beyond := engines.beyond(m.Engines); beyond != "" {
		return fmt.Errorf("%s %s", need(all), beyond)
	}
	return nil
}

func (m Model) allSlots() Slots { return 1<<m.Slots - 1 }

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// areTaken is "slots 0, 1 and 5 are".
func areTaken(occupied Slots) string {
	if occupied&(occupied-1) == 0 {
		return "slot " + occupied.String() + " is"
	}
	return "slots " + occupied.String() + " are"
}

// need is "3g.20gb (2 times) and 1g.5gb need".
func need(profiles []Profile) string {
	if len(profiles) == 1 {
		return describe(profiles) + " needs"
	}
	return describe(profiles) + " need"
}

// describe is "3g.20gb (2 times) and 1g.5gb".
func describe(profiles []Profile) string {
	var names []string
	count := make(map[string]int)
	for _, p := range profiles {
		if count[p.Name]++; count[p.Name] == 1 {
			names = append(names, p.Name)
		}
	}
	for i, name := range names {
		if n := count[name]; n > 1 {
			names[i] = fmt.Sprintf("%s (%d times)", name, n)
		}
	}
	return enumerate(names, "and")
}

// conflict says why profiles have no place. It names the fewest of them that
// already have none.
func (m Model) conflict(want []Profile, occupied Slots) error {
	possible := func(want []Profile) bool {
		s := search{model: m, want: want, starts: make([]int, len(want)), room: make(map[Slots][]int)}
		s.try(0, occupied)
		return s.best != nil
	}
	for i := 0; i < len(want); {
		if without := slices.Delete(slices.Clone(want), i, i+1); !possible(without) {
			want = without
		} else {
			i++
		}
	}
	var needs []string
	for i, p := range want {
		if i == 0 || want[i-1].Name != p.Name {
			needs = append(needs, fmt.Sprintf("%s needs slots %s", p.Name, p.places()))
		}
	}
	reason := strings.Join(needs, ", ")
	if len(want) > 1 {
		reason = fmt.Sprintf("%s cannot be placed together: %s", describe(want), reason)
	}
	if occupied == 0 {
		return errors.New(reason)
	}
	return fmt.Errorf("%s; %s taken", reason, areTaken(occupied))
}

// places is "0-3 or 4-7".
func (p Profile) places() string {
	var l []string
	for _, start := range p.Starts {
		if p.Size == 1 {
			l = append(l, strconv.Itoa(start))
			continue
		}
		l = append(l, fmt.Sprintf("%d-%d", start, start+p.Size-1))
	}
	return enumerate(l, "or")
}
