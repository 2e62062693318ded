package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// Encode checks a configuration against the schema and encodes it as a Nomad
// agent does. Config holds what JSON can: the `config` of an api.Task, or a
// decoded JSON object. Strings are taken as they are.
//
//   - Every attribute of the schema is in the result; unset ones are nil.
//   - A block is an object or a list of objects, an attribute what its type
//     says: a list(map(string)) is [{"k":"v"}], which is what HCL makes of
//     `m { k = "v" }`. A bare object is refused there, as by Nomad.
//   - Unknown keys, wrong types and missing attributes are errors, all of them
//     at once, by name.
//
// A nil schema takes no configuration; the result is then nil.
func Encode(s *Spec, config map[string]any) ([]byte, error) {
	return encode(s, config, nil)
}

// EncodeTemplates is Encode for a task's config block, in which Nomad takes
// every string for an HCL template: `${NOMAD_TASK_NAME}`, `${attr.cpu.arch}`,
// `${upper("a")}`, and `$${x}` for a literal `${x}`. Vars holds the variables
// by name; a dot in a name is a level of nesting. A variable that is not there
// is an error.
func EncodeTemplates(s *Spec, config map[string]any, vars map[string]string) ([]byte, error) {
	return encode(s, config, &hcl.EvalContext{Functions: functions, Variables: variables(vars)})
}

// encode evaluates strings in ctx; without one they are not templates.
func encode(s *Spec, config map[string]any, ctx *hcl.EvalContext) ([]byte, error) {
	if s == nil {
		if len(config) > 0 {
			return nil, fmt.Errorf("unexpected configuration %q: the plugin takes none", slices.Sorted(maps.Keys(config)))
		}
		return nil, nil
	}
	spec, err := s.decoder()
	if err != nil {
		return nil, err
	}
	if config == nil {
		config = map[string]any{}
	}
	src, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	file, diags := hcljson.Parse(src, "config")
	if diags.HasErrors() {
		return nil, diagError(diags)
	}
	v, diags := hcldec.Decode(file.Body, spec, ctx)
	if diags.HasErrors() {
		return nil, diagError(diags)
	}
	if !v.IsWhollyKnown() {
		return nil, errors.New("encoding configuration: it has values that are not known")
	}
	out, err := msgpack.Marshal(v, v.Type())
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	return out, nil
}

// variables nests variables by the dots in their names. Where a name is both
// a value and a prefix of others ("driver.x" and "driver.x.version"), the
// others win.
func variables(vars map[string]string) map[string]cty.Value {
	root := level{}
	for _, name := range slices.Sorted(maps.Keys(vars)) { // prefixes come first
		at := root
		parts := strings.Split(name, ".")
		for _, part := range parts[:len(parts)-1] {
			next, ok := at[part].(level)
			if !ok {
				next = level{}
				at[part] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = vars[name]
	}
	return root.values()
}

// level is a variable's members by name: strings and further levels.
type level map[string]any

func (l level) values() map[string]cty.Value {
	out := make(map[string]cty.Value, len(l))
	for name, v := range l {
		switch v := v.(type) {
		case string:
			out[name] = cty.StringVal(v)
		case level:
			out[name] = cty.ObjectVal(v.values())
		}
	}
	return out
}

// diagError makes one error of all faults, in a stable order.
func diagError(diags hcl.Diagnostics) error {
	var faults []string
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		summary := lowerFirst(d.Summary)
		if summary == "extraneous JSON object property" {
			summary = "unknown key" // the configuration may never have been JSON
		}
		faults = append(faults, summary+": "+d.Detail)
	}
	slices.Sort(faults)
	return errors.New(strings.Join(faults, "\n"))
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
