package pipeline

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// reference is where an expression names a node of the graph.
type reference struct {
	entity *entity
	key    string // of for_each
	all    bool   // all nodes of a for_each, or those whose key is not known yet
	// part is what is named of the node: "" for all of it, else "output",
	// "metrics", "status", "best", "passed" or "version". Name is what of an
	// output or metric, if it is said plainly.
	part, name string
	at         hcl.Range
}

// nodes are the nodes that r names.
func (r reference) nodes() []NodeID {
	if !r.all {
		return []NodeID{r.entity.nodeID(r.key)}
	}
	ids := make([]NodeID, len(r.entity.keys))
	for i, key := range r.entity.keys {
		ids[i] = r.entity.nodeID(key)
	}
	return ids
}

// usage is what an expression names. Refs include those of its locals.
type usage struct {
	refs                        []reference
	locals                      []*local
	usesVars, usesEach, usesRun bool
}

// usageOf finds what expr names, and reports what it names that is not there.
func (s *scope) usageOf(expr hclsyntax.Expression, at place) (usage, hcl.Diagnostics) {
	w := &usageWalker{scope: s, place: at}
	diags := hclsyntax.Walk(expr, w)
	return w.usage, diags
}

// usageWalker visits the syntax tree of an expression.
type usageWalker struct {
	scope *scope
	place place
	usage usage
	// hidden are the names that enclosing for expressions define.
	hidden []map[string]struct{}
	// done are traversals that the expression around them has dealt with.
	done map[*hclsyntax.ScopeTraversalExpr]bool
}

func (w *usageWalker) Enter(node hclsyntax.Node) hcl.Diagnostics {
	switch n := node.(type) {
	case hclsyntax.ChildScope:
		w.hidden = append(w.hidden, n.LocalNames)
	case *hclsyntax.ScopeTraversalExpr:
		if !w.done[n] && !w.isHidden(n.Traversal.RootName()) {
			return w.traversal(n.Traversal)
		}
	case *hclsyntax.RelativeTraversalExpr:
		if index, ok := n.Source.(*hclsyntax.IndexExpr); ok {
			return w.index(index, n.Traversal)
		}
	case *hclsyntax.IndexExpr:
		return w.index(n, nil)
	case *hclsyntax.FunctionCallExpr:
		if _, ok := functions()[n.Name]; !ok {
			return hcl.Diagnostics{problem(n.NameRange, "Unknown function",
				fmt.Sprintf("There is no function %q.%s", n.Name, w.scope.suggest(n.Name, functionNames())))}
		}
	}
	return nil
}

func (w *usageWalker) Exit(node hclsyntax.Node) hcl.Diagnostics {
	if _, ok := node.(hclsyntax.ChildScope); ok {
		w.hidden = w.hidden[:len(w.hidden)-1]
	}
	return nil
}

func (w *usageWalker) isHidden(name string) bool {
	for _, names := range w.hidden {
		if _, ok := names[name]; ok {
			return true
		}
	}
	return false
}

// index deals with step.x[each.key].output.y, whose key is an expression: if
// it is known, just that node is named, not all of them.
func (w *usageWalker) index(index *hclsyntax.IndexExpr, rest hcl.Traversal) hcl.Diagnostics {
	source, ok := index.Collection.(*hclsyntax.ScopeTraversalExpr)
	if !ok || w.done[source] || len(source.Traversal) != 2 || w.isHidden(source.Traversal.RootName()) {
		return nil
	}
	if !isEntityKind(source.Traversal.RootName()) {
		return nil
	}
	key, ok := w.constant(index.Key)
	if !ok {
		return nil
	}
	if w.done == nil {
		w.done = map[*hclsyntax.ScopeTraversalExpr]bool{}
	}
	w.done[source] = true
	full := append(slices.Clone(source.Traversal), hcl.TraverseIndex{Key: key, SrcRange: index.BracketRange})
	return w.traversal(append(full, rest...))
}

// constant evaluates an expression that names nothing but each, variables and
// locals that are known already.
func (w *usageWalker) constant(expr hclsyntax.Expression) (cty.Value, bool) {
	for _, traversal := range expr.Variables() {
		if w.isHidden(traversal.RootName()) {
			return cty.NilVal, false
		}
	}
	b, diags := w.scope.bind(expr, w.place)
	if diags.HasErrors() || len(b.refs) > 0 {
		return cty.NilVal, false
	}
	v, diags := b.value(w.scope.atParse)
	if diags.HasErrors() || !v.IsKnown() || v.IsNull() || v.Type() != cty.String {
		return cty.NilVal, false
	}
	return v, true
}

// kinds are all kinds of nodes.
var kinds = []Kind{KindDataset, KindStep, KindSweep, KindGate, KindModel, KindEndpoint}

func isEntityKind(name string) bool { return slices.Contains(kinds, Kind(name)) }

// roots are the first parts of references.
var roots = []string{"var", "local", "each", "run", "dataset", "step", "sweep", "gate", "model", "endpoint"}

// traversal deals with a reference such as step.train.output.model.
func (w *usageWalker) traversal(t hcl.Traversal) hcl.Diagnostics {
	switch root := t.RootName(); root {
	case "var":
		w.usage.usesVars = true
		_, ok := w.scope.variables[memberName(t)]
		return w.member(t, "variable", ok, maps.Keys(w.scope.variables))
	case "local":
		l, ok := w.scope.locals[memberName(t)]
		if diags := w.member(t, "local", ok, maps.Keys(w.scope.locals)); diags.HasErrors() {
			return diags
		}
		return w.local(l, t.SourceRange())
	case "each":
		if !w.place.set {
			return hcl.Diagnostics{problem(t.SourceRange(), "No each here",
				"each.key and each.value exist only in a step or sweep with for_each.")}
		}
		w.usage.usesEach = true
		name := memberName(t)
		return w.member(t, "attribute of each", name == "key" || name == "value", slices.Values([]string{"key", "value"}))
	case "run":
		if !w.place.onExit {
			return hcl.Diagnostics{problem(t.SourceRange(), "The run has not ended yet",
				"run.status and run.failed_steps exist only in steps with on_exit = true, which run when all others have ended.")}
		}
		w.usage.usesRun = true
		name := memberName(t)
		return w.member(t, "attribute of run", name == "status" || name == "failed_steps", slices.Values([]string{"status", "failed_steps"}))
	default:
		if isEntityKind(root) {
			return w.entity(t)
		}
		return hcl.Diagnostics{problem(t.SourceRange(), "Unknown reference", w.scope.unknownRoot(root))}
	}
}

func (s *scope) unknownRoot(root string) string {
	for _, kind := range kinds {
		if s.entities[kind][root] != nil {
			return fmt.Sprintf("There is nothing named %q. Did you mean %s.%s?", root, kind, root)
		}
	}
	if _, ok := s.variables[root]; ok {
		return fmt.Sprintf("There is nothing named %q. Did you mean var.%s?", root, root)
	}
	if s.locals[root] != nil {
		return fmt.Sprintf("There is nothing named %q. Did you mean local.%s?", root, root)
	}
	switch root {
	case "device", "env", "attr", "node", "meta", "NOMAD_TASK_DIR":
		return fmt.Sprintf("There is nothing named %q in a pipeline. To pass ${%s…} on to Nomad, write $${%s…}.", root, root, root)
	}
	return fmt.Sprintf("There is nothing named %q.%s", root, s.suggest(root, roots))
}

// memberName is x of var.x and var["x"]; "" if there is none.
func memberName(t hcl.Traversal) string {
	if len(t) < 2 {
		return ""
	}
	return stepName(t[1])
}

// stepName is the name that a traversal goes on with: .x or ["x"].
func stepName(t hcl.Traverser) string {
	switch t := t.(type) {
	case hcl.TraverseAttr:
		return t.Name
	case hcl.TraverseIndex:
		if t.Key.Type() == cty.String && t.Key.IsKnown() && !t.Key.IsNull() {
			return t.Key.AsString()
		}
	}
	return ""
}

// member reports the second part of t unless it is known.
func (w *usageWalker) member(t hcl.Traversal, what string, known bool, names iter.Seq[string]) hcl.Diagnostics {
	if known {
		return nil
	}
	name := memberName(t)
	if name == "" {
		return hcl.Diagnostics{problem(t.SourceRange(), "Incomplete reference",
			fmt.Sprintf("Name one %s, as in %s.name.", what, t.RootName()))}
	}
	return hcl.Diagnostics{problem(t.SourceRange(), "Unknown "+what,
		fmt.Sprintf("There is no %s %q.%s", what, name, w.scope.suggest(name, slices.Collect(names))))}
}

// local takes over what a local names.
func (w *usageWalker) local(l *local, at hcl.Range) hcl.Diagnostics {
	if diags := l.bind(w.scope, at); diags.HasErrors() {
		return diags
	}
	if slices.Contains(w.usage.locals, l) {
		return nil
	}
	w.usage.locals = append(w.usage.locals, l)
	if l.bound == nil {
		return nil // what is wrong with it has been reported
	}
	return w.add(l.bound.refs...)
}

// entity deals with a reference to a node.
func (w *usageWalker) entity(t hcl.Traversal) hcl.Diagnostics {
	ref, diags := w.scope.reference(t)
	if diags.HasErrors() {
		return diags
	}
	return append(diags, w.add(ref)...)
}

func (w *usageWalker) add(refs ...reference) hcl.Diagnostics {
	for _, ref := range refs {
		if fits, diags := w.scope.count(ref); !fits {
			return diags
		}
		w.usage.refs = append(w.usage.refs, ref)
	}
	return nil
}

// count counts references over the whole file: locals and for_each can
// multiply them beyond any use. Too many are reported once.
func (s *scope) count(ref reference) (fits bool, diags hcl.Diagnostics) {
	s.references++
	if ref.all {
		s.references += len(ref.entity.keys)
	}
	if s.references <= maxEdges {
		return true, nil
	}
	if !s.tooMany {
		s.tooMany = true
		diags = hcl.Diagnostics{problem(ref.at, "Too many references",
			fmt.Sprintf("The steps of this file name each other more than %d times in all.", maxEdges))}
	}
	return false, diags
}

// reference finds the node that a traversal such as step.train["a"].output.model
// names.
func (s *scope) reference(t hcl.Traversal) (reference, hcl.Diagnostics) {
	kind := Kind(t.RootName())
	name := memberName(t)
	if name == "" {
		return reference{}, hcl.Diagnostics{problem(t.SourceRange(), "Incomplete reference",
			fmt.Sprintf("Name one %s, as in %s.name.", kind, kind))}
	}
	e := s.entities[kind][name]
	if e == nil {
		return reference{}, hcl.Diagnostics{problem(t.SourceRange(), "Unknown "+string(kind), s.unknownEntity(kind, name))}
	}
	ref := reference{entity: e, at: t.SourceRange()}
	rest := t[2:]
	if e.hasEach {
		s.expand(e)
		if e.broken {
			ref.all = true
			return ref, nil
		}
		var diags hcl.Diagnostics
		if rest, diags = s.referenceKey(&ref, rest); diags.HasErrors() {
			return ref, diags
		}
		if ref.all {
			return ref, nil // expressions go on with it as with any object
		}
	} else if len(rest) > 0 {
		if index, ok := rest[0].(hcl.TraverseIndex); ok {
			return ref, hcl.Diagnostics{problem(index.SrcRange, "No instances",
				fmt.Sprintf("%s has no for_each, so there is just one of it: leave the brackets out.", e.nodeID("")))}
		}
	}
	return ref, s.referencePart(&ref, rest)
}

func (s *scope) unknownEntity(kind Kind, name string) string {
	for _, other := range kinds {
		if other != kind && s.entities[other][name] != nil {
			return fmt.Sprintf("There is no %s %q. Did you mean %s.%s?", kind, name, other, name)
		}
	}
	return fmt.Sprintf("There is no %s %q.%s", kind, name, s.suggest(name, slices.Collect(maps.Keys(s.entities[kind]))))
}

// referenceKey takes the key of a for_each off a traversal.
func (s *scope) referenceKey(ref *reference, rest hcl.Traversal) (hcl.Traversal, hcl.Diagnostics) {
	e := ref.entity
	if len(rest) == 0 {
		ref.all = true
		return nil, nil
	}
	index, ok := rest[0].(hcl.TraverseIndex)
	if !ok {
		example := "key"
		if len(e.keys) > 0 {
			example = e.keys[0]
		}
		return nil, hcl.Diagnostics{problem(ref.at, "Which one?",
			fmt.Sprintf("%s.%s has for_each: say which of its instances, as in %s.", e.kind, e.name, e.nodeID(example)))}
	}
	key := stepName(index)
	if _, ok := e.values[key]; !ok {
		return nil, hcl.Diagnostics{problem(index.SrcRange, "Unknown instance",
			fmt.Sprintf("%s.%s has no instance %q.%s", e.kind, e.name, key, s.suggest(key, e.keys)))}
	}
	ref.key = key
	return rest[1:], nil
}

// parts are what can be named of a node, by kind.
var parts = map[Kind][]string{
	KindStep:     {"output", "metrics", "status"},
	KindSweep:    {"best", "status"},
	KindGate:     {"passed", "status"},
	KindModel:    {"version", "status"},
	KindEndpoint: {"status"},
}

// bestParts are what can be named of sweep.X.best.
var bestParts = []string{"params", "metrics", "output", "index"}

// referencePart finds what is named of a node.
func (s *scope) referencePart(ref *reference, rest hcl.Traversal) hcl.Diagnostics {
	if len(rest) == 0 {
		return nil
	}
	e := ref.entity
	known := parts[e.kind]
	part := stepName(rest[0])
	if e.kind == KindDataset {
		return hcl.Diagnostics{problem(ref.at, "A dataset has no parts",
			fmt.Sprintf("Write %s: it stands for the data.", e.nodeID("")))}
	}
	if !slices.Contains(known, part) {
		return s.unknownPart(ref, e.nodeID(ref.key), part, known)
	}
	ref.part = part
	rest = rest[1:]
	of := string(e.nodeID(ref.key)) + "." + part
	if part == "best" && len(rest) > 0 {
		part = stepName(rest[0])
		if !slices.Contains(bestParts, part) {
			return s.unknownPart(ref, NodeID(of), part, bestParts)
		}
		rest = rest[1:]
		of += "." + part
	}
	if len(rest) == 0 {
		return nil
	}
	ref.name = stepName(rest[0])
	if part == "output" && ref.name != "" && !slices.Contains(e.outputs, ref.name) {
		hint := s.suggest(ref.name, e.outputs)
		if len(e.outputs) == 0 {
			hint = fmt.Sprintf(" Declare it there: output %q {}.", ref.name)
		}
		return hcl.Diagnostics{problem(ref.at, "Unknown output",
			fmt.Sprintf("%s.%s has no output %q.%s", e.kind, e.name, ref.name, hint))}
	}
	return nil
}

func (s *scope) unknownPart(ref *reference, of NodeID, part string, known []string) hcl.Diagnostics {
	hint := s.suggest(part, known)
	if slices.Contains(ref.entity.outputs, part) {
		hint = fmt.Sprintf(" Did you mean output.%s?", part)
	}
	return hcl.Diagnostics{problem(ref.at, "Unknown reference",
		fmt.Sprintf("%s has no %q.%s", of, part, hint))}
}
