package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// nodeBuilder reads the block of one node.
type nodeBuilder struct {
	reader
	p      *parser
	entity *entity
	node   *Node
}

// report adds what is wrong.
func (b *nodeBuilder) report(d ...*hcl.Diagnostic) { b.diags = append(b.diags, d...) }

// taskFields are what everything that runs a process may hold.
var taskFields = fields{
	attrs:    []string{"code", "command", "env", "params", "priority", "priority_class", "depends_on"},
	blocks:   []string{"input", "resources"},
	repeated: []string{"input"},
}

// stepFields are what steps and sweeps hold besides.
var stepFields = fields{
	attrs:    []string{"for_each", "when", "on_exit", "timeout", "cache", "seed", "preemptible", "run_time"},
	blocks:   []string{"output", "checkpoint", "retry", "gang"},
	repeated: []string{"output"},
}

func (f fields) with(more ...fields) fields {
	for _, m := range more {
		f.attrs = slices.Concat(f.attrs, m.attrs)
		f.blocks = slices.Concat(f.blocks, m.blocks)
		f.repeated = slices.Concat(f.repeated, m.repeated)
	}
	return f
}

var allStepFields = taskFields.with(stepFields)

func (b *nodeBuilder) step() {
	b.checkFields(b.body, "step", allStepFields)
	b.node.Step = &Step{}
	b.runnable(b.node.Step)
}

// runnable reads what steps and sweeps have in common.
func (b *nodeBuilder) runnable(step *Step) {
	b.node.OnExit = b.boolean("on_exit", false)
	b.place.onExit = b.node.OnExit
	b.task(step)
	b.outputs(step)
	b.retry(step)
	// a clean-up that was taken from the cache would clean nothing up
	step.Cache = b.boolean("cache", !b.node.OnExit)
	step.Timeout = b.duration("timeout", 0, time.Second)
	b.node.deferred.seed = b.integer("seed", 0, 0, 1<<53)
	if block := only(b.body, "checkpoint"); block != nil {
		r := b.inner(block, "checkpoint block", fields{attrs: []string{"keep"}})
		step.Checkpoint = &Checkpoint{Keep: int(r.integer("keep", 3, 1, 1000))}
	}
	b.scheduling(step)
	if attr := b.body.Attributes["when"]; attr != nil {
		b.node.deferred.when, _ = b.later(attr.Expr, cty.Bool, "when")
	}
}

// task reads what everything that runs a process has in common.
func (b *nodeBuilder) task(step *Step) {
	d := b.node.deferred
	b.required("command")
	step.Priority = int(b.integer("priority", 50, 1, 100))
	if class, at, ok := b.str("priority_class"); ok && b.checkIdentifier(class, at, "priority class") {
		step.PriorityClass = class
	}
	if path, at, ok := b.str("code"); ok && b.path(path, at, codePath) {
		step.Code = path
	}
	if attr := b.body.Attributes["command"]; attr != nil {
		d.command = b.command(step, attr)
	}
	if attr := b.body.Attributes["env"]; attr != nil {
		d.env, _ = b.later(attr.Expr, cty.Map(cty.String), "env")
		b.env(step, d.env)
	}
	if attr := b.body.Attributes["params"]; attr != nil {
		d.params, _ = b.later(attr.Expr, cty.DynamicPseudoType, "params")
		b.params(d.params)
	}
	b.inputs(step)
	b.dependsOn()
	step.Resources = b.resources()
}

// inner reads a block inside this one.
func (b *nodeBuilder) inner(block *hclsyntax.Block, what string, f fields) reader {
	b.checkFields(block.Body, what, f)
	return reader{scope: b.scope, body: block.Body, place: b.place, what: what}
}

// later takes in an expression that may name nodes, and makes edges to them. It
// tries it with what is known now, which finds most that is wrong with it: then
// ok is false. The value is nil if it is null, which is as if it were not there.
func (b *nodeBuilder) later(expr hclsyntax.Expression, want cty.Type, name string) (value *boundValue, ok bool) {
	bound, diags := b.bind(expr, b.place)
	b.report(diags...)
	if bound == nil {
		return nil, false
	}
	for _, ref := range bound.refs {
		b.dependOn(ref)
	}
	v, diags := bound.value(b.atParse)
	b.report(diags...)
	if diags.HasErrors() {
		return nil, false
	}
	if v.IsNull() {
		return nil, true
	}
	converted, err := convertTo(v, want)
	if err != nil {
		b.report(wrongType(expr.Range(), name, want, v, err))
		return nil, false
	}
	return &boundValue{bound: bound, name: name, want: want, early: converted}, true
}

// edge is where a node names another.
type edge struct {
	to NodeID
	at hcl.Range
	// results says that more is named than how the other ended.
	results bool
}

// dependOn makes edges to the nodes that ref names.
func (b *nodeBuilder) dependOn(ref reference) {
	results := ref.part != "status" && ref.part != "passed"
	for _, id := range ref.nodes() {
		b.node.deferred.edges = append(b.node.deferred.edges, edge{id, ref.at, results})
	}
}

func (b *nodeBuilder) command(step *Step, attr *hclsyntax.Attribute) *boundValue {
	at := attr.Expr.Range()
	if _, ok := attr.Expr.(*hclsyntax.TemplateExpr); ok {
		b.report(problem(at, "Wrong type",
			"command is a list: the program, then its arguments. For a shell, write [\"sh\", \"-c\", \"…\"]."))
		return nil
	}
	value, ok := b.later(attr.Expr, cty.List(cty.String), "command")
	if ok && value == nil {
		b.report(problem(at, "Invalid command", "The command is null; its first element is the program."))
	}
	if value == nil || !value.early.IsKnown() {
		return value
	}
	command, err := commandOf(value.early)
	if err != nil {
		b.report(problem(at, "Invalid command", sentence(err)))
		return nil
	}
	if value.early.IsWhollyKnown() {
		step.Command = command
	}
	return value
}

// commandOf gives a list of strings, "" for those not known yet.
func commandOf(v cty.Value) ([]string, error) {
	var command []string
	for i, element := range v.AsValueSlice() {
		switch {
		case !element.IsKnown():
			command = append(command, "")
			continue
		case element.IsNull():
			return nil, fmt.Errorf("element %d of the command is null", i)
		case strings.ContainsRune(element.AsString(), 0):
			return nil, fmt.Errorf("element %d of the command has a NUL character", i)
		case i == 0 && strings.TrimSpace(element.AsString()) == "":
			return nil, fmt.Errorf("the command begins with an empty string; its first element is the program")
		}
		command = append(command, element.AsString())
	}
	if len(command) == 0 {
		return nil, fmt.Errorf("the command is empty; its first element is the program")
	}
	return command, nil
}

func (b *nodeBuilder) env(step *Step, value *boundValue) {
	if value == nil || !value.early.IsKnown() {
		return
	}
	env, err := envOf(value.early)
	if err != nil {
		b.report(problem(value.expr.Range(), "Invalid environment", sentence(err)))
		return
	}
	if value.early.IsWhollyKnown() {
		step.Env = env
	}
}

// envOf gives a map of strings, without those not known yet.
func envOf(v cty.Value) (map[string]string, error) {
	env := make(map[string]string, v.LengthInt())
	for key, value := range v.Elements() {
		name := key.AsString()
		switch {
		case !envName.MatchString(name):
			return nil, fmt.Errorf("%q is no name of an environment variable: letters, digits and _, not beginning with a digit", name)
		case strings.HasPrefix(name, "DROVER_") || strings.HasPrefix(name, "NOMAD_"):
			return nil, fmt.Errorf("%s is set by the platform: names with DROVER_ and NOMAD_ are taken. Use params for parameters", name)
		case !value.IsKnown():
			continue
		case value.IsNull():
			return nil, fmt.Errorf("%s is null", name)
		case strings.ContainsRune(value.AsString(), 0):
			return nil, fmt.Errorf("%s has a NUL character", name)
		}
		env[name] = value.AsString()
	}
	return env, nil
}

func (b *nodeBuilder) params(value *boundValue) {
	if value == nil {
		return
	}
	if _, err := paramsOf(value.early); err != nil {
		b.report(problem(value.expr.Range(), "Invalid parameters", sentence(err)))
	}
}

// paramsOf gives an object as JSON values. If it is not wholly known, the
// result is nil but for what is wrong with it.
func paramsOf(v cty.Value) (map[string]any, error) {
	ty := v.Type()
	if ty == cty.DynamicPseudoType && !v.IsKnown() {
		return nil, nil
	}
	if !ty.IsObjectType() && !ty.IsMapType() {
		return nil, fmt.Errorf("parameters are an object, { name = value, … }, not a %s", ty.FriendlyName())
	}
	if !v.IsKnown() {
		return nil, nil
	}
	variables := map[string]string{}
	for key := range v.Elements() {
		name := key.AsString()
		if !fileName.MatchString(name) {
			return nil, fmt.Errorf("the parameter %q is no identifier: letters, digits, _ and -, beginning with a letter", name)
		}
		// tasks get DROVER_PARAM_<NAME>, which has no lower case and no dashes
		variable := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if other, ok := variables[variable]; ok {
			return nil, fmt.Errorf("the parameters %q and %q would both be DROVER_PARAM_%s", min(name, other), max(name, other), variable)
		}
		variables[variable] = name
	}
	if !v.IsWhollyKnown() {
		return nil, nil
	}
	params, err := toGo(v)
	if err != nil {
		return nil, err
	}
	return params.(map[string]any), nil
}

func (b *nodeBuilder) outputs(step *Step) {
	var seen names
	for _, block := range b.body.Blocks {
		if block.Type != "output" {
			continue
		}
		name, at := b.label(block, "output")
		if name == "" || !b.checkFileName(name, at, "an output") {
			continue
		}
		if !b.first(&seen, "output", name, at) {
			continue
		}
		r := b.inner(block, "output", fields{attrs: []string{"optional"}})
		step.Outputs = append(step.Outputs, Output{Name: name, Optional: r.boolean("optional", false)})
	}
}

func (b *nodeBuilder) retry(step *Step) {
	block := only(b.body, "retry")
	if block == nil {
		return
	}
	r := b.inner(block, "retry block", fields{attrs: []string{"attempts", "delay", "permanent"}})
	r.required("attempts")
	step.Retry = Retry{
		Attempts:  int(r.integer("attempts", 0, 0, 100)),
		Delay:     r.duration("delay", 0, 0),
		Permanent: r.exitCodes("permanent"),
	}
}

// dependsOn makes edges to nodes that are named only for their order.
func (b *nodeBuilder) dependsOn() {
	attr := b.body.Attributes["depends_on"]
	if attr == nil {
		return
	}
	for _, ref := range b.nodeList(attr) {
		for _, id := range ref.nodes() {
			b.node.deferred.edges = append(b.node.deferred.edges, edge{to: id, at: ref.at})
		}
	}
}

// nodeList reads a list of nodes, [step.a, step.b["x"]].
func (b *nodeBuilder) nodeList(attr *hclsyntax.Attribute) []reference {
	list, ok := attr.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		b.report(problem(attr.Expr.Range(), "Wrong type",
			fmt.Sprintf("%s is a list of nodes: %s = [step.name].", attr.Name, attr.Name)))
		return nil
	}
	var refs []reference
	for _, expr := range list.Exprs {
		if ref, ok := b.nodeReference(expr, attr.Name); ok {
			refs = append(refs, ref)
		}
	}
	return refs
}

// nodeReference reads an expression that must be the plain name of a node, or
// of part of it.
func (b *nodeBuilder) nodeReference(expr hclsyntax.Expression, name string) (reference, bool) {
	t, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || !isEntityKind(t.RootName()) {
		b.report(problem(expr.Range(), "Not a node", fmt.Sprintf("%s names a node of this file, such as step.train.", name)))
		return reference{}, false
	}
	ref, diags := b.reference(t)
	b.report(diags...)
	if diags.HasErrors() || ref.entity.broken {
		return ref, false
	}
	fits, diags := b.count(ref)
	b.report(diags...)
	return ref, fits
}

// codePath is what path calls a step's code, which must be a folder.
const codePath = "Code"

// path takes in a file or folder, and reports whether it can be one.
func (b *nodeBuilder) path(path string, at hcl.Range, what string) bool {
	switch {
	case path == "" || len(path) > 4096 || !printable(path):
		b.report(problem(at, "Invalid path", "A path has 1 to 4096 bytes and no control characters."))
		return false
	case strings.Contains(path, "://"):
		b.report(problem(at, "Invalid path", "Only files and folders are taken in, by a path relative to this file; URLs are not."))
		return false
	}
	folder := what == codePath
	i, known := b.p.paths[path]
	if known && !folder {
		return true
	}
	paths := &b.p.pipeline.Paths
	if !known {
		i = len(*paths)
		b.p.paths[path] = i
		*paths = append(*paths, Path{Path: path, Range: at})
	}
	if p := &(*paths)[i]; folder && !p.Folder {
		p.Folder, p.Code = true, at
	}
	if b.p.opts.Check == nil {
		return true
	}
	err := b.p.opts.Check(path, folder)
	switch {
	case errors.Is(err, ErrNotFolder):
		b.report(problem(at, "Not a folder", fmt.Sprintf("%s is a file. The code is the folder that the command starts in: name the folder that has the file.", path)))
	case err != nil:
		b.report(problem(at, what+" not found", fmt.Sprintf("%v. Paths are relative to the folder of this file.", err)))
	}
	return err == nil
}
