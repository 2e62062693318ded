package workspace

import (
	"bytes"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// maxSourceBytes limits a file.
const maxSourceBytes = 1 << 20

// Source is a file of definitions.
type Source struct {
	Filename string
	Text     []byte
}

// Parse reads definitions from files, which are one as a whole. It reports
// everything that is wrong at once; definitions with an error must not be used.
// The result is in canonical order.
func Parse(sources ...Source) (Definitions, hcl.Diagnostics) {
	p := &parser{at: map[string]hcl.Range{}, told: map[hcl.Range]bool{}}
	for _, s := range sources {
		p.file(s)
	}
	p.check()
	inOrder(p.diags, sources)
	p.d.sort()
	return p.d, p.diags
}

// inOrder sorts diagnostics as their places are.
func inOrder(diags hcl.Diagnostics, sources []Source) {
	place := func(d *hcl.Diagnostic) (file, offset int) {
		if d.Subject == nil {
			return 0, 0
		}
		return slices.IndexFunc(sources, func(s Source) bool { return s.Filename == d.Subject.Filename }), d.Subject.Start.Byte
	}
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		fa, oa := place(a)
		fb, ob := place(b)
		if fa != fb {
			return fa - fb
		}
		return oa - ob
	})
}

// check adds what is wrong with the whole, but for places where an error was
// reported: what was read there says nothing.
func (p *parser) check() {
	if p.broken {
		return
	}
	for _, d := range p.diags {
		if d.Subject != nil {
			p.told[*d.Subject] = true
		}
	}
	for _, problem := range p.d.Check() {
		if d := p.locate(problem); d.Subject == nil || !p.told[*d.Subject] {
			p.diags = append(p.diags, d)
		}
	}
}

// parser collects definitions with the place of each field, by its path.
type parser struct {
	d      Definitions
	policy bool // there was one
	broken bool // what is there is not all that was written
	at     map[string]hcl.Range
	told   map[hcl.Range]bool // where something is wrong that explains more
	diags  hcl.Diagnostics
}

// locate finds the place of a problem: its field's, or of the block around it.
func (p *parser) locate(problem Problem) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: problem.Summary, Detail: problem.Detail}
	if problem.Warning {
		d.Severity = hcl.DiagWarning
	}
	for path := problem.Path; path != ""; {
		if at, ok := p.at[path]; ok {
			d.Subject = &at
			break
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return d
}

func (p *parser) add(at hcl.Range, summary, format string, args ...any) {
	p.diags = append(p.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at})
}

var fileSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: "policy"},
	{Type: "flavor", LabelNames: []string{"name"}},
	{Type: "priority_class", LabelNames: []string{"name"}},
	{Type: "cohort", LabelNames: []string{"name"}},
	{Type: "workspace", LabelNames: []string{"name"}},
}}

func (p *parser) file(s Source) {
	start := hcl.Range{Filename: s.Filename, Start: hcl.InitialPos, End: hcl.InitialPos}
	switch {
	case len(s.Text) > maxSourceBytes:
		p.broken = true
		p.add(start, "File too large", "It has %d bytes; at most %d are read.", len(s.Text), maxSourceBytes)
		return
	case !utf8.Valid(s.Text) || bytes.IndexByte(s.Text, 0) >= 0:
		p.broken = true
		p.add(start, "Not text", "The file is not UTF-8. Save it as such.")
		return
	}
	if diags := pipeline.CheckNesting(s.Filename, s.Text); diags.HasErrors() {
		p.broken = true
		p.diags = append(p.diags, diags...)
		return
	}
	file, diags := hclsyntax.ParseConfig(s.Text, s.Filename, hcl.InitialPos)
	p.diags = append(p.diags, diags...)
	p.broken = p.broken || diags.HasErrors()
	if file == nil || file.Body == nil {
		return
	}
	content, diags := file.Body.Content(fileSchema)
	p.diags = append(p.diags, diags...)
	for _, block := range content.Blocks {
		switch block.Type {
		case "policy":
			p.readPolicy(block)
		case "flavor":
			p.flavor(block)
		case "priority_class":
			p.priorityClass(block)
		case "cohort":
			p.cohort(block)
		case "workspace":
			p.workspace(block)
		}
	}
}

// body is a block whose fields are read, under a path.
type body struct {
	*parser
	path    string
	content *hcl.BodyContent
}

// attributes are those of each type of block. They are optional, but for those
// that end in "!".
var attributes = map[string][]string{
	"policy":         {"run_time", "half_life", "aging", "patience", "min_run_time", "preemption_delay", "max_evictions", "hold_undeclared"},
	"flavor":         {"vendor", "type", "model", "memory_min", "memory_max"},
	"priority_class": {"value!", "default", "description"},
	"cohort":         {"parent", "weight"},
	"workspace":      {"namespace", "node_pools", "cohort", "weight", "strict", "priority_classes", "preemptible"},
	"quota":          {"nominal!", "borrow", "lend"},
	"serving":        {"floor", "headroom"},
	"budget":         {"gpu_hours!", "per!"},
	"schedule":       {"days", "from", "to", "cron", "duration", "timezone"},
}

// open reads a block's content.
func (p *parser) open(block *hcl.Block, path string, blocks ...hcl.BlockHeaderSchema) body {
	schema := &hcl.BodySchema{Blocks: blocks}
	for _, a := range attributes[block.Type] {
		name, required := strings.CutSuffix(a, "!")
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name, Required: required})
	}
	content, diags := block.Body.Content(schema)
	p.diags = append(p.diags, diags...)
	if diags.HasErrors() {
		p.told[block.DefRange] = true
	}
	p.at[path] = block.DefRange
	if len(block.LabelRanges) > 0 {
		p.at[path+".name"] = block.LabelRanges[0]
	}
	return body{p, path, content}
}

// value is an attribute's value; false if there is none, or a wrong one, which
// is reported.
func (b body) value(name string, want cty.Type) (cty.Value, hcl.Range, bool) {
	return b.named(name, name, want)
}

// named is value for a field whose path has another name.
func (b body) named(name, field string, want cty.Type) (cty.Value, hcl.Range, bool) {
	attr := b.content.Attributes[name]
	if attr == nil {
		return cty.NilVal, hcl.Range{}, false
	}
	at := attr.Expr.Range()
	b.at[b.path+"."+field] = at
	v, diags := attr.Expr.Value(nil)
	if diags.HasErrors() {
		b.parser.diags = append(b.parser.diags, diags...)
		return cty.NilVal, at, false
	}
	if !v.IsWhollyKnown() {
		return cty.NilVal, at, false // of an expression that was not understood
	}
	converted, err := convert.Convert(v, want)
	if err != nil || converted.IsNull() {
		b.add(at, "Wrong type", "%s must be %s.", name, typeNames[want.FriendlyName()])
		return cty.NilVal, at, false
	}
	return converted, at, true
}

var typeNames = map[string]string{
	"string": "text", "number": "a number", "bool": "true or false", "list of string": "a list of texts",
}

func (b body) text(name string) string {
	v, _, ok := b.value(name, cty.String)
	if !ok {
		return ""
	}
	return v.AsString()
}

func (b body) texts(name string) []string {
	v, at, ok := b.value(name, cty.List(cty.String))
	if !ok {
		return nil
	}
	var out []string
	for i, element := range v.AsValueSlice() {
		b.at[fmt.Sprintf("%s.%s[%d]", b.path, name, i)] = at
		if element.IsNull() {
			b.add(at, "Wrong type", "%s must be a list of texts, without null.", name)
			return nil
		}
		out = append(out, element.AsString())
	}
	return out
}

func (b body) boolean(name string) *bool {
	v, _, ok := b.value(name, cty.Bool)
	if !ok {
		return nil
	}
	t := v.True()
	return &t
}

func (b body) yes(name string) bool {
	v := b.boolean(name)
	return v != nil && *v
}

func (b body) integer(name string) int {
	v, at, ok := b.value(name, cty.Number)
	if !ok {
		return 0
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != big.Exact || int64(int32(n)) != n {
		b.add(at, "Not a whole number", "%s must be a whole number.", name)
		return 0
	}
	return int(n)
}

func (b body) duration(name string) Duration {
	v, at, ok := b.value(name, cty.String)
	if !ok {
		return 0
	}
	var d Duration
	if err := d.UnmarshalText([]byte(v.AsString())); err != nil {
		b.add(at, "Invalid duration", "%.40q is no duration. Write numbers with units, as in \"90s\" or \"1h30m\".", v.AsString())
	}
	return d
}

// maxExponent bounds how small a number is written out.
const maxExponent = 64

// amount reads an exact number with three decimals at most.
func (b body) amount(name string) *Amount {
	v, at, ok := b.value(name, cty.Number)
	if !ok {
		return nil
	}
	n := v.AsBigFloat()
	most := Amount(queue.MaxAmount) // in place of a wrong one: nothing exceeds it
	limit := big.NewFloat(float64(most))
	switch thousandths := new(big.Float).Mul(n, big.NewFloat(float64(queue.One))); {
	case n.Sign() < 0:
		b.add(at, "Negative amount", "%s must be 0 or more.", name)
	case thousandths.Cmp(limit) > 0:
		b.add(at, "Amount too large", "%s must be at most %s.", name, most)
	case n.Sign() > 0 && n.MantExp(nil) < -maxExponent:
		b.add(at, "Invalid amount", "%s has at most three decimals.", name)
	default:
		// A decimal is none in binary: what counts is the shortest that means it.
		text := "0"
		if n.Sign() > 0 {
			text = n.Text('f', -1)
		}
		if a, err := queue.ParseAmount(text); err == nil {
			return (*Amount)(&a)
		}
		b.add(at, "Invalid amount", "%s has at most three decimals.", name)
	}
	return &most
}

// number is amount, or one in place of those that are not there.
func (b body) number(name string, missing Amount) Amount {
	if a := b.amount(name); a != nil {
		return *a
	}
	return missing
}

// mib reads an amount of memory in MiB.
func (b body) mib(name string) int64 {
	v, at, ok := b.named(name, name+"_mib", cty.String)
	if !ok {
		return 0
	}
	n, err := pipeline.ParseMiB(v.AsString())
	if err != nil {
		b.add(at, "Invalid amount of memory", "%s", sentence(err))
	}
	return n
}

func (p *parser) readPolicy(block *hcl.Block) {
	b := p.open(block, "policy")
	if p.policy {
		p.add(block.DefRange, "Duplicate policy", "There is a policy block already.")
		return
	}
	p.policy = true
	p.d.Policy = Policy{
		RunTime: b.duration("run_time"), HalfLife: b.duration("half_life"), Aging: b.duration("aging"), Patience: b.duration("patience"),
		MinRunTime: b.duration("min_run_time"), PreemptionDelay: b.duration("preemption_delay"), MaxEvictions: b.integer("max_evictions"),
		HoldUndeclared: b.yes("hold_undeclared"),
	}
}

func (p *parser) flavor(block *hcl.Block) {
	b := p.open(block, fmt.Sprintf("flavors[%d]", len(p.d.Flavors)))
	p.d.Flavors = append(p.d.Flavors, Flavor{
		Name: block.Labels[0], Model: b.text("model"), Vendor: b.text("vendor"), Type: b.text("type"),
		MemoryMinMiB: b.mib("memory_min"), MemoryMaxMiB: b.mib("memory_max"),
	})
}

func (p *parser) priorityClass(block *hcl.Block) {
	b := p.open(block, fmt.Sprintf("priority_classes[%d]", len(p.d.PriorityClasses)))
	p.d.PriorityClasses = append(p.d.PriorityClasses, PriorityClass{
		Name: block.Labels[0], Value: b.integer("value"), Default: b.yes("default"), Description: b.text("description"),
	})
}

var (
	quotaBlock    = hcl.BlockHeaderSchema{Type: "quota", LabelNames: []string{"flavor"}}
	servingBlock  = hcl.BlockHeaderSchema{Type: "serving", LabelNames: []string{"flavor"}}
	scheduleBlock = hcl.BlockHeaderSchema{Type: "schedule", LabelNames: []string{"name"}}
	budgetBlock   = hcl.BlockHeaderSchema{Type: "budget"}
)

func (p *parser) cohort(block *hcl.Block) {
	b := p.open(block, fmt.Sprintf("cohorts[%d]", len(p.d.Cohorts)), quotaBlock, scheduleBlock)
	p.d.Cohorts = append(p.d.Cohorts, Cohort{
		Name: block.Labels[0], Parent: b.text("parent"), Weight: b.integer("weight"), Quotas: b.readQuotas(), Schedules: b.readSchedules(),
	})
}

func (p *parser) workspace(block *hcl.Block) {
	b := p.open(block, fmt.Sprintf("workspaces[%d]", len(p.d.Workspaces)), quotaBlock, servingBlock, scheduleBlock, budgetBlock)
	p.d.Workspaces = append(p.d.Workspaces, Workspace{
		Name: block.Labels[0], Namespace: b.text("namespace"), NodePools: b.texts("node_pools"), Cohort: b.text("cohort"),
		Weight: b.integer("weight"), Strict: b.yes("strict"), PriorityClasses: b.texts("priority_classes"), Preemptible: b.boolean("preemptible"),
		Quotas: b.readQuotas(), Serving: b.readServing(), Budget: b.readBudget(), Schedules: b.readSchedules(),
	})
}

// each opens the blocks of a type, of which there is one for each label.
func (b body) each(kind, field string, read func(label string, b body)) {
	lines := map[string]int{}
	for _, block := range b.content.Blocks.OfType(kind) {
		label := block.Labels[0]
		if line, twice := lines[label]; twice {
			b.add(block.LabelRanges[0], "Duplicate "+kind, "There is a %s block for %q already, in line %d.", kind, label, line)
			continue
		}
		lines[label] = block.DefRange.Start.Line
		one := b.open(block, b.path+"."+field+"."+label)
		one.at[one.path] = block.LabelRanges[0]
		read(label, one)
	}
}

func (b body) readQuotas() Quotas {
	var quotas Quotas
	b.each("quota", "quotas", func(flavor string, b body) {
		if quotas == nil {
			quotas = Quotas{}
		}
		quotas[queue.Flavor(flavor)] = Quota{Nominal: b.number("nominal", Amount(queue.MaxAmount)), Borrow: b.amount("borrow"), Lend: b.amount("lend")}
	})
	return quotas
}

func (b body) readServing() map[queue.Flavor]Serving {
	var serving map[queue.Flavor]Serving
	b.each("serving", "serving", func(flavor string, b body) {
		if serving == nil {
			serving = map[queue.Flavor]Serving{}
		}
		serving[queue.Flavor(flavor)] = Serving{Floor: b.number("floor", 0), Headroom: b.number("headroom", 0)}
	})
	return serving
}

func (b body) readBudget() *Budget {
	var budget *Budget
	for _, block := range b.content.Blocks.OfType("budget") {
		one := b.open(block, b.path+".budget")
		if budget != nil {
			b.add(block.DefRange, "Duplicate budget", "The workspace has a budget already.")
			continue
		}
		budget = &Budget{GPUHours: one.number("gpu_hours", 0), Per: Period(one.text("per"))}
	}
	return budget
}

func (b body) readSchedules() []Schedule {
	var schedules []Schedule
	for i, block := range b.content.Blocks.OfType("schedule") {
		one := b.open(block, fmt.Sprintf("%s.schedules[%d]", b.path, i), quotaBlock)
		schedules = append(schedules, Schedule{
			Name: block.Labels[0], Days: one.texts("days"), From: one.text("from"), To: one.text("to"),
			Cron: one.text("cron"), Duration: one.duration("duration"), Timezone: one.text("timezone"), Quotas: one.readQuotas(),
		})
	}
	return schedules
}

// sort puts d into its canonical order: by name. Schedules stay as they are, since
// the last one that holds counts.
func (d *Definitions) sort() {
	slices.SortStableFunc(d.Flavors, func(a, b Flavor) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.PriorityClasses, func(a, b PriorityClass) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Cohorts, func(a, b Cohort) int { return strings.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Workspaces, func(a, b Workspace) int { return strings.Compare(a.Name, b.Name) })
}
