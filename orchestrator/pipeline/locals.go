package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// progress is how far something that others wait for has come.
type progress int

const (
	untouched progress = iota
	underWay
	done
)

// local is a named expression. It may name nodes: then its value is found
// anew for each knowledge.
type local struct {
	name     string
	attr     *hclsyntax.Attribute
	binding  progress
	bound    *bound // nil if something is wrong with it, or not bound yet
	waitsFor *local // while it is bound
}

// declareLocals takes in a locals block.
func (s *scope) declareLocals(block *hclsyntax.Block) {
	s.noLabels(block)
	for _, b := range block.Body.Blocks {
		s.diags = append(s.diags, problem(b.DefRange(), "Unexpected block",
			fmt.Sprintf("A locals block holds attributes only. Write %s = { … }.", b.Type)))
	}
	for name, attr := range block.Body.Attributes {
		if earlier := s.locals[name]; earlier != nil {
			s.diags = append(s.diags, duplicate("local", name, attr.NameRange, earlier.attr.NameRange))
			continue
		}
		s.locals[name] = &local{name: name, attr: attr}
	}
}

// bindLocals binds and tries all locals, used or not, in the order of the
// file, so that a cycle is always told from the same one.
func (s *scope) bindLocals() {
	inOrder := slices.SortedFunc(maps.Values(s.locals), func(a, b *local) int {
		return cmp.Compare(a.attr.NameRange.Start.Byte, b.attr.NameRange.Start.Byte)
	})
	for _, l := range inOrder {
		s.diags = append(s.diags, l.bind(s, l.attr.NameRange)...)
		if _, diags := l.value(s.atParse); diags.HasErrors() {
			s.diags = append(s.diags, diags...)
		}
	}
}

// bind finds what l names, once. Usages of l come here first, so that locals
// may stand in any order. What is wrong inside l goes to the scope; only a
// cycle that the usage closes is returned.
func (l *local) bind(s *scope, usedAt hcl.Range) hcl.Diagnostics {
	switch {
	case l.binding == done:
		return nil
	case l.binding == underWay:
		return hcl.Diagnostics{problem(usedAt, "Cycle", "Locals depend on each other in a circle: "+l.cycle()+".")}
	case s.localDepth >= maxLocalDepth:
		return hcl.Diagnostics{problem(usedAt, "Nested too deeply",
			fmt.Sprintf("More than %d locals use each other in a row.", maxLocalDepth))}
	}
	l.binding = underWay
	s.localDepth++
	outer := s.binding
	if outer != nil {
		outer.waitsFor = l
	}
	s.binding = l
	b, diags := s.bind(l.attr.Expr, place{})
	s.binding = outer
	s.localDepth--
	l.binding, l.bound = done, b
	s.diags = append(s.diags, diags...)
	return nil
}

// cycle is the way from l over the locals that are under way back to l.
func (l *local) cycle() string {
	path := []string{"local." + l.name}
	for next := l.waitsFor; next != nil && next != l && next.binding == underWay; next = next.waitsFor {
		path = append(path, "local."+next.name)
	}
	return strings.Join(append(path, "local."+l.name), " → ")
}

// value evaluates l, once for each knowledge. What is wrong while the file is
// parsed goes to the scope, and the value is unknown.
func (l *local) value(k *knowledge) (cty.Value, hcl.Diagnostics) {
	if l.bound == nil {
		return cty.DynamicVal, nil
	}
	if v, ok := k.locals[l]; ok {
		return v, nil
	}
	v, diags := l.bound.value(k)
	if !diags.HasErrors() && sizeOf(v, maxValueBytes) > maxValueBytes {
		diags = append(diags, problem(l.attr.Expr.Range(), "Value too large",
			fmt.Sprintf("local.%s is larger than %d bytes. Data belongs in a dataset.", l.name, maxValueBytes)))
	}
	if diags.HasErrors() {
		if k.results != nil {
			return v, diags
		}
		k.scope.diags = append(k.scope.diags, diags...)
		v = cty.DynamicVal
	}
	k.locals[l] = v
	return v, nil
}
