package pipeline

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

func (b *nodeBuilder) inputs(step *Step) {
	var seen names
	for _, block := range b.body.Blocks {
		if block.Type != "input" {
			continue
		}
		name, at := b.label(block, "input")
		if name == "" || !b.checkFileName(name, at, "an input") {
			continue
		}
		if !b.first(&seen, "input", name, at) {
			continue
		}
		if b.entity.kind == KindEndpoint && name == modelInput {
			b.report(problem(at, "Name taken", "The input \"model\" of an endpoint is the model that it serves. Choose another name."))
			continue
		}
		r := b.inner(block, "input", fields{attrs: []string{"from", "optional"}})
		r.required("from")
		in := boundInput{name: name, optional: r.boolean("optional", false)}
		if attr := block.Body.Attributes["from"]; attr != nil {
			step.Inputs = append(step.Inputs, b.from(in, attr.Expr)...)
		}
	}
}

const fromHint = "from takes an artefact, such as dataset.name or step.name.output.name"

// from takes in the expression that gives an input its artefact, or an object
// of them. It gives the names of the inputs that it makes, as far as they are
// known.
func (b *nodeBuilder) from(in boundInput, expr hclsyntax.Expression) []string {
	in.at = expr.Range()
	if t, diags := hcl.AbsTraversalForExpr(expr); !diags.HasErrors() && isEntityKind(t.RootName()) {
		ref, diags := b.reference(t)
		if !diags.HasErrors() && !ref.all && ref.entity.kind != KindDataset && ref.part != "output" && ref.part != "best" {
			what := "the " + ref.part + " of a " + string(ref.entity.kind)
			if ref.part == "" {
				what = "all of a " + string(ref.entity.kind)
			}
			b.report(problem(in.at, "Not an artefact", fmt.Sprintf("This is %s; %s.", what, fromHint)))
			return nil
		}
	}
	value, ok := b.later(expr, cty.DynamicPseudoType, "from")
	switch {
	case !ok:
		return nil
	case value == nil && !in.optional:
		b.report(problem(in.at, "Not an artefact", "from is null. If the task can do without this input, set optional = true."))
		return nil
	case value == nil:
		return nil
	}
	in.from = value
	b.node.deferred.inputs = append(b.node.deferred.inputs, in)
	names := []string{}
	for name, v := range in.artefacts(value.early) {
		if err := checkArtefact(name, v); err != nil {
			b.report(problem(in.at, "Not an artefact", sentence(err)))
			return nil
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// artefacts are the inputs that in stands for, by name: just one, or with an
// object one for each of its keys, named "<input>.<key>".
func (in boundInput) artefacts(v cty.Value) map[string]cty.Value {
	if ty := v.Type(); !ty.IsObjectType() && !ty.IsMapType() || !v.IsKnown() || v.IsNull() {
		return map[string]cty.Value{in.name: v}
	}
	all := make(map[string]cty.Value, v.LengthInt())
	for key, element := range v.Elements() {
		all[in.name+"."+key.AsString()] = element
	}
	return all
}

// checkArtefact says what is wrong with an input, as far as it is known.
func checkArtefact(name string, v cty.Value) error {
	switch ty := v.Type(); {
	case !inputName.MatchString(name):
		return fmt.Errorf("the input %q cannot be a file's name: keys here are letters, digits, _, - and dots", name)
	case ty.IsMapType() && !v.IsKnown(), ty == cty.DynamicPseudoType, v.IsNull():
		return nil
	case ty != cty.String:
		return fmt.Errorf("the input %q is %s; %s, or an object of artefacts", name, typeName(ty), fromHint)
	case v.IsKnown() && !digest.MatchString(v.AsString()):
		return fmt.Errorf("the input %q is the text %.60q; %s. A digest is written sha256: and 64 hexadecimal digits", name, v.AsString(), fromHint)
	}
	return nil
}
