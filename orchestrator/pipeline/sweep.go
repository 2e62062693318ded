package pipeline

import (
	"fmt"
	"maps"
	"math"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

var sweepFields = allStepFields.with(fields{
	attrs:    []string{"method", "trials", "parallel"},
	blocks:   []string{"metric", "parameter"},
	repeated: []string{"parameter"},
})

const defaultTrials = 10 // of a random search

func (b *nodeBuilder) sweep() {
	b.checkFields(b.body, "sweep", sweepFields)
	s := &Sweep{}
	b.node.Sweep = s
	s.Method = b.choice("method", "grid", "grid", "random")
	missing := int64(0)
	if s.Method == "random" {
		missing = defaultTrials
	}
	s.Trials = int(b.integer("trials", missing, 1, maxTrials))
	s.Parallel = int(b.integer("parallel", 0, 1, maxTrials))
	b.metric(s)
	b.searchParams(s)
	b.runnable(&s.Step)
	s.Seed = b.node.deferred.seed
	b.checkFixedParams(s)
	if !b.entity.hasEach || b.entity.bestParams == cty.DynamicPseudoType {
		b.entity.bestParams = b.bestParams(s)
	}
}

func (b *nodeBuilder) metric(s *Sweep) {
	block := only(b.body, "metric")
	if block == nil {
		b.report(problem(b.body.MissingItemRange(), "No metric",
			"A sweep needs to know which trial is best: metric \"name\" { goal = \"maximize\" }."))
		return
	}
	name, at := b.label(block, "metric")
	if name != "" && (len(name) > maxName || !printable(name)) {
		b.report(problem(at, "Invalid name", fmt.Sprintf("A metric's name has 1 to %d bytes and no control characters.", maxName)))
	}
	r := b.inner(block, "metric", fields{attrs: []string{"goal"}})
	r.required("goal")
	s.Metric = name
	s.Maximize = r.choice("goal", "maximize", "maximize", "minimize") == "maximize"
}

func (b *nodeBuilder) searchParams(s *Sweep) {
	var seen names
	size := 1
	for _, block := range b.body.Blocks {
		if block.Type != "parameter" {
			continue
		}
		name, at := b.label(block, "parameter")
		if name == "" || !b.checkFileName(name, at, "a parameter") {
			continue
		}
		if !b.first(&seen, "parameter", name, at) {
			continue
		}
		p, ok := b.searchParam(name, block, s.Method)
		if !ok {
			continue
		}
		s.Params = append(s.Params, p)
		if size = min(size, maxTrials+1) * min(p.gridSize(), maxTrials+1); s.Method == "grid" && s.Trials == 0 && size > maxTrials {
			b.report(problem(block.DefRange(), "Too many trials",
				fmt.Sprintf("With this parameter the grid has more than %d trials. Take fewer values, cap it with trials, or use method = \"random\".", maxTrials)))
			return
		}
	}
	if len(seen) == 0 {
		b.report(problem(b.body.MissingItemRange(), "No parameters",
			"A sweep needs something to search: parameter \"name\" { values = [ … ] }."))
	}
}

// searchParam reads one dimension: values, or a range.
func (b *nodeBuilder) searchParam(name string, block *hclsyntax.Block, method string) (SearchParam, bool) {
	r := b.inner(block, "parameter", fields{attrs: []string{"values", "min", "max", "scale", "integer"}})
	p := SearchParam{Name: name}
	if attr := block.Body.Attributes["values"]; attr != nil {
		for _, other := range []string{"min", "max", "scale", "integer"} {
			if a := block.Body.Attributes[other]; a != nil {
				b.report(problem(a.NameRange, "Conflicting attributes",
					fmt.Sprintf("A parameter has values, or a range from min to max: %s does not go with values.", other)))
				return p, false
			}
		}
		return b.searchValues(p, r)
	}
	r.required("min", "max")
	low, _, okMin := r.float("min")
	high, at, okMax := r.float("max")
	p.Min, p.Max = low, high
	p.Scale = r.choice("scale", "linear", "linear", "log")
	p.Integer = r.boolean("integer", false)
	if !okMin || !okMax {
		return p, false
	}
	switch {
	case low >= high:
		b.report(problem(at, "Empty range", fmt.Sprintf("max must be more than min, but %v is not more than %v.", high, low)))
	case p.Scale == "log" && low <= 0:
		b.report(problem(block.Body.Attributes["min"].Expr.Range(), "Out of range",
			"A logarithmic scale begins above zero: min must be more than 0."))
	case p.Integer && (low != math.Trunc(low) || high != math.Trunc(high) || math.Abs(low) > 1<<53 || math.Abs(high) > 1<<53):
		b.report(problem(at, "Wrong type", "With integer = true, min and max are whole numbers of at most 2^53."))
	case math.IsInf(high-low, 0):
		b.report(problem(at, "Out of range", "The range from min to max is too wide."))
	case method == "grid" && !p.Integer:
		b.report(problem(block.DefRange(), "Endless grid",
			"A grid tries every value, and a continuous range has no end of them. List values, set integer = true, or use method = \"random\"."))
	case method == "grid" && p.Scale == "log":
		b.report(problem(block.DefRange(), "No scale in a grid",
			"A grid tries every whole number from min to max, so scale means nothing. List values, or use method = \"random\"."))
	default:
		return p, true
	}
	return p, false
}

func (b *nodeBuilder) searchValues(p SearchParam, r reader) (SearchParam, bool) {
	v, at, ok := r.static("values", cty.DynamicPseudoType)
	if !ok {
		return p, false
	}
	if ty := v.Type(); !ty.IsListType() && !ty.IsTupleType() && !ty.IsSetType() {
		b.report(problem(at, "Wrong type", fmt.Sprintf("values is a list, not a %s.", ty.FriendlyName())))
		return p, false
	}
	values, err := toGo(v)
	if err != nil {
		b.report(problem(at, "Invalid values", sentence(err)))
		return p, false
	}
	p.Values = values.([]any)
	switch {
	case len(p.Values) == 0:
		b.report(problem(at, "No values", "values is empty: a parameter without values has no trials."))
		return p, false
	case len(p.Values) > maxTrials:
		b.report(problem(at, "Too many values", fmt.Sprintf("A parameter has at most %d values.", maxTrials)))
		return p, false
	}
	return p, true
}

// checkFixedParams reports parameters that are both fixed and searched.
func (b *nodeBuilder) checkFixedParams(s *Sweep) {
	fixed := b.node.deferred.params
	if fixed == nil || !fixed.early.IsKnown() {
		return
	}
	for _, p := range s.Params {
		if ty := fixed.early.Type(); ty.IsObjectType() && ty.HasAttribute(p.Name) {
			b.report(problem(fixed.expr.Range(), "Duplicate parameter",
				fmt.Sprintf("The sweep searches %q, so params cannot fix it. Take it out of one of the two.", p.Name)))
		}
	}
}

// bestParams is the type of the parameters of a sweep's trials.
func (b *nodeBuilder) bestParams(s *Sweep) cty.Type {
	attrs := map[string]cty.Type{}
	if fixed := b.node.deferred.params; fixed != nil {
		ty := fixed.early.Type()
		if !ty.IsObjectType() {
			return cty.DynamicPseudoType
		}
		maps.Copy(attrs, ty.AttributeTypes())
	} else if b.body.Attributes["params"] != nil {
		return cty.DynamicPseudoType
	}
	for _, p := range s.Params {
		attrs[p.Name] = cty.Number
		if p.Values != nil {
			attrs[p.Name] = cty.DynamicPseudoType
		}
	}
	return cty.Object(attrs)
}
