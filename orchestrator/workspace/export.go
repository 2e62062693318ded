package workspace

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// block is a block of a file: what is exported, and what plans compare.
type block struct {
	kind, name string
	attrs      []attr
	blocks     []block
}

// attr is an attribute with the text of its value.
type attr struct{ name, value string }

func (b *block) set(name, value string) { b.attrs = append(b.attrs, attr{name, value}) }

func (b *block) text(name, value string) {
	if value != "" {
		b.set(name, quoted(value))
	}
}

func (b *block) texts(name string, values []string) {
	if len(values) == 0 {
		return
	}
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = quoted(v)
	}
	b.set(name, "["+strings.Join(all, ", ")+"]")
}

func (b *block) integer(name string, n int) {
	if n != 0 {
		b.set(name, strconv.Itoa(n))
	}
}

func (b *block) duration(name string, d Duration) {
	if d != 0 {
		b.set(name, quoted(d.String()))
	}
}

func (b *block) yes(name string, v bool) {
	if v {
		b.set(name, "true")
	}
}

func (b *block) limit(name string, a *Amount) {
	if a != nil {
		b.set(name, a.String())
	}
}

func (b *block) memory(name string, mib int64) {
	switch {
	case mib == 0:
	case mib%1024 == 0:
		b.set(name, fmt.Sprintf(`"%d GiB"`, mib/1024))
	default:
		b.set(name, fmt.Sprintf(`"%d MiB"`, mib))
	}
}

// quoted is text as HCL writes it.
func quoted(text string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes())
}

// tree is d as blocks, in canonical order.
func (d Definitions) tree() []block {
	d = d.canonical()
	var all []block
	if d.Policy != (Policy{}) {
		all = append(all, d.Policy.block())
	}
	for _, f := range d.Flavors {
		b := block{kind: "flavor", name: f.Name}
		b.text("vendor", f.Vendor)
		b.text("type", f.Type)
		b.text("model", f.Model)
		b.memory("memory_min", f.MemoryMinMiB)
		b.memory("memory_max", f.MemoryMaxMiB)
		all = append(all, b)
	}
	for _, c := range d.PriorityClasses {
		b := block{kind: "priority_class", name: c.Name}
		b.set("value", strconv.Itoa(c.Value))
		b.yes("default", c.Default)
		b.text("description", c.Description)
		all = append(all, b)
	}
	for _, c := range d.Cohorts {
		b := block{kind: "cohort", name: c.Name}
		b.text("parent", c.Parent)
		b.integer("weight", c.Weight)
		b.blocks = append(c.Quotas.blocks(), scheduleBlocks(c.Schedules)...)
		all = append(all, b)
	}
	for _, w := range d.Workspaces {
		all = append(all, w.block())
	}
	return all
}

func (p Policy) block() block {
	b := block{kind: "policy"}
	b.duration("run_time", p.RunTime)
	b.duration("half_life", p.HalfLife)
	b.duration("aging", p.Aging)
	b.duration("patience", p.Patience)
	b.duration("min_run_time", p.MinRunTime)
	b.duration("preemption_delay", p.PreemptionDelay)
	b.integer("max_evictions", p.MaxEvictions)
	b.yes("hold_undeclared", p.HoldUndeclared)
	return b
}

func (w Workspace) block() block {
	b := block{kind: "workspace", name: w.Name}
	b.text("namespace", w.Namespace)
	b.texts("node_pools", w.NodePools)
	b.text("cohort", w.Cohort)
	b.integer("weight", w.Weight)
	b.yes("strict", w.Strict)
	b.texts("priority_classes", w.PriorityClasses)
	if w.Preemptible != nil {
		b.set("preemptible", strconv.FormatBool(*w.Preemptible))
	}
	b.blocks = w.Quotas.blocks()
	for _, f := range slices.Sorted(maps.Keys(w.Serving)) {
		s := block{kind: "serving", name: string(f)}
		s.set("floor", w.Serving[f].Floor.String())
		s.set("headroom", w.Serving[f].Headroom.String())
		b.blocks = append(b.blocks, s)
	}
	if w.Budget != nil {
		budget := block{kind: "budget"}
		budget.set("gpu_hours", w.Budget.GPUHours.String())
		budget.text("per", string(w.Budget.Per))
		b.blocks = append(b.blocks, budget)
	}
	b.blocks = append(b.blocks, scheduleBlocks(w.Schedules)...)
	return b
}

func (q Quotas) blocks() []block {
	var all []block
	for _, f := range slices.Sorted(maps.Keys(q)) {
		b := block{kind: "quota", name: string(f)}
		b.set("nominal", q[f].Nominal.String())
		b.limit("borrow", q[f].Borrow)
		b.limit("lend", q[f].Lend)
		all = append(all, b)
	}
	return all
}

func scheduleBlocks(schedules []Schedule) []block {
	all := make([]block, len(schedules))
	for i, s := range schedules {
		b := block{kind: "schedule", name: s.Name}
		b.texts("days", s.Days)
		b.text("from", s.From)
		b.text("to", s.To)
		b.text("cron", s.Cron)
		b.duration("duration", s.Duration)
		b.text("timezone", s.Timezone)
		b.blocks = s.Quotas.blocks()
		all[i] = b
	}
	return all
}

// Export writes d as a file that Parse reads. Equal definitions give equal files.
func (d Definitions) Export() []byte {
	var out bytes.Buffer
	for i, b := range d.tree() {
		if i > 0 {
			out.WriteByte('\n')
		}
		b.write(&out)
	}
	return hclwrite.Format(out.Bytes())
}

func (b block) write(out *bytes.Buffer) {
	out.WriteString(b.kind)
	if b.name != "" {
		out.WriteString(" " + quoted(b.name))
	}
	if len(b.attrs)+len(b.blocks) == 0 {
		out.WriteString(" {}\n")
		return
	}
	out.WriteString(" {\n")
	for _, a := range b.attrs {
		out.WriteString(a.name + " = " + a.value + "\n")
	}
	for i, inner := range b.blocks {
		if i > 0 || len(b.attrs) > 0 {
			out.WriteByte('\n')
		}
		inner.write(out)
	}
	out.WriteString("}\n")
}

// canonical is a copy of d in canonical order.
func (d Definitions) canonical() Definitions {
	d.Flavors, d.PriorityClasses = slices.Clone(d.Flavors), slices.Clone(d.PriorityClasses)
	d.Cohorts, d.Workspaces = slices.Clone(d.Cohorts), slices.Clone(d.Workspaces)
	d.sort()
	return d
}

// Without is d without a workspace; problem.NotFound if it has none of that name.
func (d Definitions) Without(name string) (Definitions, error) {
	if _, err := d.Workspace(name); err != nil {
		return Definitions{}, err
	}
	d.Workspaces = slices.DeleteFunc(slices.Clone(d.Workspaces), func(w Workspace) bool { return w.Name == name })
	return d, nil
}
