// Package layout reads the layouts that operators give names to, and chooses
// the boards of a machine that each is for.
//
// A file has the shape that NVIDIA's mig-parted reads, and more ways to choose
// boards:
//
//	version: v1
//	mig-configs:
//	  training:
//	    - devices: [0, 1, 2, 3]
//	      mig-enabled: false
//	    - devices: [4, 5, 6, 7]
//	      mig-enabled: true
//	      mig-devices:
//	        "3g.20gb": 1
//	        "2g.10gb": 1
//	        "1g.5gb": 2
//
// What is wrong with a file is told with file and line, all of it at once. A
// layout that a board cannot have is wrong too, wherever the models that it
// may be for are known.
package layout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// File is the layouts of a file, by name.
type File struct {
	name    string
	layouts map[string][]entry
}

// entry is how some boards are to be cut.
type entry struct {
	at       string // file:line
	choice   Choice
	enabled  bool
	profiles []string
}

// Choice chooses boards. What is empty does not restrict; the zero Choice is
// all boards that have a MIG mode.
type Choice struct {
	// Nodes are names of machines.
	Nodes []string
	// Models are product names as NVML reports them, and PCI device IDs
	// ("0x20B010DE").
	Models []string
	// Indexes and IDs (UUIDs) name boards of a machine; a board that either
	// names is chosen.
	Indexes []int
	IDs     []string
}

// ParseChoice reads a choice of boards: "all", or a comma-separated list of
// indexes, UUIDs and product names.
func ParseChoice(text string) (Choice, error) {
	var c Choice
	if text == "all" || text == "" {
		return c, nil
	}
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		index, err := strconv.Atoi(part)
		_, isModel := mig.ModelOf(part)
		switch {
		case err == nil && index >= 0:
			c.Indexes = append(c.Indexes, index)
		case strings.HasPrefix(part, "GPU-"):
			c.IDs = append(c.IDs, part)
		case isModel:
			c.Models = append(c.Models, part)
		default:
			return Choice{}, fmt.Errorf("%q is no board; use all, or a list of indexes (0,1), UUIDs (GPU-…) and product names (%s, …)", part, mig.ModelNames()[1])
		}
	}
	return c, nil
}

// has reports whether a board is chosen, on a node that is.
func (c Choice) has(b mig.Board) bool {
	if len(c.Models) > 0 && !slices.ContainsFunc(c.Models, func(m string) bool { return sameModel(m, b) }) {
		return false
	}
	named := len(c.Indexes) > 0 || len(c.IDs) > 0
	return !named || slices.Contains(c.Indexes, b.Index) || slices.Contains(c.IDs, b.ID)
}

func sameModel(want string, b mig.Board) bool {
	if strings.EqualFold(want, b.PCIDeviceID) || strings.EqualFold(want, b.Product) {
		return true
	}
	wanted, ok := mig.Board{Product: want, PCIDeviceID: want}.Model()
	has, known := b.Model()
	return ok && known && wanted.Name == has.Name
}

var errNoBoards = errors.New("this machine has no boards with a MIG mode")

// Choose returns the boards that are chosen, whatever the node. One that is
// named must be there.
func (c Choice) Choose(boards []mig.Board) ([]mig.Board, error) {
	if len(boards) == 0 {
		return nil, errNoBoards
	}
	if missing := c.missing(boards); len(missing) > 0 {
		return nil, fmt.Errorf("no board %s with a MIG mode on this machine; it has %s", strings.Join(missing, ", "), describeBoards(boards))
	}
	var chosen []mig.Board
	for _, b := range boards {
		if c.has(b) {
			chosen = append(chosen, b)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no such board with a MIG mode on this machine; it has %s", describeBoards(boards))
	}
	return chosen, nil
}

// missing are the boards that the choice names and the machine lacks.
func (c Choice) missing(boards []mig.Board) []string {
	var names []string
	for _, i := range c.Indexes {
		if !slices.ContainsFunc(boards, func(b mig.Board) bool { return b.Index == i }) {
			names = append(names, strconv.Itoa(i))
		}
	}
	for _, id := range c.IDs {
		if !slices.ContainsFunc(boards, func(b mig.Board) bool { return b.ID == id }) {
			names = append(names, id)
		}
	}
	return names
}

// Target is a layout for one board.
type Target struct {
	Board  mig.Board
	Layout mig.Layout
}

// Names lists the layouts of a file, sorted.
func (f File) Names() []string {
	names := make([]string, 0, len(f.layouts))
	for name := range f.layouts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Resolve tells how a layout of the file wants each board of a node: the
// boards are those that have a MIG mode, so "all" means no others. Those that
// no entry is for are left out. A name that the file does not have is a
// built-in one.
func (f File) Resolve(name, node string, boards []mig.Board) ([]Target, error) {
	entries, ok := f.layouts[name]
	if !ok {
		targets, err := BuiltIn(name, boards)
		if err != nil && len(f.layouts) > 0 {
			return nil, fmt.Errorf("%s has no layout %q; it has %s, and built in are %s", f.name, name, strings.Join(f.Names(), ", "), BuiltInNames)
		}
		return targets, err
	}
	var problems []error
	var targets []Target
	chosenBy := make(map[string]string)
	for _, e := range entries {
		if !e.choice.isFor(node) {
			continue
		}
		if missing := e.choice.missing(boards); len(missing) > 0 && e.enabled {
			problems = append(problems, fmt.Errorf("%s: no board %s with a MIG mode on this machine; it has %s", e.at, strings.Join(missing, ", "), describeBoards(boards)))
		}
		for _, b := range boards {
			if !e.choice.has(b) {
				continue
			}
			if by, twice := chosenBy[b.ID]; twice {
				problems = append(problems, fmt.Errorf("%s: board %d (%s) has a layout from %s already", e.at, b.Index, b.ID, by))
				continue
			}
			chosenBy[b.ID] = e.at
			l, err := e.layout(b)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: board %d (%s): %w", e.at, b.Index, b.Product, err))
				continue
			}
			targets = append(targets, Target{b, l})
		}
	}
	if len(problems) == 0 && len(targets) == 0 {
		problems = append(problems, fmt.Errorf("layout %q of %s is for no board of this machine; it has %s", name, f.name, describeBoards(boards)))
	}
	return sorted(targets), errors.Join(problems...)
}

func (c Choice) isFor(node string) bool {
	return len(c.Nodes) == 0 || slices.Contains(c.Nodes, node)
}

func describeBoards(boards []mig.Board) string {
	if len(boards) == 0 {
		return "no boards with a MIG mode"
	}
	names := make([]string, len(boards))
	for i, b := range boards {
		names[i] = fmt.Sprintf("%d (%s)", b.Index, b.Product)
	}
	return strings.Join(names, ", ")
}

func (e entry) layout(b mig.Board) (mig.Layout, error) {
	if !e.enabled {
		return mig.Layout{}, nil
	}
	return profilesOn(b, e.profiles)
}

func profilesOn(b mig.Board, profiles []string) (mig.Layout, error) {
	m, ok := b.Model()
	if !ok {
		return mig.Layout{}, fmt.Errorf("it is of no model with known MIG profiles; those are %s", strings.Join(mig.ModelNames(), ", "))
	}
	return mig.NewLayout(m, profiles)
}

func sorted(targets []Target) []Target {
	slices.SortStableFunc(targets, func(a, b Target) int { return cmp.Compare(a.Board.Index, b.Board.Index) })
	return targets
}

// Profiles is a layout of the given profiles for each of the boards.
func Profiles(profiles []string, boards []mig.Board) ([]Target, error) {
	return each(boards, func(b mig.Board) (mig.Layout, error) { return profilesOn(b, profiles) })
}

func each(boards []mig.Board, layout func(mig.Board) (mig.Layout, error)) ([]Target, error) {
	if len(boards) == 0 {
		return nil, errNoBoards
	}
	var problems []error
	var targets []Target
	for _, b := range boards {
		l, err := layout(b)
		if err != nil {
			problems = append(problems, fmt.Errorf("board %d (%s): %w", b.Index, b.Product, err))
		}
		targets = append(targets, Target{b, l})
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return sorted(targets), nil
}

// BuiltInNames says which names BuiltIn knows.
const BuiltInNames = "all-disabled, all-enabled, all-balanced and all-<profile>"

// BuiltIn is a layout that needs no file: all-disabled, all-enabled (MIG mode
// without slices), all-balanced, and all-<profile>, which is as many of the
// profile as fit (all-1g.5gb; all-1g.5gb.me is for 1g.5gb+me).
func BuiltIn(name string, boards []mig.Board) ([]Target, error) {
	what, ok := strings.CutPrefix(name, "all-")
	if !ok {
		return nil, fmt.Errorf("unknown MIG layout %q; built in are %s", name, BuiltInNames)
	}
	return each(boards, func(b mig.Board) (mig.Layout, error) {
		if what == "disabled" {
			return mig.Layout{}, nil
		}
		if what == "enabled" {
			return mig.Layout{Enabled: true}, nil
		}
		m, ok := b.Model()
		if !ok {
			return profilesOn(b, nil)
		}
		if what == "balanced" {
			return mig.NewLayout(m, m.Balanced)
		}
		p, err := m.Profile(withSuffix(what))
		if err != nil {
			return mig.Layout{}, err
		}
		return mig.NewLayout(m, slices.Repeat([]string{p.Name}, p.Max))
	})
}

// withSuffix turns the "1g.5gb.me" of a layout's name into "1g.5gb+me".
func withSuffix(profile string) string {
	if at := strings.Index(profile, "gb."); at >= 0 {
		return profile[:at+2] + "+" + profile[at+3:]
	}
	return profile
}
