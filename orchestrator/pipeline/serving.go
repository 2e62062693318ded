package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// modelInput is the input at which an endpoint gets its model.
const modelInput = "model"

func (b *nodeBuilder) dataset() {
	b.checkFields(b.body, "dataset", fields{attrs: []string{"path", "sha256"}})
	b.required("path")
	d := &Dataset{}
	b.node.Dataset = d
	path, at, ok := b.str("path")
	if ok && b.path(path, at, "Dataset") {
		d.Path = path
	}
	pin, at, ok := b.str("sha256")
	if !ok {
		return
	}
	d.SHA256 = "sha256:" + strings.TrimPrefix(strings.ToLower(pin), "sha256:")
	if !digest.MatchString(d.SHA256) {
		b.report(problem(at, "Invalid digest", "A pin is an artefact's digest: sha256: and 64 hexadecimal digits."))
		return
	}
	if b.sources == nil || d.Path == "" {
		return
	}
	if found, ok := b.sources(d.Path); ok && found != d.SHA256 {
		b.report(problem(at, "The dataset has changed",
			fmt.Sprintf("%s is pinned to %s, but it is %s now. Restore the data, or pin what it is now.", d.Path, d.SHA256, found)))
	}
}

func (b *nodeBuilder) gate() {
	b.checkFields(b.body, "gate", fields{attrs: []string{"model", "depends_on"}, blocks: []string{"check"}, repeated: []string{"check"}})
	g := &Gate{}
	b.node.Gate = g
	if name, at, ok := b.str("model"); ok && b.checkFileName(name, at, "a model") {
		g.Model = name
		if b.entities[KindModel][name] == nil {
			b.report(warning(at, "Model of another pipeline",
				fmt.Sprintf("No model block here registers %q. If nothing else does, there is never a champion to compare with.%s",
					name, b.suggest(name, keysOf(b.entities[KindModel])))))
		}
	}
	b.dependsOn()
	for _, block := range b.body.Blocks {
		if block.Type == "check" {
			b.check(g, block)
		}
	}
	if only(b.body, "check") == nil {
		b.report(problem(b.body.MissingItemRange(), "No checks", "A gate without checks lets anything pass: check \"metric\" { from = step.name  min = 0.9 }."))
	}
}

// check reads one condition of a gate.
func (b *nodeBuilder) check(g *Gate, block *hclsyntax.Block) {
	metric, at := b.label(block, "check")
	if metric == "" || len(metric) > maxName || !printable(metric) {
		b.report(problem(at, "Invalid name", "The label of a check is the metric that it looks at."))
		return
	}
	r := b.inner(block, "check", fields{attrs: []string{"from", "min", "max", "champion", "min_delta", "goal"}})
	r.required("from")
	c := Check{Metric: metric, Range: block.DefRange()}
	if attr := block.Body.Attributes["from"]; attr != nil {
		if ref, ok := b.measured(attr.Expr); ok {
			c.Source = ref.nodes()[0]
		}
	}
	if low, _, ok := r.float("min"); ok {
		c.Min = &low
	}
	if high, at, ok := r.float("max"); ok {
		c.Max = &high
		if c.Min != nil && *c.Min > high {
			b.report(problem(at, "Empty range", fmt.Sprintf("No value is at least %v and at most %v.", *c.Min, high)))
		}
	}
	c.AgainstChampion = r.boolean("champion", false)
	c.MinDelta, _, _ = r.float("min_delta")
	c.LowerIsBetter = r.choice("goal", "maximize", "maximize", "minimize") == "minimize"
	switch {
	case c.AgainstChampion && b.body.Attributes["model"] == nil:
		b.report(problem(block.Body.Attributes["champion"].SrcRange, "Which champion?",
			"To compare with a champion, the gate needs the name of a model in the registry: model = \"name\"."))
	case !c.AgainstChampion && block.Body.Attributes["min_delta"] != nil:
		b.report(problem(block.Body.Attributes["min_delta"].NameRange, "Conflicting attributes",
			"min_delta is the difference to the champion: set champion = true as well, or use min or max."))
	case !c.AgainstChampion && block.Body.Attributes["min"] == nil && block.Body.Attributes["max"] == nil:
		b.report(problem(block.DefRange(), "Nothing to check", "A check needs a bound: min, max, or champion = true."))
	}
	g.Checks = append(g.Checks, c)
}

// measured reads the name of one node that has metrics.
func (b *nodeBuilder) measured(expr hclsyntax.Expression) (reference, bool) {
	ref, ok := b.oneNode(expr, "from")
	if !ok {
		return ref, false
	}
	if kind := ref.entity.kind; kind != KindStep && kind != KindSweep || ref.part != "" {
		b.report(problem(expr.Range(), "No metrics", "Metrics come from a step, or from the best trial of a sweep: name it, as in step.evaluate."))
		return ref, false
	}
	return ref, true
}

// oneNode reads the name of just one node, and makes an edge to it.
func (b *nodeBuilder) oneNode(expr hclsyntax.Expression, name string) (reference, bool) {
	ref, ok := b.nodeReference(expr, name)
	if !ok {
		return ref, false
	}
	if ref.all {
		example := ""
		if len(ref.entity.keys) > 0 {
			example = fmt.Sprintf(", as in %s", ref.entity.nodeID(ref.entity.keys[0]))
		}
		b.report(problem(expr.Range(), "Which one?",
			fmt.Sprintf("%s.%s has for_each: say which of its instances%s.", ref.entity.kind, ref.entity.name, example)))
		return ref, false
	}
	b.dependOn(ref)
	return ref, true
}

func (b *nodeBuilder) model() {
	b.checkFields(b.body, "model", fields{attrs: []string{"from", "gate", "alias", "metrics", "depends_on"}})
	b.required("from")
	m := &Model{Registered: b.entity.name}
	b.node.Model = m
	b.checkFileName(m.Registered, b.entity.block.LabelRanges[0], "a model")
	if attr := b.body.Attributes["from"]; attr != nil {
		if ref, ok := b.oneNode(attr.Expr, "from"); ok {
			if ref.name == "" || ref.part != "output" && ref.part != "best" {
				b.report(problem(attr.Expr.Range(), "Not an output", "A model is made from an output of a step or of a sweep's best trial, as in step.train.output.model."))
			} else {
				m.Source, m.Output = ref.nodes()[0], ref.name
			}
		}
	}
	if attr := b.body.Attributes["gate"]; attr != nil {
		if ref, ok := b.oneNode(attr.Expr, "gate"); ok {
			if ref.entity.kind != KindGate || ref.part != "" {
				b.report(problem(attr.Expr.Range(), "Not a gate", "gate names a gate, as in gate.accuracy."))
			} else {
				m.Gate = ref.nodes()[0]
			}
		}
	}
	if alias, at, ok := b.str("alias"); ok && b.checkFileName(alias, at, "an alias") {
		m.Alias = alias
	}
	if attr := b.body.Attributes["metrics"]; attr != nil {
		for _, ref := range b.nodeList(attr) {
			if kind := ref.entity.kind; kind != KindStep && kind != KindSweep || ref.part != "" {
				b.report(problem(ref.at, "No metrics", "metrics lists steps and sweeps whose metrics are recorded with the model."))
				continue
			}
			b.dependOn(ref)
			m.Metrics = append(m.Metrics, ref.nodes()...)
		}
	}
	b.dependsOn()
}

var endpointFields = taskFields.with(fields{
	attrs: []string{"model", "count", "port", "ready_path", "ready_timeout"},
})

const maxCount = 1000 // instances of an endpoint

func (b *nodeBuilder) endpoint() {
	b.checkFields(b.body, "endpoint", endpointFields)
	b.required("model")
	e := &Endpoint{Port: "http", ReadyPath: "/v2/health/ready"}
	b.node.Endpoint = e
	if at := b.entity.block.LabelRanges[0]; !ValidEndpointName(b.entity.name) {
		b.report(problem(at, "Invalid name",
			"The name of an endpoint becomes part of a DNS name: lower-case letters, digits and -, beginning with a letter, 40 at most."))
	}
	if attr := b.body.Attributes["model"]; attr != nil {
		if ref, ok := b.oneNode(attr.Expr, "model"); ok {
			if ref.entity.kind != KindModel || ref.part != "" {
				b.report(problem(attr.Expr.Range(), "Not a model", "An endpoint serves a model of this file, as in model.digits."))
			} else {
				e.Model = ref.nodes()[0]
			}
		}
	}
	e.Count = int(b.integer("count", 1, 1, maxCount))
	if port, at, ok := b.str("port"); ok {
		if ValidEndpointName(port) {
			e.Port = port
		} else {
			b.report(problem(at, "Invalid port", "port is a label, such as \"http\"; Nomad chooses the number and gives it as NOMAD_PORT_http."))
		}
	}
	if path, at, ok := b.str("ready_path"); ok {
		if validURLPath(path) {
			e.ReadyPath = path
		} else {
			b.report(problem(at, "Invalid path", "ready_path is the path of a URL, beginning with /, without query, spaces or dot segments."))
		}
	}
	e.ReadyTimeout = b.duration("ready_timeout", 2*time.Minute, 2*time.Second)
	b.task(&e.Step)
}

// validURLPath reports whether path is an absolute URL path that means the
// same before and after cleaning.
func validURLPath(path string) bool {
	if !strings.HasPrefix(path, "/") || len(path) > 1024 || strings.ContainsAny(path, " ?#%\\") || !printable(path) {
		return false
	}
	for _, segment := range strings.Split(path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

func keysOf[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}
