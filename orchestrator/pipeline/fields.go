package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// fields are what a block may hold. Of blocks, those in repeated may be there
// more than once.
type fields struct {
	attrs    []string
	blocks   []string
	repeated []string
}

// article is "A gate", "An output".
func article(noun string) string {
	if strings.ContainsRune("aeio", rune(noun[0])) {
		return "An " + noun
	}
	return "A " + noun
}

// checkFields reports what body holds beyond f, and blocks that are there
// twice and must not be.
func (s *scope) checkFields(body *hclsyntax.Body, what string, f fields) {
	for name, attr := range body.Attributes {
		switch {
		case slices.Contains(f.attrs, name):
		case slices.Contains(f.blocks, name):
			s.diags = append(s.diags, problem(attr.NameRange, "Not an attribute",
				fmt.Sprintf("%s is a block here: write %s { … } without the equals sign.", name, name)))
		default:
			s.diags = append(s.diags, problem(attr.NameRange, "Unknown attribute",
				fmt.Sprintf("%s has no attribute %q.%s", article(what), name, s.suggest(name, slices.Concat(f.attrs, f.blocks)))))
		}
	}
	var first names
	for _, b := range body.Blocks {
		switch {
		case slices.Contains(f.repeated, b.Type):
		case slices.Contains(f.blocks, b.Type):
			s.first(&first, "block", b.Type, b.DefRange())
		case slices.Contains(f.attrs, b.Type):
			s.diags = append(s.diags, problem(b.DefRange(), "Not a block",
				fmt.Sprintf("%s is an attribute here: write %s = { … } with an equals sign.", b.Type, b.Type)))
		default:
			s.diags = append(s.diags, problem(b.DefRange(), "Unknown block",
				fmt.Sprintf("%s has no block %q.%s", article(what), b.Type, s.suggest(b.Type, slices.Concat(f.blocks, f.attrs)))))
		}
	}
}

// only is the block of a type, nil if there is none; further ones are reported
// by checkFields.
func only(body *hclsyntax.Body, kind string) *hclsyntax.Block {
	for _, b := range body.Blocks {
		if b.Type == kind {
			return b
		}
	}
	return nil
}

// names are those that were there before, and in which line.
type names map[string]int

// first takes a name in, and reports it if it was there before.
func (s *scope) first(seen *names, what, name string, at hcl.Range) bool {
	if line, ok := (*seen)[name]; ok {
		s.diags = append(s.diags, duplicateOf(what, name, at, line))
		return false
	}
	if *seen == nil {
		*seen = names{}
	}
	(*seen)[name] = at.Start.Line
	return true
}

func duplicate(what, name string, at, first hcl.Range) *hcl.Diagnostic {
	return duplicateOf(what, name, at, first.Start.Line)
}

func duplicateOf(what, name string, at hcl.Range, line int) *hcl.Diagnostic {
	return problem(at, "Duplicate "+what,
		fmt.Sprintf("The %s %q is there already, in line %d. Rename one of them, or take it out.", what, name, line))
}

// label is the one label of a block, "" if there is not just one.
func (s *scope) label(b *hclsyntax.Block, of string) (string, hcl.Range) {
	if len(b.Labels) == 1 {
		return b.Labels[0], b.LabelRanges[0]
	}
	s.diags = append(s.diags, problem(b.DefRange(), "Wrong number of labels",
		fmt.Sprintf("%s block has one label, its name: %s \"name\" { … }.", article(of), of)))
	return "", b.DefRange()
}

func (s *scope) noLabels(b *hclsyntax.Block) {
	if len(b.Labels) > 0 {
		s.diags = append(s.diags, problem(b.LabelRanges[0], "Unexpected label",
			fmt.Sprintf("A %s block has no label: %s { … }.", b.Type, b.Type)))
	}
}

// reader reads the attributes of one block.
type reader struct {
	*scope
	body  *hclsyntax.Body
	place place
	what  string // the block, for messages
}

// static evaluates an attribute that must be known before anything has run.
// It is false if the attribute is not there, null, or wrong, which is reported.
func (r reader) static(name string, want cty.Type) (cty.Value, hcl.Range, bool) {
	attr := r.body.Attributes[name]
	if attr == nil {
		return cty.NilVal, hcl.Range{}, false
	}
	at := attr.Expr.Range()
	v, ok := r.constantOf(attr.Expr, r.place, name)
	if !ok || v.IsNull() {
		return cty.NilVal, at, false
	}
	converted, err := convertTo(v, want)
	if err != nil {
		r.diags = append(r.diags, wrongType(at, name, want, v, err))
		return cty.NilVal, at, false
	}
	if !converted.IsWhollyKnown() {
		return cty.NilVal, at, false
	}
	return converted, at, true
}

// constantOf evaluates an expression that may not name nodes.
func (s *scope) constantOf(expr hclsyntax.Expression, at place, name string) (cty.Value, bool) {
	if v, ok := literalOf(expr); ok {
		return v, true
	}
	b, diags := s.bind(expr, at)
	s.diags = append(s.diags, diags...)
	if b == nil {
		return cty.NilVal, false
	}
	if len(b.refs) > 0 {
		s.diags = append(s.diags, problem(b.refs[0].at, "Not known in time",
			fmt.Sprintf("%s must be known before anything has run, so it cannot depend on a result. Use variables, locals and functions.", name)))
		return cty.NilVal, false
	}
	v, diags := b.value(s.atParse)
	s.diags = append(s.diags, diags...)
	if diags.HasErrors() || !v.IsWhollyKnown() { // an unknown comes from a mistake reported elsewhere
		return cty.NilVal, false
	}
	return v, true
}

// literalOf is the value of what needs no evaluation, which most of a file is.
func literalOf(expr hclsyntax.Expression) (cty.Value, bool) {
	if template, ok := expr.(*hclsyntax.TemplateExpr); ok && template.IsStringLiteral() {
		expr = template.Parts[0]
	}
	if literal, ok := expr.(*hclsyntax.LiteralValueExpr); ok {
		return literal.Val, true
	}
	return cty.NilVal, false
}

// wrongType reports that got, as it was before conversion, is no want.
func wrongType(at hcl.Range, name string, want cty.Type, got cty.Value, err error) *hcl.Diagnostic {
	if !want.IsPrimitiveType() {
		return problem(at, "Wrong type", fmt.Sprintf("%s must be %s: %v.", name, typeName(want), err))
	}
	found := typeName(got.Type())
	if got.Type() == cty.String && got.IsKnown() && !got.IsNull() {
		found = fmt.Sprintf("the text %.60q", got.AsString())
	}
	return problem(at, "Wrong type", fmt.Sprintf("%s must be %s, but this is %s.", name, typeName(want), found))
}

// typeName names a type with its article.
func typeName(ty cty.Type) string {
	switch name := ty.FriendlyName(); {
	case ty == cty.DynamicPseudoType:
		return "a value"
	case ty == cty.Bool:
		return "true or false"
	case ty == cty.String:
		return "text"
	case ty.IsObjectType():
		return "an " + name
	default:
		return "a " + name
	}
}

func (r reader) str(name string) (string, hcl.Range, bool) {
	v, at, ok := r.static(name, cty.String)
	if !ok {
		return "", at, false
	}
	return v.AsString(), at, true
}

func (r reader) boolean(name string, missing bool) bool {
	v, _, ok := r.static(name, cty.Bool)
	if !ok {
		return missing
	}
	return v.True()
}

// integer reads a whole number within bounds.
func (r reader) integer(name string, missing, least, most int64) int64 {
	v, at, ok := r.static(name, cty.Number)
	if !ok {
		return missing
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != 0 || n < least || n > most {
		r.diags = append(r.diags, problem(at, "Out of range",
			fmt.Sprintf("%s must be a whole number from %d to %d, not %s.", name, least, most, numberText(v))))
		return missing
	}
	return n
}

// exitCodes reads a list of codes that processes end with when they fail.
func (r reader) exitCodes(name string) []int {
	list, at, ok := r.static(name, cty.List(cty.Number))
	if !ok {
		return nil
	}
	var codes []int
	for _, v := range list.AsValueSlice() {
		if v.IsNull() {
			r.diags = append(r.diags, problem(at, "Invalid exit code", fmt.Sprintf("An element of %s is null.", name)))
			continue
		}
		code, accuracy := v.AsBigFloat().Int64()
		if accuracy != 0 || code < 1 || code > 255 {
			r.diags = append(r.diags, problem(at, "Invalid exit code",
				fmt.Sprintf("A process that fails ends with a code from 1 to 255, not with %s.", numberText(v))))
			continue
		}
		codes = append(codes, int(code))
	}
	return codes
}

func (r reader) float(name string) (float64, hcl.Range, bool) {
	v, at, ok := r.static(name, cty.Number)
	if !ok {
		return 0, at, false
	}
	f, err := toFloat(v)
	if err != nil {
		r.diags = append(r.diags, problem(at, "Out of range", fmt.Sprintf("%s: %v.", name, err)))
		return 0, at, false
	}
	return f, at, true
}

// required reports an attribute that is not there.
func (r reader) required(names ...string) {
	for _, name := range names {
		if r.body.Attributes[name] == nil {
			r.diags = append(r.diags, problem(r.body.MissingItemRange(), "Missing attribute",
				fmt.Sprintf("The %s needs the attribute %q.", r.what, name)))
		}
	}
}

// choice reads one of a few words.
func (r reader) choice(name, missing string, choices ...string) string {
	word, at, ok := r.str(name)
	if !ok {
		return missing
	}
	if !slices.Contains(choices, word) {
		r.diags = append(r.diags, problem(at, "Unknown "+name,
			fmt.Sprintf("%s cannot be %q.%s", name, word, r.suggest(word, choices))))
		return missing
	}
	return word
}

// maxDuration keeps durations from overflowing when they are added up.
const maxDuration = 365 * 24 * time.Hour

// duration reads a duration of at least least; it is missing if there is none.
func (r reader) duration(name string, missing, least time.Duration) time.Duration {
	text, at, ok := r.str(name)
	if !ok {
		return missing
	}
	d, err := parseDuration(text)
	if err != nil {
		r.diags = append(r.diags, problem(at, "Invalid duration", sentence(err)))
		return missing
	}
	if d < least || d > maxDuration {
		r.diags = append(r.diags, problem(at, "Out of range",
			fmt.Sprintf("%s must be from %s to %s, not %s.", name, least, maxDuration, text)))
		return missing
	}
	return d
}
