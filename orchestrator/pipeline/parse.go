package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// ErrNotFolder is what Options.Check returns for a file where a folder must be.
var ErrNotFolder = errors.New("not a folder")

// Options are what a file is parsed with. The zero value parses it alone.
type Options struct {
	// Vars are values for the file's variables: plain text for strings, numbers
	// and booleans, an HCL expression for anything else.
	Vars map[string]string
	// Sources gives the artefact digest of a path of the file (one of
	// Pipeline.Paths). Without it, datasets and code have no digests, and
	// Resolve refuses a task that needs one. It must be safe to call later,
	// and from several goroutines.
	Sources func(path string) (digest string, ok bool)
	// Check says what is wrong with a path of the file, nil if it can be read.
	// With folder it must be a folder, and ErrNotFolder says that it is none.
	// Without Check, paths are not checked.
	Check func(path string, folder bool) error
}

// Parse parses the pipeline file src. It reports everything that is wrong
// with it at once; the pipeline is nil if any of it is an error. There may be
// warnings with a pipeline.
func Parse(filename string, src []byte, opts Options) (*Pipeline, hcl.Diagnostics) {
	body, diags := readSource(filename, src)
	if body == nil {
		return nil, inOrder(diags)
	}
	p := &parser{
		scope: &scope{
			variables: map[string]cty.Value{},
			locals:    map[string]*local{},
			entities:  map[Kind]map[string]*entity{},
			sources:   opts.Sources,
			diags:     diags,
		},
		opts:     opts,
		pipeline: &Pipeline{},
		byID:     map[NodeID]*Node{},
		paths:    map[string]int{},
	}
	p.atParse = &knowledge{scope: p.scope, locals: map[*local]cty.Value{}}
	p.file(body)
	diags = inOrder(p.diags)
	if diags.HasErrors() {
		return nil, diags
	}
	// what expressions need later; the rest of the scope served only parsing
	p.nodes = p.pipeline.Nodes
	p.diags, p.atParse = nil, nil
	return p.pipeline, diags
}

// parser turns one file into a pipeline.
type parser struct {
	*scope
	opts     Options
	pipeline *Pipeline
	byID     map[NodeID]*Node
	declared []*entity      // in the order of the file
	paths    map[string]int // where in pipeline.Paths
	full     bool           // there are too many nodes
}

var fileFields = fields{
	blocks: []string{"pipeline", "variable", "locals", "dataset", "step", "sweep", "gate", "model", "endpoint"},
	repeated: []string{
		"variable", "locals", "dataset", "step", "sweep", "gate", "model", "endpoint",
	},
}

func (p *parser) file(body *hclsyntax.Body) {
	p.checkFields(body, "pipeline file", fileFields)
	var variables []*hclsyntax.Block
	for _, block := range body.Blocks {
		switch {
		case block.Type == "variable":
			variables = append(variables, block)
		case block.Type == "locals":
			p.declareLocals(block)
		case isEntityKind(block.Type):
			p.declare(block)
		}
	}
	p.declareVariables(variables, p.opts.Vars)
	p.header(body)
	p.pipeline.Variables = p.variablesAsGo()

	for _, e := range p.declared {
		p.expand(e)
	}
	// sweeps first: they say what parameters others can ask them for
	for _, sweeps := range []bool{true, false} {
		for _, e := range p.declared {
			if (e.kind == KindSweep) == sweeps {
				p.entity(e)
			}
		}
	}
	slices.SortStableFunc(p.pipeline.Nodes, func(a, b *Node) int {
		return cmp.Compare(a.Range.Start.Byte, b.Range.Start.Byte)
	})
	p.bindLocals()
	p.arrange()
}

// header reads the pipeline block.
func (p *parser) header(body *hclsyntax.Body) {
	block := only(body, "pipeline")
	if block == nil {
		start := hcl.Range{Filename: body.SrcRange.Filename, Start: hcl.InitialPos, End: hcl.InitialPos}
		p.diags = append(p.diags, problem(start, "No pipeline block",
			"A pipeline file names itself in a block: pipeline \"name\" { }."))
		return
	}
	p.checkFields(block.Body, "pipeline", fields{attrs: []string{"description"}})
	name, at := p.label(block, "pipeline")
	if name != "" && p.checkFileName(name, at, "a pipeline") {
		p.pipeline.Name = name
	}
	p.pipeline.Description, _, _ = reader{scope: p.scope, body: block.Body, what: "pipeline"}.str("description")
}

func (p *parser) variablesAsGo() map[string]any {
	values := make(map[string]any, len(p.variables))
	for name, v := range p.variables {
		if !v.IsWhollyKnown() {
			continue
		}
		value, err := toGo(v)
		if err != nil {
			p.diags = append(p.diags, problem(p.nowhere(), "Invalid value of a variable", fmt.Sprintf("var.%s: %v.", name, err)))
			continue
		}
		values[name] = value
	}
	return values
}

// declare makes the name of a node known, before anything is evaluated.
func (p *parser) declare(block *hclsyntax.Block) {
	kind := Kind(block.Type)
	name, at := p.label(block, block.Type)
	if name == "" {
		if len(block.Labels) == 1 {
			p.checkIdentifier(name, at, block.Type)
		}
		return
	}
	if earlier := p.entities[kind][name]; earlier != nil {
		d := duplicate(block.Type, name, at, earlier.block.DefRange())
		if shared := sharedOutput(block, earlier.block); shared != "" {
			d.Detail += fmt.Sprintf(" Both would write the output %q.", shared)
		}
		p.diags = append(p.diags, d)
	} else if kind != KindModel && kind != KindEndpoint { // their names must do for more, and are checked there
		p.checkIdentifier(name, at, block.Type)
	}
	e := &entity{kind: kind, name: name, block: block, bestParams: cty.DynamicPseudoType}
	for _, output := range block.Body.Blocks {
		if output.Type == "output" && len(output.Labels) == 1 {
			e.outputs = append(e.outputs, output.Labels[0])
		}
	}
	e.hasEach = block.Body.Attributes["for_each"] != nil && (kind == KindStep || kind == KindSweep)
	if p.entities[kind] == nil {
		p.entities[kind] = map[string]*entity{}
	}
	if p.entities[kind][name] == nil {
		p.entities[kind][name] = e
	}
	p.declared = append(p.declared, e)
}

// sharedOutput is an output that two blocks of one name both declare.
func sharedOutput(a, b *hclsyntax.Block) string {
	for _, x := range a.Body.Blocks {
		for _, y := range b.Body.Blocks {
			if x.Type == "output" && y.Type == "output" && slices.Equal(x.Labels, y.Labels) && len(x.Labels) == 1 {
				return x.Labels[0]
			}
		}
	}
	return ""
}

// expand finds the keys of a for_each, once.
func (s *scope) expand(e *entity) {
	if !e.hasEach || e.expansion != untouched {
		e.broken = e.broken || e.expansion == underWay // for_each names itself: reported as not known in time
		return
	}
	e.expansion = underWay
	defer func() { e.expansion = done }()
	attr := e.block.Body.Attributes["for_each"]
	at := attr.Expr.Range()
	v, ok := s.constantOf(attr.Expr, place{}, "for_each")
	if !ok {
		e.broken = true
		return
	}
	problemOf := func(detail string) {
		e.broken = true
		s.diags = append(s.diags, problem(at, "Wrong for_each", detail))
	}
	ty := v.Type()
	switch {
	case v.IsNull():
		problemOf("for_each is null; give an empty set for no instances: toset([]).")
	case ty.IsListType() || ty.IsTupleType():
		problemOf("for_each takes a set of strings, or a map. Make a set of this list with toset(…).")
	case !ty.IsSetType() && !ty.IsMapType() && !ty.IsObjectType():
		problemOf(fmt.Sprintf("for_each takes a set of strings, or a map, not a %s.", ty.FriendlyName()))
	case ty.IsSetType() && v.LengthInt() > 0 && ty.ElementType() != cty.String:
		problemOf(fmt.Sprintf("The set of for_each holds strings, not elements of type %s.", ty.ElementType().FriendlyName()))
	case v.LengthInt() > maxInstances:
		problemOf(fmt.Sprintf("for_each gives %d instances; the most is %d.", v.LengthInt(), maxInstances))
	}
	if e.broken {
		return
	}
	e.values = make(map[string]cty.Value, v.LengthInt())
	for key, value := range v.Elements() {
		if ty.IsSetType() {
			key = value
		}
		if key.IsNull() {
			problemOf("The set of for_each holds null.")
			return
		}
		text := key.AsString()
		if len(text) == 0 || len(text) > maxKey || !printable(text) {
			problemOf(fmt.Sprintf("The key %.40q does not do: keys have 1 to %d bytes and no control characters.", text, maxKey))
			return
		}
		e.keys = append(e.keys, text)
		e.values[text] = value
	}
	slices.Sort(e.keys)
}

// entity makes the nodes of a block.
func (p *parser) entity(e *entity) {
	if !e.hasEach || e.broken {
		// what is wrong with a block besides its for_each is worth telling too
		at := place{}
		if e.hasEach {
			at.instance = instance{value: cty.DynamicVal, set: true}
		}
		p.node(e, at)
		return
	}
	for _, key := range e.keys {
		errorsBefore := len(p.diags)
		p.node(e, place{instance: instance{key: key, value: e.values[key], set: true}})
		if len(p.diags) > errorsBefore && p.diags[errorsBefore:].HasErrors() {
			return // the others would say the same
		}
	}
}

// node makes one node.
func (p *parser) node(e *entity, at place) {
	if len(p.pipeline.Nodes) >= maxNodes {
		if !p.full {
			p.full = true
			p.diags = append(p.diags, problem(e.block.DefRange(), "Too many nodes",
				fmt.Sprintf("With this block the pipeline has more than %d nodes, for_each included.", maxNodes)))
		}
		return
	}
	n := &Node{
		ID:    e.nodeID(at.key),
		Kind:  e.kind,
		Name:  e.name,
		Key:   at.key,
		Range: e.block.DefRange(),
	}
	b := &nodeBuilder{
		p:      p,
		reader: reader{scope: p.scope, body: e.block.Body, place: at, what: string(e.kind)},
		entity: e,
		node:   n,
	}
	n.deferred = &deferred{scope: p.scope, entity: e}
	if p.byID[n.ID] == nil { // else it is there twice, and only looked through for more that is wrong
		p.byID[n.ID] = n
		p.pipeline.Nodes = append(p.pipeline.Nodes, n)
	}
	switch e.kind {
	case KindDataset:
		b.dataset()
	case KindStep:
		b.step()
	case KindSweep:
		b.sweep()
	case KindGate:
		b.gate()
	case KindModel:
		b.model()
	case KindEndpoint:
		b.endpoint()
	}
}

// nowhere is the place of what has none.
func (p *parser) nowhere() hcl.Range {
	return hcl.Range{Start: hcl.InitialPos, End: hcl.InitialPos}
}
