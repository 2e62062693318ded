package pipeline

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	maxMembers         = 1024 // of a gang
	defaultGangTimeout = 10 * time.Minute
)

// scheduling reads what the queue goes by. It comes after timeout and
// checkpoint, which give the defaults.
func (b *nodeBuilder) scheduling(step *Step) {
	step.Preemptible = b.boolean("preemptible", step.Checkpoint != nil)
	step.RunTime = b.duration("run_time", step.Timeout, time.Second)
	if step.Timeout > 0 && step.RunTime > step.Timeout {
		b.report(problem(b.body.Attributes["run_time"].Expr.Range(), "Longer than its timeout",
			fmt.Sprintf("An attempt is stopped after %s, so it cannot run for %s.", step.Timeout, step.RunTime)))
	}
	if block := only(b.body, "gang"); block != nil {
		step.Gang = b.gang(block)
	}
}

// gang reads a gang block.
func (b *nodeBuilder) gang(block *hclsyntax.Block) *Gang {
	b.noLabels(block)
	r := b.inner(block, "gang block", fields{attrs: []string{"size", "min", "max", "within", "required", "timeout"}})
	g := &Gang{
		Within:   Level(r.choice("within", "", string(Island), string(Host), string(Rack), string(Block))),
		Required: r.boolean("required", false),
		Timeout:  r.duration("timeout", defaultGangTimeout, time.Second),
	}
	if required := block.Body.Attributes["required"]; required != nil && block.Body.Attributes["within"] == nil {
		b.report(problem(required.NameRange, "Required what?",
			"required says whether the gang waits for a domain: name its level as well, as in within = \"rack\"."))
	}
	if block.Body.Attributes["size"] == nil && block.Body.Attributes["min"] == nil && block.Body.Attributes["max"] == nil {
		b.report(problem(block.Body.MissingItemRange(), "Missing attribute",
			"The gang block needs the number of members: size, or min and max."))
		return g
	}
	if block.Body.Attributes["size"] == nil {
		r.required("min", "max")
		g.Min = int(r.integer("min", 1, 1, maxMembers))
		g.Max = int(r.integer("max", int64(g.Min), 1, maxMembers))
		if g.Min > g.Max {
			b.report(problem(block.Body.Attributes["max"].Expr.Range(), "Empty range",
				fmt.Sprintf("No gang has at least %d and at most %d members.", g.Min, g.Max)))
		}
		return g
	}
	g.Min = int(r.integer("size", 1, 1, maxMembers))
	g.Max = g.Min
	for _, name := range []string{"min", "max"} {
		if a := block.Body.Attributes[name]; a != nil {
			b.report(problem(a.NameRange, "Conflicting attributes",
				"A gang has one size, or as many members as there is room for between min and max: take one of the two."))
		}
	}
	return g
}

// topology reads the topology block of a gpu block.
func (b *nodeBuilder) topology(block *hclsyntax.Block) *Topology {
	b.noLabels(block)
	r := b.inner(block, "topology block", fields{attrs: []string{"level", "required"}})
	r.required("level")
	level, at, ok := r.str("level")
	t := &Topology{Level: Level(level), Required: r.boolean("required", false)}
	switch {
	case !ok || t.Level == Island || t.Level == Host:
	case t.Level == Rack || t.Level == Block:
		b.report(problem(at, "Unknown level",
			fmt.Sprintf("The GPUs of one process are always on one host. For several processes in one %s, say within = %q in a gang block.", level, level)))
	default:
		b.report(problem(at, "Unknown level",
			fmt.Sprintf("level cannot be %q.%s", level, b.suggest(level, []string{string(Island), string(Host)}))))
	}
	return t
}
