package schema

import (
	"errors"
	"fmt"
	"math"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functions are what a Literal and a template may call.
var functions = map[string]function.Function{
	"abs": stdlib.AbsoluteFunc, "coalesce": stdlib.CoalesceFunc, "concat": stdlib.ConcatFunc,
	"hasindex": stdlib.HasIndexFunc, "int": stdlib.IntFunc, "jsondecode": stdlib.JSONDecodeFunc,
	"jsonencode": stdlib.JSONEncodeFunc, "length": stdlib.LengthFunc, "lower": stdlib.LowerFunc,
	"max": stdlib.MaxFunc, "min": stdlib.MinFunc, "reverse": stdlib.ReverseFunc,
	"strlen": stdlib.StrlenFunc, "substr": stdlib.SubstrFunc, "upper": stdlib.UpperFunc,
}

// Validate reports what an agent would refuse in a schema. A bad schema stops
// the whole agent.
func (s *Spec) Validate() error {
	if s == nil || s.kind != kindObject {
		return errors.New("schema: the root is not an Object")
	}
	_, err := s.decoder()
	return err
}

func (s *Spec) decoder() (hcldec.Spec, error) {
	if _, err := s.message(0); err != nil { // nil nodes and depth
		return nil, err
	}
	return s.hcldec("")
}

func (s *Spec) hcldec(implied string) (hcldec.Spec, error) {
	name := s.name
	if name == "" {
		name = implied
	}
	switch s.kind {
	case kindObject:
		out := hcldec.ObjectSpec{}
		for key, a := range s.attrs {
			d, err := a.hcldec(key)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			out[key] = d
		}
		return out, nil
	case kindArray:
		out := hcldec.TupleSpec{}
		for i, e := range s.elems {
			d, err := e.hcldec("")
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			out = append(out, d)
		}
		return out, nil
	case kindLiteral:
		v, err := evaluate(s.literal)
		if err != nil {
			return nil, err
		}
		return &hcldec.LiteralSpec{Value: v}, nil
	case kindDefault:
		// The key of an object is implied for its direct children only.
		primary, err := s.elems[0].hcldec("")
		if err != nil {
			return nil, err
		}
		def, err := s.elems[1].hcldec("")
		if err != nil {
			return nil, fmt.Errorf("default: %w", err)
		}
		return &hcldec.DefaultSpec{Primary: primary, Default: def}, nil
	}
	if name == "" {
		return nil, errors.New("schema: an attribute or block has no name")
	}
	if s.kind == kindAttr || s.kind == kindBlockAttrs {
		typ, err := parseType(s.typ)
		if err != nil {
			return nil, err
		}
		if s.kind == kindAttr {
			return &hcldec.AttrSpec{Name: name, Type: typ, Required: s.required}, nil
		}
		return &hcldec.BlockAttrsSpec{TypeName: name, ElementType: typ, Required: s.required}, nil
	}
	return s.hcldecBlock(name)
}

func (s *Spec) hcldecBlock(name string) (hcldec.Spec, error) {
	nested, err := s.nested.hcldec("")
	if err != nil {
		return nil, err
	}
	if s.min > math.MaxInt32 || s.max > math.MaxInt32 {
		return nil, fmt.Errorf("schema: block %q: limits %d to %d are out of range", name, s.min, s.max)
	}
	switch s.kind {
	case kindBlock:
		return &hcldec.BlockSpec{TypeName: name, Nested: nested, Required: s.required}, nil
	case kindBlockList:
		return &hcldec.BlockListSpec{TypeName: name, Nested: nested, MinItems: int(s.min), MaxItems: int(s.max)}, nil
	case kindBlockSet:
		return &hcldec.BlockSetSpec{TypeName: name, Nested: nested, MinItems: int(s.min), MaxItems: int(s.max)}, nil
	default:
		if len(s.labels) == 0 {
			return nil, fmt.Errorf("schema: block %q has no labels", name)
		}
		return &hcldec.BlockMapSpec{TypeName: name, LabelNames: s.labels, Nested: nested}, nil
	}
}

func evaluate(expr string) (cty.Value, error) {
	e, diags := hclsyntax.ParseExpression([]byte(expr), "literal", hcl.InitialPos)
	if diags.HasErrors() {
		return cty.NilVal, fmt.Errorf("schema: literal %q is not an HCL expression: %w", expr, diagError(diags))
	}
	v, diags := e.Value(&hcl.EvalContext{Functions: functions})
	if diags.HasErrors() {
		return cty.NilVal, fmt.Errorf("schema: literal %q: %w", expr, diagError(diags))
	}
	return v, nil
}

func parseType(src string) (cty.Type, error) {
	e, diags := hclsyntax.ParseExpression([]byte(src), "type", hcl.InitialPos)
	if diags.HasErrors() {
		return cty.NilType, fmt.Errorf("schema: %q is not an HCL type: %w", src, diagError(diags))
	}
	t, diags := typeexpr.TypeConstraint(e)
	if diags.HasErrors() {
		return cty.NilType, fmt.Errorf("schema: %q is not an HCL type: %w", src, diagError(diags))
	}
	return t, nil
}
