package pipeline

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

var variableFields = fields{
	attrs:    []string{"type", "default", "description"},
	blocks:   []string{"validation"},
	repeated: []string{"validation"},
}

// variable is a declared variable, as far as its value needs it.
type variable struct {
	name     string
	block    *hclsyntax.Block
	typ      cty.Type // dynamic if not declared
	defaults *typeexpr.Defaults
}

// declareVariables takes in all variable blocks and gives them their values.
func (s *scope) declareVariables(blocks []*hclsyntax.Block, given map[string]string) {
	declared := map[string]*variable{}
	for _, block := range blocks {
		name, at := s.label(block, "variable")
		if name == "" {
			continue
		}
		if earlier := declared[name]; earlier != nil {
			s.diags = append(s.diags, duplicate("variable", name, at, earlier.block.DefRange()))
			continue
		}
		s.checkIdentifier(name, at, "variable")
		s.checkFields(block.Body, "variable", variableFields)
		declared[name] = &variable{name: name, block: block}
	}
	for name, v := range declared {
		s.variables[name] = s.variableValue(v, given)
	}
	s.varObject = cty.ObjectVal(s.variables)
	for _, v := range declared {
		s.validate(v)
	}
	names := slices.Collect(maps.Keys(declared))
	for name := range given {
		if declared[name] == nil {
			s.diags = append(s.diags, &hcl.Diagnostic{
				Severity: hcl.DiagError,
				Summary:  "Unknown variable",
				Detail:   fmt.Sprintf("A value is given for the variable %q, which the file does not have.%s", name, s.suggest(name, names)),
				Subject:  &hcl.Range{Filename: givenName(name), Start: hcl.InitialPos, End: hcl.InitialPos},
			})
		}
	}
}

// givenName stands for the file in diagnostics about a value that was given.
func givenName(name string) string { return "-var " + name }

// variableValue is what v is set to: unknown if that cannot be told, which is
// reported.
func (s *scope) variableValue(v *variable, given map[string]string) cty.Value {
	r := reader{scope: s, body: v.block.Body, what: "variable"}
	v.typ = cty.DynamicPseudoType
	if attr := v.block.Body.Attributes["type"]; attr != nil {
		typ, defaults, diags := typeexpr.TypeConstraintWithDefaults(attr.Expr)
		s.diags = append(s.diags, diags...)
		if diags.HasErrors() {
			return cty.DynamicVal
		}
		v.typ, v.defaults = typ, defaults
	}
	fallback, fallbackOK := cty.NilVal, false
	attr := v.block.Body.Attributes["default"]
	if attr != nil {
		if names := attr.Expr.Variables(); len(names) > 0 {
			s.diags = append(s.diags, problem(names[0].SourceRange(), "Not a constant",
				"The default of a variable cannot name anything else. Use a local for that."))
			return cty.DynamicVal
		}
		var value cty.Value
		if value, fallbackOK = s.constantOf(attr.Expr, place{}, "default"); !fallbackOK {
			return cty.DynamicVal
		}
		if fallback, fallbackOK = s.typed(v, value, attr.Expr.Range(), "default"); !fallbackOK {
			return cty.DynamicVal
		}
	}
	text, ok := given[v.name]
	if ok {
		return s.givenValue(v, text, fallback)
	}
	if !fallbackOK {
		s.diags = append(s.diags, problem(r.body.SrcRange, "Variable not set",
			fmt.Sprintf("The variable %q has no default, so it needs a value: -var %s=…", v.name, v.name)))
		s.diags[len(s.diags)-1].Subject = v.block.DefRange().Ptr()
		return cty.DynamicVal
	}
	return fallback
}

// givenValue reads a value from outside: as text if the variable is a string,
// or of no type at all, else as an expression.
func (s *scope) givenValue(v *variable, text string, fallback cty.Value) cty.Value {
	filename := givenName(v.name)
	at := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}
	typ := v.typ
	if typ == cty.DynamicPseudoType {
		typ = cty.String
		if fallback != cty.NilVal && !fallback.IsNull() {
			typ = fallback.Type()
		}
	}
	value := cty.StringVal(text)
	if !typ.IsPrimitiveType() {
		diags := checkBytes(filename, []byte(text))
		if !diags.HasErrors() {
			_, diags = checkDepth(filename, []byte(text))
		}
		if diags.HasErrors() {
			s.diags = append(s.diags, diags...)
			return cty.DynamicVal
		}
		expr, diags := hclsyntax.ParseExpression([]byte(text), filename, hcl.InitialPos)
		if !diags.HasErrors() {
			value, diags = expr.Value(nil)
		}
		if diags.HasErrors() {
			s.diags = append(s.diags, problem(at, "Wrong value",
				fmt.Sprintf("The value given for %q is no %s: %s", v.name, typ.FriendlyName(), diags[0].Detail)))
			return cty.DynamicVal
		}
	}
	value, ok := s.typed(v, value, at, fmt.Sprintf("The value given for %q", v.name))
	if !ok {
		return cty.DynamicVal
	}
	if v.typ == cty.DynamicPseudoType {
		converted, err := convertTo(value, typ)
		if err != nil {
			s.diags = append(s.diags, wrongType(at, fmt.Sprintf("The value given for %q", v.name), typ, value, err))
			return cty.DynamicVal
		}
		value = converted
	}
	return value
}

// typed converts a value to the type of v.
func (s *scope) typed(v *variable, value cty.Value, at hcl.Range, what string) (cty.Value, bool) {
	if v.defaults != nil && !value.IsNull() {
		value = v.defaults.Apply(value)
	}
	converted, err := convertTo(value, v.typ)
	if err != nil {
		s.diags = append(s.diags, wrongType(at, what, v.typ, value, err))
		return cty.NilVal, false
	}
	return converted, true
}

// validate checks the validation blocks of a variable that has a value.
func (s *scope) validate(v *variable) {
	for _, block := range v.block.Body.Blocks {
		if block.Type != "validation" {
			continue
		}
		s.noLabels(block)
		s.checkFields(block.Body, "validation", fields{attrs: []string{"condition", "error_message"}})
		r := reader{scope: s, body: block.Body, what: "validation"}
		r.required("condition", "error_message")
		condition := block.Body.Attributes["condition"]
		message, _, ok := r.str("error_message")
		if condition == nil || !ok {
			continue
		}
		holds, at, ok := r.static("condition", cty.Bool)
		if ok && holds.False() {
			d := problem(at, "Invalid value of a variable", fmt.Sprintf("var.%s: %s", v.name, message))
			if s.variables[v.name].IsWhollyKnown() {
				d.Detail = fmt.Sprintf("var.%s is %s. %s", v.name, literal(s.variables[v.name]), message)
			}
			s.diags = append(s.diags, d)
		}
	}
}

// maxLiteral bounds a value in a message, in bytes.
const maxLiteral = 200

// literal writes a known value as HCL.
func literal(v cty.Value) string {
	text := string(hclwrite.TokensForValue(v).Bytes())
	if len(text) > maxLiteral {
		return text[:maxLiteral] + "…"
	}
	return text
}

// ParseVarFile reads a file of `name = value` lines into values for
// Options.Vars.
func ParseVarFile(filename string, src []byte) (map[string]string, hcl.Diagnostics) {
	body, diags := readSource(filename, src)
	if body == nil {
		return nil, diags
	}
	for _, b := range body.Blocks {
		diags = append(diags, problem(b.DefRange(), "Unexpected block", "A file of variables holds name = value lines only."))
	}
	values := make(map[string]string, len(body.Attributes))
	for name, attr := range body.Attributes {
		value, moreDiags := attr.Expr.Value(nil)
		diags = append(diags, moreDiags...)
		switch {
		case moreDiags.HasErrors() || !value.IsWhollyKnown(): // unknown where the syntax was wrong
		case value.Type() == cty.String && !value.IsNull():
			values[name] = value.AsString()
		default:
			values[name] = string(hclwrite.TokensForValue(value).Bytes())
		}
	}
	return values, inOrder(diags)
}
