package pipeline

import (
	"fmt"
	"maps"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Early is what of a node's task is known before anything has run: what it needs,
// and what the queue goes by. False: the node runs no task.
func (n *Node) Early() (Task, bool) {
	step := n.runs()
	if step == nil {
		return Task{}, false
	}
	return Task{
		Outputs:    step.Outputs,
		Resources:  step.Resources,
		Checkpoint: step.Checkpoint,
		Retry:      step.Retry,
		Timeout:    step.Timeout,
		Cache:      step.Cache,
		Priority:   step.Priority,
		Scheduling: step.Scheduling,
		Seed:       n.deferred.seed,
	}, true
}

// deferred is what is left to evaluate of a node once results are known.
type deferred struct {
	scope                      *scope
	entity                     *entity
	command, env, params, when *boundValue
	inputs                     []boundInput
	seed                       int64
	// edges are the nodes that this one names, while the file is parsed.
	edges []edge
	// named are the nodes whose results a clean-up names, other than how they
	// ended.
	named map[NodeID]bool
	// served is where an endpoint's model comes from.
	served *Model
}

// boundValue is an expression of which a certain type is wanted.
type boundValue struct {
	*bound
	name  string
	want  cty.Type
	early cty.Value // what is known of it before anything has run
}

// boundInput is an input and the expression that gives its artefact.
type boundInput struct {
	name     string
	from     *boundValue
	optional bool
	at       hcl.Range
}

// final evaluates b with results. Null is as if it were not there.
func (b *boundValue) final(k *knowledge) (cty.Value, hcl.Diagnostics) {
	null := cty.NullVal(b.want)
	v, diags := b.bound.value(k)
	if diags.HasErrors() {
		return null, diags
	}
	if v.IsNull() {
		return null, nil
	}
	converted, err := convertTo(v, b.want)
	if err != nil {
		return null, hcl.Diagnostics{wrongType(b.expr.Range(), b.name, b.want, v, err)}
	}
	if !converted.IsWhollyKnown() {
		return null, hcl.Diagnostics{problem(b.expr.Range(), "Not known yet",
			fmt.Sprintf("%s depends on a node that has not ended.", b.name))}
	}
	return converted, nil
}

// Resolve gives the task of a step or endpoint node, or what the trials of a
// sweep have in common. Every node that n depends on must be in r. It is safe
// to call from several goroutines.
func (n *Node) Resolve(r Results) (Task, hcl.Diagnostics) {
	t, ok := n.Early()
	if !ok {
		return Task{}, hcl.Diagnostics{problem(n.Range, "Nothing to run", fmt.Sprintf("A %s runs no task.", n.Kind))}
	}
	d := n.deferred
	t.Inputs = map[string]string{}
	if r == nil {
		r = Results{}
	}
	k := &knowledge{scope: d.scope, results: r, locals: map[*local]cty.Value{}}
	var diags hcl.Diagnostics
	set := func(b *boundValue, take func(cty.Value) error) {
		if b == nil {
			return
		}
		v, moreDiags := b.final(k)
		diags = append(diags, moreDiags...)
		if moreDiags.HasErrors() || v.IsNull() {
			return
		}
		if err := take(v); err != nil {
			diags = append(diags, problem(b.expr.Range(), "Invalid "+b.name, sentence(err)))
		}
	}
	set(d.command, func(v cty.Value) (err error) { t.Command, err = commandOf(v); return err })
	set(d.env, func(v cty.Value) (err error) { t.Env, err = envOf(v); return err })
	set(d.params, func(v cty.Value) (err error) { t.Params, err = paramsOf(v); return err })
	if len(t.Command) == 0 && !diags.HasErrors() {
		diags = append(diags, problem(n.Range, "Invalid command", "The command is null."))
	}
	diags = append(diags, n.resolveInputs(k, &t)...)
	if step := n.runs(); step.Code != "" {
		digest, ok := "", false
		if d.scope.sources != nil {
			digest, ok = d.scope.sources(step.Code)
		}
		if !ok {
			diags = append(diags, problem(n.Range, "Code not stored", fmt.Sprintf("The code %q of %s has not been stored as an artefact.", step.Code, n.ID)))
		}
		t.Code = digest
	}
	return t, inOrder(diags)
}

// runs is the process that n runs, nil for nodes that run none.
func (n *Node) runs() *Step {
	switch {
	case n.Step != nil:
		return n.Step
	case n.Sweep != nil:
		return &n.Sweep.Step
	case n.Endpoint != nil:
		return &n.Endpoint.Step
	default:
		return nil
	}
}

func (n *Node) resolveInputs(k *knowledge, t *Task) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, in := range n.deferred.inputs {
		v, moreDiags := in.from.final(k)
		diags = append(diags, moreDiags...)
		if moreDiags.HasErrors() {
			continue
		}
		for name, v := range in.artefacts(v) {
			err := checkArtefact(name, v)
			switch {
			case err != nil:
				diags = append(diags, problem(in.at, "Not an artefact", sentence(err)))
			case !v.IsNull():
				t.Inputs[name] = v.AsString()
			case !in.optional:
				diags = append(diags, problem(in.at, "No artefact", n.missingInput(k.results, in, name)))
			}
		}
	}
	if n.Endpoint != nil {
		model := n.deferred.served
		r := k.results[model.Source]
		outputs := r.Outputs
		if r.Best != nil {
			outputs = r.Best.Outputs
		}
		found, ok := outputs[model.Output]
		if !ok {
			diags = append(diags, problem(n.Range, "No model", fmt.Sprintf("%s has left no output %q to serve.", model.Source, model.Output)))
		}
		t.Inputs[modelInput] = found
	}
	return diags
}

// missingInput says why there is no artefact for an input.
func (n *Node) missingInput(r Results, in boundInput, name string) string {
	for _, ref := range in.from.refs {
		for _, id := range ref.nodes() {
			if result := r[id]; result.Status != Succeeded {
				return fmt.Sprintf("The input %q comes from %s, which %s. If the task can do without it, set optional = true in the input.", name, id, ended(result))
			}
		}
	}
	return fmt.Sprintf("There is nothing for the input %q: its optional output was not written. If the task can do without it, set optional = true in the input.", name)
}

// ended says how a node ended, as in "which was skipped".
func ended(r Result) string {
	switch r.Status {
	case Succeeded:
		return "succeeded"
	case Failed:
		return "failed"
	case "":
		return "has not ended"
	default:
		return "was " + string(r.Status)
	}
}

// Trials gives the tasks of a sweep node, in order. The same file, variables
// and results always give the same trials.
func (n *Node) Trials(r Results) ([]Task, hcl.Diagnostics) {
	if n.Sweep == nil {
		return nil, hcl.Diagnostics{problem(n.Range, "No trials", fmt.Sprintf("A %s has no trials.", n.Kind))}
	}
	common, diags := n.Resolve(r)
	if diags.HasErrors() {
		return nil, diags
	}
	points := n.Sweep.points()
	trials := make([]Task, len(points))
	for i, point := range points {
		trials[i] = common
		trials[i].Params = maps.Clone(common.Params)
		if trials[i].Params == nil {
			trials[i].Params = map[string]any{}
		}
		maps.Copy(trials[i].Params, point)
	}
	return trials, diags
}
