package layout

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// MaxBytes is the size of the largest file that Parse reads.
const MaxBytes = 1 << 20

// Limits on what is in a file, far above any real one.
const (
	maxEntries = 4096
	// maxCount is above the slices of any board, compute instances included.
	maxCount = 64
)

// Parse reads a file. Its name appears in errors only.
func Parse(name string, src []byte) (File, error) {
	p := parser{file: name}
	f := File{name: name, layouts: make(map[string][]entry)}
	if len(src) > MaxBytes {
		return f, fmt.Errorf("%s: a layout file has at most %d bytes, not %d", name, MaxBytes, len(src))
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return f, fmt.Errorf("%s:1: the file is empty; it needs version and mig-configs", name)
	} else if err != nil {
		return f, syntaxError(name, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		if err != nil {
			return f, syntaxError(name, err)
		}
		return f, fmt.Errorf("%s: a layout file is one document, not several", name)
	}
	p.document(doc.Content[0], &f)
	slices.SortStableFunc(p.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	problems := make([]error, len(p.problems))
	for i, problem := range p.problems {
		problems[i] = problem
	}
	return f, errors.Join(problems...)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxError moves the line to where other messages have it.
func syntaxError(name string, err error) error {
	m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
	switch {
	case m == nil:
		return fmt.Errorf("%s: %w", name, err)
	case m[1] == "":
		return fmt.Errorf("%s: %s", name, m[2])
	}
	return fmt.Errorf("%s:%s: %s", name, m[1], m[2])
}

type parser struct {
	file     string
	problems []problem
	entries  int
}

// problem is something that is wrong with a file.
type problem struct {
	file string
	line int
	text string
}

func (p problem) Error() string { return fmt.Sprintf("%s:%d: %s", p.file, p.line, p.text) }

func (p *parser) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", p.file, n.Line) }

func (p *parser) complain(n *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, problem{p.file, n.Line, fmt.Sprintf(format, args...)})
}

// field is a key of a mapping and its value.
type field struct{ key, value *yaml.Node }

// fields takes a mapping apart. Keys are those allowed, each once; allowed is
// nil where any text will do.
func (p *parser) fields(n *yaml.Node, what string, allowed []string) map[string]field {
	if n.Kind != yaml.MappingNode {
		p.complain(n, "%s is a mapping, not %s", what, kindOf(n))
		return nil
	}
	fields := make(map[string]field)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		_, twice := fields[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || key.Value == "":
			p.complain(key, "a key of %s is a text, not %s", what, kindOf(key))
		case allowed != nil && !slices.Contains(allowed, key.Value):
			p.complain(key, "%s has no %q; it has %s", what, key.Value, strings.Join(allowed, ", "))
		case twice:
			p.complain(key, "%q is there twice", key.Value)
		default:
			fields[key.Value] = field{key, value}
		}
	}
	return fields
}

// resolve follows an alias (*name) to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	}
	return "an alias"
}

func (p *parser) document(n *yaml.Node, f *File) {
	top := p.fields(n, "a layout file", []string{"version", "mig-configs"})
	if top == nil {
		return
	}
	switch version, ok := top["version"]; {
	case !ok:
		p.complain(n, "version is missing; it is v1")
	case version.value.Value != "v1":
		p.complain(version.value, "version is v1, not %s", kindOf(version.value))
	}
	configs, ok := top["mig-configs"]
	if !ok {
		p.complain(n, "mig-configs is missing: the layouts by name")
		return
	}
	for name, c := range p.fields(configs.value, "mig-configs", nil) {
		if c.value.Kind != yaml.SequenceNode || len(c.value.Content) == 0 {
			p.complain(c.key, "layout %q is a list of at least one entry, not %s", name, kindOf(c.value))
			continue
		}
		for _, e := range c.value.Content {
			if p.entries++; p.entries == maxEntries {
				p.complain(e, "a layout file has at most %d entries", maxEntries)
			}
			if p.entries < maxEntries {
				f.layouts[name] = append(f.layouts[name], p.entry(resolve(e)))
			}
		}
	}
}

var entryKeys = []string{"devices", "device-filter", "models", "nodes", "mig-enabled", "mig-devices"}

func (p *parser) entry(n *yaml.Node) entry {
	e := entry{at: p.at(n)}
	fields := p.fields(n, "an entry", entryKeys)
	if fields == nil {
		return e
	}
	if f, ok := fields["devices"]; ok {
		p.devices(f.value, &e.choice)
	} else {
		p.complain(n, "devices is missing; it is all, or a list of indexes or UUIDs")
	}
	if f, ok := fields["device-filter"]; ok {
		e.choice.Models = append(e.choice.Models, p.texts(f.value, "device-filter", pciDeviceID, "PCI device IDs, as 0x20B010DE")...)
	}
	if f, ok := fields["models"]; ok {
		names := p.texts(f.value, "models", regexp.MustCompile(`.`), "product names, as NVIDIA A100-SXM4-40GB")
		for _, name := range names {
			if _, ok := mig.ModelOf(name); !ok {
				p.complain(f.value, "%q is no model with known MIG profiles; those are %s", name, strings.Join(mig.ModelNames(), ", "))
			}
		}
		e.choice.Models = append(e.choice.Models, names...)
	}
	if f, ok := fields["nodes"]; ok {
		e.choice.Nodes = p.texts(f.value, "nodes", regexp.MustCompile(`^\S+$`), "names of nodes")
	}
	if f, ok := fields["mig-enabled"]; !ok {
		p.complain(n, "mig-enabled is missing; it is true or false")
	} else if err := f.value.Decode(&e.enabled); err != nil || f.value.Tag != "!!bool" {
		p.complain(f.value, "mig-enabled is true or false, not %s", kindOf(f.value))
	}
	if f, ok := fields["mig-devices"]; ok {
		e.profiles = p.profiles(f.value)
		switch {
		case len(e.profiles) > 0 && !e.enabled:
			p.complain(f.value, "there are no slices without MIG mode: leave mig-devices out, or set mig-enabled to true")
		case len(e.profiles) > 0:
			p.possible(f.value, e)
		}
	}
	return e
}

var pciDeviceID = regexp.MustCompile(`^0[xX][0-9A-Fa-f]{8}$`)

func (p *parser) devices(n *yaml.Node, c *Choice) {
	if n.Kind == yaml.ScalarNode && n.Value == "all" {
		return
	}
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	if len(items) == 0 {
		p.complain(n, "devices is empty; it is all, or a list of indexes or UUIDs")
	}
	for _, item := range items {
		item = resolve(item)
		index, err := strconv.Atoi(item.Value)
		switch {
		case item.Kind == yaml.ScalarNode && err == nil && index >= 0:
			c.Indexes = append(c.Indexes, index)
		case item.Kind == yaml.ScalarNode && strings.HasPrefix(item.Value, "GPU-"):
			c.IDs = append(c.IDs, item.Value)
		default:
			p.complain(item, "a device is an index (0, 1, …) or a UUID (GPU-…), not %s; for every board use devices: all", kindOf(item))
		}
	}
}

// texts reads a text or a list of them.
func (p *parser) texts(n *yaml.Node, key string, form *regexp.Regexp, what string) []string {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	if len(items) == 0 {
		p.complain(n, "%s is empty; it has %s", key, what)
	}
	var values []string
	for _, item := range items {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || !form.MatchString(item.Value) {
			p.complain(item, "%s has %s, not %s", key, what, kindOf(item))
			continue
		}
		values = append(values, item.Value)
	}
	return values
}

// profiles reads a mapping of profiles to counts, or a list of profiles.
func (p *parser) profiles(n *yaml.Node) []string {
	var all []string
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			if item = resolve(item); item.Kind != yaml.ScalarNode {
				p.complain(item, "a profile is a text, as 1g.5gb, not %s", kindOf(item))
			} else if p.known(item) {
				all = append(all, item.Value)
			}
		}
		return all
	}
	if n.Kind != yaml.MappingNode {
		p.complain(n, "mig-devices is a mapping of profiles to counts, or a list of profiles, not %s", kindOf(n))
		return nil
	}
	p.fields(n, "mig-devices", nil)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		count, err := strconv.Atoi(value.Value)
		if err != nil || value.Kind != yaml.ScalarNode || count < 1 || count > maxCount {
			p.complain(value, "the number of %s is 1 to %d, not %s", key.Value, maxCount, kindOf(value))
			continue
		}
		if p.known(key) {
			all = append(all, slices.Repeat([]string{key.Value}, count)...)
		}
	}
	return all
}

// known complains about a profile that no model has.
func (p *parser) known(n *yaml.Node) bool {
	for _, m := range mig.Models() {
		if _, err := mig.NewLayout(m, []string{n.Value}); err == nil {
			return true
		}
	}
	p.complain(n, "no model has a MIG profile %q; profiles are as 1g.5gb, 3g.20gb, 1g.10gb+me or 1c.3g.20gb, and `mig plan -model` lists those of a model", n.Value)
	return false
}

// possible complains about slices that none of the models can have which the
// entry may be for.
func (p *parser) possible(n *yaml.Node, e entry) {
	var why error
	for _, m := range mig.Models() {
		if len(e.choice.Models) > 0 && !slices.ContainsFunc(e.choice.Models, func(want string) bool {
			// "GB200" is also for a "GB200 189GB".
			wanted, ok := mig.Board{Product: want, PCIDeviceID: want}.Model()
			return ok && (wanted.Name == m.Name || strings.HasPrefix(m.Name, wanted.Name+" "))
		}) {
			continue
		}
		_, err := mig.NewLayout(m, e.profiles)
		if err == nil {
			return
		}
		// Of several models, one that has the profiles says the most.
		if _, unknown := mig.NewLayout(m, e.profiles[:1]); why == nil || unknown == nil {
			why = fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	if why != nil {
		p.complain(n, "no model that this is for can have these slices together: %v", why)
	}
}
