package pipeline

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// scope is what the expressions of a file can name.
type scope struct {
	variables map[string]cty.Value
	varObject cty.Value // all of variables
	locals    map[string]*local
	entities  map[Kind]map[string]*entity
	nodes     []*Node // of the finished pipeline, for run.status
	sources   func(path string) (string, bool)
	// atParse is what is known while the file is parsed.
	atParse *knowledge
	// references counts those of the whole file.
	references int
	tooMany    bool
	// binding is the local that is being bound, and localDepth how many are,
	// each for the one before.
	binding    *local
	localDepth int
	suggester
	diags hcl.Diagnostics
}

// entity is a block that others can refer to, with all its nodes.
type entity struct {
	kind    Kind
	name    string
	block   *hclsyntax.Block
	outputs []string // declared names

	// hasEach says that there is a node for each of keys; broken, that what
	// for_each gives is not known because it is wrong.
	hasEach bool
	broken  bool
	keys    []string
	values  map[string]cty.Value
	// expansion says how far finding keys has come.
	expansion progress

	// bestParams is the type of sweep.X.best.params, dynamic if not known.
	bestParams cty.Type
	// unknown is the value of each of its nodes before anything has run.
	unknown cty.Value
}

// nodeID names the node of e for a key, "" without for_each.
func (e *entity) nodeID(key string) NodeID {
	if !e.hasEach {
		return NodeID(string(e.kind) + "." + e.name)
	}
	return NodeID(fmt.Sprintf("%s.%s[%q]", e.kind, e.name, key))
}

// instance is one element of for_each, for each.key and each.value. The zero
// value is a block without for_each. The key is "" if for_each is wrong, so
// that it is not known; keys are never empty.
type instance struct {
	key   string
	value cty.Value
	set   bool
}

// place is where an expression stands: what it may name depends on it.
type place struct {
	instance
	onExit bool
}

// knowledge is what is known of nodes when an expression is evaluated: nothing
// at first, later their results.
type knowledge struct {
	scope   *scope
	results Results              // nil: nothing has run
	locals  map[*local]cty.Value // values of locals so far
}

// bound is an expression together with what it names.
type bound struct {
	expr hclsyntax.Expression
	usage
	place
}

// bind finds what expr names. Whatever it names that does not exist is
// reported, and the result is nil.
func (s *scope) bind(expr hclsyntax.Expression, at place) (*bound, hcl.Diagnostics) {
	u, diags := s.usageOf(expr, at)
	if diags.HasErrors() {
		return nil, diags
	}
	return &bound{expr: expr, usage: u, place: at}, diags
}

// value evaluates b. What is not known yet is an unknown value in it.
func (b *bound) value(k *knowledge) (cty.Value, hcl.Diagnostics) {
	if v, ok := literalOf(b.expr); ok {
		return v, nil
	}
	ctx, diags := k.context(b)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	return b.expr.Value(ctx)
}

// context holds just what b names: with all of a large file in every context,
// validation would take quadratic time.
func (k *knowledge) context(b *bound) (*hcl.EvalContext, hcl.Diagnostics) {
	vars := map[string]cty.Value{}
	if b.usesVars {
		vars["var"] = k.scope.varObject
	}
	if b.usesEach {
		key := cty.UnknownVal(cty.String)
		if b.key != "" {
			key = cty.StringVal(b.key)
		}
		vars["each"] = cty.ObjectVal(map[string]cty.Value{"key": key, "value": b.instance.value})
	}
	if b.usesRun {
		vars["run"] = k.run()
	}
	if len(b.locals) > 0 {
		values := make(map[string]cty.Value, len(b.locals))
		for _, l := range b.locals {
			v, diags := l.value(k)
			if diags.HasErrors() {
				return nil, diags
			}
			values[l.name] = v
		}
		vars["local"] = cty.ObjectVal(values)
	}
	byKind := map[Kind]map[string]cty.Value{}
	for e, keys := range b.byEntity() {
		if byKind[e.kind] == nil {
			byKind[e.kind] = map[string]cty.Value{}
		}
		byKind[e.kind][e.name] = k.entity(e, keys)
	}
	for kind, values := range byKind {
		vars[string(kind)] = cty.ObjectVal(values)
	}
	return &hcl.EvalContext{Variables: vars, Functions: functions()}, nil
}

// entity is the value of e, with the nodes for keys if it has for_each.
func (k *knowledge) entity(e *entity, keys map[string]bool) cty.Value {
	if e.broken {
		return cty.DynamicVal
	}
	if !e.hasEach {
		return k.node(e, "")
	}
	values := make(map[string]cty.Value, len(keys))
	for key := range keys {
		values[key] = k.node(e, key)
	}
	return cty.ObjectVal(values)
}

// node is the value of one node of e.
func (k *knowledge) node(e *entity, key string) cty.Value {
	if k.results == nil {
		if e.unknown == cty.NilVal {
			e.unknown = e.unknownValue()
		}
		return e.unknown
	}
	result, ended := k.results[e.nodeID(key)]
	if !ended {
		return e.unknownValue()
	}
	return e.knownValue(result)
}

// unknownValue has the shape that a node's value will have.
func (e *entity) unknownValue() cty.Value {
	status := cty.UnknownVal(cty.String)
	outputs := make(map[string]cty.Value, len(e.outputs))
	for _, name := range e.outputs {
		outputs[name] = cty.UnknownVal(cty.String)
	}
	metrics := cty.UnknownVal(cty.Map(cty.Number))
	switch e.kind {
	case KindDataset:
		return cty.UnknownVal(cty.String)
	case KindStep:
		return cty.ObjectVal(map[string]cty.Value{
			"output": cty.ObjectVal(outputs), "metrics": metrics, "status": status,
		})
	case KindSweep:
		return cty.ObjectVal(map[string]cty.Value{"status": status, "best": cty.ObjectVal(map[string]cty.Value{
			"output": cty.ObjectVal(outputs), "metrics": metrics,
			"params": cty.UnknownVal(e.bestParams), "index": cty.UnknownVal(cty.Number),
		})})
	case KindGate:
		return cty.ObjectVal(map[string]cty.Value{"passed": cty.UnknownVal(cty.Bool), "status": status})
	case KindModel:
		return cty.ObjectVal(map[string]cty.Value{"version": cty.UnknownVal(cty.Number), "status": status})
	default:
		return cty.ObjectVal(map[string]cty.Value{"status": status})
	}
}

// knownValue is the value of a node that ended with r. What it did not leave
// is null.
func (e *entity) knownValue(r Result) cty.Value {
	status := cty.StringVal(string(r.Status))
	switch e.kind {
	case KindDataset:
		return digestValue(r.Outputs, "data")
	case KindStep:
		return cty.ObjectVal(map[string]cty.Value{
			"output": e.outputValues(r.Outputs), "metrics": metricsValue(r.Metrics), "status": status,
		})
	case KindSweep:
		best := cty.NullVal(cty.DynamicPseudoType)
		if r.Best != nil {
			best = cty.ObjectVal(map[string]cty.Value{
				"output":  e.outputValues(r.Best.Outputs),
				"metrics": metricsValue(r.Best.Metrics),
				"params":  toValue(r.Best.Params),
				"index":   cty.NumberIntVal(int64(r.Best.Index)),
			})
		}
		return cty.ObjectVal(map[string]cty.Value{"best": best, "status": status})
	case KindGate:
		return cty.ObjectVal(map[string]cty.Value{"passed": cty.BoolVal(r.Status == Succeeded), "status": status})
	case KindModel:
		version := cty.NullVal(cty.Number)
		if r.Version > 0 {
			version = cty.NumberIntVal(int64(r.Version))
		}
		return cty.ObjectVal(map[string]cty.Value{"version": version, "status": status})
	default:
		return cty.ObjectVal(map[string]cty.Value{"status": status})
	}
}

func (e *entity) outputValues(digests map[string]string) cty.Value {
	values := make(map[string]cty.Value, len(e.outputs))
	for _, name := range e.outputs {
		values[name] = digestValue(digests, name)
	}
	return cty.ObjectVal(values)
}

func digestValue(digests map[string]string, name string) cty.Value {
	if digest, ok := digests[name]; ok {
		return cty.StringVal(digest)
	}
	return cty.NullVal(cty.String)
}

func metricsValue(metrics map[string]float64) cty.Value {
	values := make(map[string]cty.Value, len(metrics))
	for name, v := range metrics {
		if number, ok := numberValue(v); ok {
			values[name] = number
		}
	}
	if len(values) == 0 {
		return cty.MapValEmpty(cty.Number)
	}
	return cty.MapVal(values)
}

// run is the value of `run`: how the run's other nodes ended.
func (k *knowledge) run() cty.Value {
	if k.results == nil {
		return cty.ObjectVal(map[string]cty.Value{
			"status": cty.UnknownVal(cty.String), "failed_steps": cty.UnknownVal(cty.List(cty.String)),
		})
	}
	status := Succeeded
	failed := []cty.Value{}
	for _, n := range k.scope.nodes {
		if n.OnExit {
			continue
		}
		switch k.results[n.ID].Status {
		case Failed:
			status = Failed
			failed = append(failed, cty.StringVal(string(n.ID)))
		case Cancelled:
			if status == Succeeded {
				status = Cancelled
			}
		}
	}
	list := cty.ListValEmpty(cty.String)
	if len(failed) > 0 {
		list = cty.ListVal(failed)
	}
	return cty.ObjectVal(map[string]cty.Value{"status": cty.StringVal(string(status)), "failed_steps": list})
}

// byEntity gathers the keys that are named of each entity.
func (u usage) byEntity() map[*entity]map[string]bool {
	named := make(map[*entity]map[string]bool, len(u.refs))
	for _, ref := range u.refs {
		keys := named[ref.entity]
		if keys == nil {
			keys = map[string]bool{}
			named[ref.entity] = keys
		}
		if !ref.all {
			keys[ref.key] = true
			continue
		}
		for _, key := range ref.entity.keys {
			keys[key] = true
		}
	}
	return named
}
