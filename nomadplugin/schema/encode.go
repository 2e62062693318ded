package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// Encode checks a configuration against the schema and encodes it as a Nomad
// agent does. Config holds what JSON can: the `config` of an api.Task, or a
// decoded JSON object. Strings are taken as they are: `${...}` must be
// interpolated before.
//
//   - Every attribute of the schema is in the result; unset ones are nil.
//   - A map given for a list of maps counts as a list of one, since HCL writes
//     both as a block.
//   - Unknown keys, wrong types and missing attributes are errors, all of them
//     at once, by name.
//
// A nil schema takes no configuration; the result is then nil.
func Encode(s *Spec, config map[string]any) ([]byte, error) {
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
	src, err := toJSON(s, config)
	if err != nil {
		return nil, err
	}
	file, diags := hcljson.Parse(src, "config")
	if diags.HasErrors() {
		return nil, diagError(diags)
	}
	// Without an evaluation context strings are not templates.
	v, diags := hcldec.Decode(file.Body, spec, nil)
	if diags.HasErrors() {
		return nil, diagError(diags)
	}
	out, err := msgpack.Marshal(v, v.Type())
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	return out, nil
}

func diagError(diags hcl.Diagnostics) error {
	var errs []error
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			errs = append(errs, fmt.Errorf("%s: %s", lowerFirst(d.Summary), d.Detail))
		}
	}
	return errors.Join(errs...)
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

func toJSON(s *Spec, config map[string]any) ([]byte, error) {
	if config == nil {
		config = map[string]any{}
	}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	if b, err = json.Marshal(listMaps(s, "", v)); err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	return b, nil
}

// listMaps makes a list of one of every map that the schema wants a list of
// maps for. Name is the implied name of an attribute.
func listMaps(s *Spec, name string, v any) any {
	switch s.kind {
	case kindObject:
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		out := maps.Clone(m)
		for key, a := range s.attrs {
			key = a.key(key)
			if got, ok := m[key]; ok {
				out[key] = listMaps(a, key, got)
			}
		}
		return out
	case kindDefault:
		return listMaps(s.elems[0], name, v)
	case kindAttr:
		if m, ok := v.(map[string]any); ok && isListOfMaps(s.typ) {
			return []any{m}
		}
		return v
	case kindBlock, kindBlockList, kindBlockSet:
		if l, ok := v.([]any); ok {
			out := slices.Clone(l)
			for i := range out {
				out[i] = listMaps(s.nested, "", out[i])
			}
			return out
		}
		return listMaps(s.nested, "", v)
	default:
		return v
	}
}

// key is the name under which a node of an object is configured.
func (s *Spec) key(implied string) string {
	if s.kind == kindDefault {
		return s.elems[0].key(implied)
	}
	if s.name != "" {
		return s.name
	}
	return implied
}
