package pipeline

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// What a task may ask for at most; no machine has more.
const (
	maxCPUMHz    = 4_000_000
	maxCores     = 4096
	minMemoryMiB = 10 // Nomad's minimum
	maxMemoryMiB = 64 << 20
	maxGPUs      = 1024

	maxAlternatives = 16 // of one ask
)

const defaultDevice = "nvidia/gpu"

// deviceName is Nomad's: a type, vendor/type or vendor/type/model.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*(/[^/\x00-\x1f]+)?)?$`)

// operators are those of Nomad's constraints.
var operators = []string{
	"=", "!=", ">", ">=", "<", "<=", "regexp", "version", "semver",
	"set_contains", "set_contains_any", "is_set", "is_not_set",
}

// resources reads the resources block, or gives the defaults.
func (b *nodeBuilder) resources() Resources {
	res := Resources{CPUMHz: 500, MemoryMiB: 256}
	block := only(b.body, "resources")
	if block == nil {
		return res
	}
	r := b.inner(block, "resources block", fields{attrs: []string{"cpu", "cores", "memory"}, blocks: []string{"gpu"}, repeated: []string{"gpu"}})
	res.CPUMHz = int(r.integer("cpu", 500, 1, maxCPUMHz))
	res.Cores = int(r.integer("cores", 0, 1, maxCores))
	if cores := block.Body.Attributes["cores"]; cores != nil && res.Cores > 0 {
		res.CPUMHz = 0
		if cpu := block.Body.Attributes["cpu"]; cpu != nil {
			b.report(problem(cpu.NameRange, "Conflicting attributes",
				"cores reserves whole cores, cpu a share of them in MHz: take one of the two."))
		}
	}
	if v, at, ok := r.static("memory", cty.DynamicPseudoType); ok {
		mib, err := parseMiB(v)
		switch {
		case err != nil:
			b.report(problem(at, "Invalid memory", sentence(err)))
		case mib < minMemoryMiB || mib > maxMemoryMiB:
			b.report(problem(at, "Out of range",
				fmt.Sprintf("memory must be from %d MiB to 64 TiB, not %d MiB. A number without unit is MiB.", minMemoryMiB, mib)))
		default:
			res.MemoryMiB = mib
		}
	}
	b.gpus(&res, block.Body)
	return res
}

var gpuFields = fields{
	attrs: []string{"count", "device", "memory"}, blocks: []string{"constraint", "topology"}, repeated: []string{"constraint"},
}

// gpus reads the gpu blocks, each an alternative to those before it.
func (b *nodeBuilder) gpus(res *Resources, body *hclsyntax.Body) {
	for _, block := range body.Blocks {
		if block.Type != "gpu" {
			continue
		}
		if res.GPU != nil && res.Alternatives() == maxAlternatives {
			b.report(problem(block.DefRange(), "Too many alternatives",
				fmt.Sprintf("There are at most %d gpu blocks, each an alternative to those before it.", maxAlternatives)))
			return
		}
		b.noLabels(block)
		gpu := b.gpu(b.inner(block, "gpu block", gpuFields))
		if res.GPU == nil {
			res.GPU = gpu
			continue
		}
		for i := range res.Alternatives() {
			if reflect.DeepEqual(res.Alternative(i).GPU, gpu) {
				b.report(problem(block.DefRange(), "Duplicate alternative",
					"Several gpu blocks are alternatives, the preferred one first, and this one is there already. For more GPUs, raise count."))
				break
			}
		}
		res.Or = append(res.Or, *gpu)
	}
}

func (b *nodeBuilder) gpu(r reader) *GPU {
	g := &GPU{Count: int(r.integer("count", 1, 1, maxGPUs)), Device: defaultDevice}
	if name, at, ok := r.str("device"); ok {
		if deviceName.MatchString(name) {
			g.Device = name
		} else {
			b.report(problem(at, "Invalid device",
				fmt.Sprintf("%q is no device: write vendor/type, such as %q, or vendor/type/model.", name, defaultDevice)))
		}
	}
	if text, at, ok := r.str("memory"); ok {
		number, unit, bytes, err := parseBytes(text)
		switch {
		case err != nil:
			b.report(problem(at, "Invalid memory", sentence(err)))
		case bytes <= 0 || bytes > maxMemoryMiB<<20:
			b.report(problem(at, "Out of range", fmt.Sprintf("memory of a GPU must be more than 0 and at most 64 TiB, not %s.", text)))
		default:
			g.MemoryMin = number + " " + unit
		}
	}
	for _, block := range r.body.Blocks {
		if block.Type == "constraint" {
			if c, ok := b.constraint(b.inner(block, "constraint", fields{attrs: []string{"attribute", "operator", "value"}})); ok {
				g.Constraints = append(g.Constraints, c)
			}
		}
	}
	if block := only(r.body, "topology"); block != nil {
		g.Topology = b.topology(block)
	}
	return g
}

// constraint reads a constraint on a device. An attribute without ${ is one of
// the device's.
func (b *nodeBuilder) constraint(r reader) (Constraint, bool) {
	r.required("attribute")
	attribute, at, ok := r.str("attribute")
	operator := r.choice("operator", "=", operators...)
	value, _, hasValue := r.str("value")
	if !ok {
		return Constraint{}, false
	}
	if attribute == "" || !printable(attribute) {
		b.report(problem(at, "Invalid attribute", "Name an attribute of the device, such as \"memory\" or \"cuda_cores\"."))
		return Constraint{}, false
	}
	if !strings.HasPrefix(attribute, "${") {
		attribute = "${device.attr." + attribute + "}"
	}
	if !hasValue && r.body.Attributes["value"] == nil && !slices.Contains([]string{"is_set", "is_not_set"}, operator) {
		r.required("value")
		return Constraint{}, false
	}
	return Constraint{Attribute: attribute, Operator: operator, Value: value}, true
}
