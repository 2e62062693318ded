package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"

	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/holding"
	"github.com/drover-ml/drover/device-plugin/mig/layout"
)

const migUsage = `Usage: nomad-device-gpu mig plan|apply|assert [options]

  mig plan -model <product> -profiles <list>  find places for slices on a board of
                                              that model; needs no GPU
  mig plan   -layout <name> [-file <file>]    print what apply would do to this machine
  mig apply  -layout <name> [-file <file>]    cut the boards of this machine
  mig assert -layout <name> [-file <file>]    exit with 1 unless they are cut like that

Instead of -layout and -file, -profiles gives the slices of each board.
mig <command> -h lists the options of one.
`

// migCommand plans, applies and checks MIG layouts.
func migCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("plan, apply or assert?")
	}
	what, args := args[0], args[1:]
	switch what {
	case "plan":
		return migPlanCommand(ctx, args, stdout, stderr)
	case "apply":
		return migApplyCommand(ctx, args, stdout, stderr)
	case "assert":
		return migAssertCommand(ctx, args, stdout, stderr)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, migUsage)
		return nil
	}
	return usagef("unknown command %q; there are plan, apply and assert", what)
}

// migOptions are what the commands have in common.
type migOptions struct {
	machine                         *Config
	layout, file, profiles, devices string
	json                            bool
}

func migFlags(flags *flag.FlagSet) *migOptions {
	o := &migOptions{machine: machineFlags(flags)}
	flags.StringVar(&o.layout, "layout", "", "`name` of a layout: one of -file, or all-disabled, all-enabled, all-balanced, all-<profile>")
	flags.StringVar(&o.file, "file", "", "`file` of layouts, in the shape that mig-parted reads")
	flags.StringVar(&o.profiles, "profiles", "", "instead of -layout: a comma-separated `list` of MIG profiles that each board gets")
	flags.StringVar(&o.devices, "devices", "all", "only these `boards`: a comma-separated list of indexes, UUIDs and product names")
	flags.BoolVar(&o.json, "json", false, "print JSON")
	return o
}

func (o *migOptions) check() error {
	switch {
	case o.layout == "" && o.profiles == "":
		return usagef("-layout or -profiles is missing")
	case o.layout != "" && o.profiles != "":
		return usagef("-layout and -profiles exclude each other")
	case o.file != "" && o.layout == "":
		return usagef("-file needs -layout, the name of one of its layouts")
	}
	return nil
}

// name is what the layout is called.
func (o *migOptions) name() string {
	if o.layout != "" {
		return o.layout
	}
	return strings.Join(listOf(o.profiles), ",")
}

func listOf(text string) []string {
	var l []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			l = append(l, part)
		}
	}
	return l
}

// migPlacing is what `mig plan -model -json` prints.
type migPlacing struct {
	Model      string         `json:"model"`
	Slots      int            `json:"slots"`
	Occupied   []int          `json:"occupied"`
	Possible   bool           `json:"possible"`
	Reason     string         `json:"reason,omitempty"`
	Placements []migPlacement `json:"placements"`
}

type migPlacement struct {
	Profile   string `json:"profile"`
	Start     int    `json:"start"`
	Size      int    `json:"size"`
	MemoryMiB *int64 `json:"memory_mib,omitempty"`
	Compute   []int  `json:"compute,omitempty"` // of its compute instances, where it is divided
}

func migPlanCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("mig plan")
	o := migFlags(flags)
	model := flags.String("model", "", "a `product` such as \"NVIDIA A100-SXM4-40GB\": find places for -profiles on a board of it, without a machine")
	occupied := flags.String("occupied", "", "with -model: a comma-separated list of memory `slots` that are in use")
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	if *model != "" {
		if o.profiles == "" || o.layout != "" {
			return usagef("-model needs -profiles, and no -layout")
		}
		return migPlace(*model, listOf(o.profiles), *occupied, o.json, stdout)
	}
	if *occupied != "" {
		return usagef("-occupied needs -model")
	}
	return o.onMachine(ctx, stdout, stderr, func(m *migMachine) error {
		return m.print(stdout, o.json)
	})
}

// migPlace finds places on a model.
func migPlace(product string, profiles []string, occupied string, asJSON bool, stdout io.Writer) error {
	m, ok := mig.ModelOf(product)
	if !ok {
		return fmt.Errorf("%q is no model with known MIG profiles; those are %s", product, strings.Join(mig.ModelNames(), ", "))
	}
	p := migPlacing{Model: product, Slots: m.Slots, Occupied: []int{}, Placements: []migPlacement{}}
	for _, text := range listOf(occupied) {
		slot, err := strconv.Atoi(text)
		if err != nil || slot < 0 || slot >= m.Slots {
			return usagef("-occupied is a list of memory slots from 0 to %d, not %q", m.Slots-1, text)
		}
		p.Occupied = append(p.Occupied, slot)
	}
	placed, err := placeOn(m, profiles, mig.SlotSet(p.Occupied...))
	if err != nil {
		p.Reason = err.Error()
	} else {
		p.Possible, p.Placements = true, placed
	}
	if asJSON {
		return errors.Join(writeJSON(stdout, p), err)
	}
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PROFILE\tSTART\tSIZE\tMEMORY")
	for _, p := range placed {
		memory := "-"
		if p.MemoryMiB != nil {
			memory = fmt.Sprintf("%d MiB", *p.MemoryMiB)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", p.Profile, p.Start, p.Size, memory)
	}
	return t.Flush()
}

// placeOn finds places for profiles, compute instances among them.
func placeOn(m mig.Model, profiles []string, occupied mig.Slots) ([]migPlacement, error) {
	l, err := mig.NewLayout(m, profiles)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(l.Instances))
	for i, w := range l.Instances {
		names[i] = w.Profile
	}
	placed, err := m.Place(names, occupied)
	if err != nil {
		return nil, err
	}
	placements := make([]migPlacement, len(placed))
	for i, p := range placed {
		placements[i] = migPlacement{p.Profile.Name, p.Start, p.Size, p.Profile.MemoryMiB, l.Instances[i].Compute}
	}
	return placements, nil
}

// migMachine is what is wanted of a machine, and what it takes.
type migMachine struct {
	name       string
	stateDir   string
	controller mig.Controller
	boards     []migBoard
}

type migBoard struct {
	layout.Target
	plan mig.Plan
}

// onMachine opens the machine, finds what is wanted of its boards and what it
// takes, and calls do. Nothing was changed then.
func (o *migOptions) onMachine(ctx context.Context, stdout, stderr io.Writer, do func(*migMachine) error) error {
	if err := o.check(); err != nil {
		return err
	}
	choice, err := layout.ParseChoice(o.devices)
	if err != nil {
		return usagef("-devices: %w", err)
	}
	file, err := readLayouts(o.file)
	if err != nil {
		return err
	}
	s, err := o.machine.check()
	if err != nil {
		return err
	}
	src := openSource(s, hclog.New(&hclog.LoggerOptions{Output: stderr}))
	defer src.Close()
	controller, ok := src.(mig.Controller)
	if !ok {
		return errors.New("the GPUs of this machine cannot be cut: the source of its inventory has no MIG control")
	}
	controller = holding.Controller{Controller: controller}
	boards, err := controller.Boards(ctx)
	if err != nil {
		return fmt.Errorf("reading the MIG state of the boards: %w", err)
	}
	if boards, err = choice.Choose(boards); err != nil {
		return err
	}
	var targets []layout.Target
	if o.layout != "" {
		targets, err = file.Resolve(o.layout, nodeName(s), boards)
	} else {
		targets, err = layout.Profiles(listOf(o.profiles), boards)
	}
	if err != nil {
		return err
	}
	m := &migMachine{name: o.name(), stateDir: s.stateDir, controller: controller}
	for _, t := range targets {
		plan, err := mig.NewPlan(t.Board, t.Layout)
		if err != nil {
			return fmt.Errorf("board %d (%s): %w", t.Board.Index, t.Board.ID, err)
		}
		m.boards = append(m.boards, migBoard{t, plan})
	}
	return do(m)
}

// nodeName is the machine's, as layouts name it.
func nodeName(s settings) string {
	if s.machine != nil {
		return s.machine.Node
	}
	name, _ := os.Hostname() // a layout for nodes by name then matches none, and says so
	return name
}

// readLayouts reads a file of layouts; none has the built-in ones.
func readLayouts(path string) (layout.File, error) {
	if path == "" {
		return layout.File{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return layout.File{}, fmt.Errorf("reading MIG layouts: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, layout.MaxBytes+1))
	if err != nil {
		return layout.File{}, fmt.Errorf("reading MIG layouts: %w", err)
	}
	return layout.Parse(path, src)
}

// migReport is what the commands print as JSON of a machine.
type migReport struct {
	Layout string           `json:"layout"`
	Boards []migBoardReport `json:"boards"`
}

type migBoardReport struct {
	ID      string     `json:"id"`
	Index   int        `json:"index"`
	Product string     `json:"product"`
	Want    mig.Layout `json:"want"`
	// Reached is set if nothing is to be done.
	Reached  bool           `json:"reached"`
	Kept     []migPlacement `json:"kept"`
	Steps    []migStep      `json:"steps"`
	InTheWay []int          `json:"in_the_way"` // PIDs
	// Phase and Reason are how it went, after apply.
	Phase  string `json:"phase,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type migStep struct {
	Op mig.Op `json:"op"`
	// The others are of destroy and create.
	Profile string `json:"profile,omitempty"`
	Start   *int   `json:"start,omitempty"`
	Size    *int   `json:"size,omitempty"`
	Compute []int  `json:"compute,omitempty"`
}

func (m *migMachine) report() migReport {
	r := migReport{Layout: m.name, Boards: []migBoardReport{}}
	for _, b := range m.boards {
		br := migBoardReport{
			ID: b.Board.ID, Index: b.Board.Index, Product: b.Board.Product, Want: b.Layout, Reached: len(b.plan.Steps) == 0,
			Kept: []migPlacement{}, Steps: []migStep{}, InTheWay: append([]int{}, b.plan.InTheWay(b.Board)...),
		}
		for _, in := range b.plan.Kept {
			br.Kept = append(br.Kept, placementOf(in))
		}
		for _, step := range b.plan.Steps {
			s := migStep{Op: step.Op}
			if step.Op == mig.Destroy || step.Op == mig.Create {
				p := placementOf(step.Instance)
				s.Profile, s.Start, s.Size, s.Compute = p.Profile, &p.Start, &p.Size, p.Compute
			}
			br.Steps = append(br.Steps, s)
		}
		r.Boards = append(r.Boards, br)
	}
	return r
}

func placementOf(in mig.Instance) migPlacement {
	p := migPlacement{Profile: in.Profile, Start: in.Placement.Start, Size: in.Placement.Size}
	if !in.Whole() {
		p.Compute = in.Compute
	}
	return p
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// print writes what is to be done, as a table or JSON.
func (m *migMachine) print(stdout io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(stdout, m.report())
	}
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BOARD\tID\tPRODUCT\tWHAT")
	for _, b := range m.boards {
		for i, what := range b.describe() {
			if i == 0 {
				fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", b.Board.Index, b.Board.ID, b.Board.Product, what)
			} else {
				fmt.Fprintf(t, "\t\t\t%s\n", what)
			}
		}
	}
	return t.Flush()
}

// describe is what is to be done for a board, in words.
func (b migBoard) describe() []string {
	if len(b.plan.Steps) == 0 {
		return []string{"as it should be: " + b.Layout.String()}
	}
	var l []string
	if pids := b.plan.InTheWay(b.Board); len(pids) > 0 {
		l = append(l, "wait for "+describeProcesses(pids))
	}
	for _, in := range b.plan.Kept {
		l = append(l, mig.Step{Op: "keep", Instance: in}.String())
	}
	for _, step := range b.plan.Steps {
		l = append(l, step.String())
	}
	return l
}

func describeProcesses(pids []int) string {
	const most = 5
	var l []string
	for _, pid := range pids[:min(len(pids), most)] {
		l = append(l, strconv.Itoa(pid))
	}
	if len(pids) > most {
		l = append(l, "…")
	}
	noun := "processes"
	if len(pids) == 1 {
		noun = "process"
	}
	return fmt.Sprintf("%d %s (%s)", len(pids), noun, strings.Join(l, ", "))
}

func migAssertCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("mig assert")
	o := migFlags(flags)
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	return o.onMachine(ctx, stdout, stderr, func(m *migMachine) error {
		if err := m.print(stdout, o.json); err != nil {
			return err
		}
		different := 0
		for _, b := range m.boards {
			if len(b.plan.Steps) > 0 {
				different++
			}
		}
		if different > 0 {
			return fmt.Errorf("%d of %d boards are not as %s wants them", different, len(m.boards), m.name)
		}
		return nil
	})
}

func migApplyCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("mig apply")
	o := migFlags(flags)
	var a migApply
	flags.BoolVar(&a.wait, "wait", false, "wait for processes that are in the way; without it a busy board is refused")
	flags.BoolVar(&a.evict, "evict", false, "as -wait, and ask the work that is in the way to checkpoint and leave")
	flags.DurationVar(&a.timeout, "timeout", 0, "with -wait or -evict: the longest `time` to wait, as 30m; default: for ever")
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	if a.timeout != 0 && !a.wait && !a.evict || a.timeout < 0 {
		return usagef("-timeout is a positive time, and needs -wait or -evict")
	}
	return o.onMachine(ctx, stdout, stderr, func(m *migMachine) error {
		progress := stdout
		if o.json {
			progress = stderr
		} else if err := m.print(stdout, false); err != nil {
			return err
		}
		ended, err := a.run(ctx, m, progress)
		if !o.json {
			return err
		}
		r := m.report()
		for i := range r.Boards {
			if ended == nil {
				break // it was refused
			}
			t := ended.Boards[r.Boards[i].ID]
			r.Boards[i].Phase, r.Boards[i].Reason = string(t.Phase), t.Reason
		}
		return errors.Join(writeJSON(stdout, r), err)
	})
}
