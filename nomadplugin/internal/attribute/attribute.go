// Package attribute carries attributes over the wire, both ways.
package attribute

import (
	"fmt"
	"maps"
	"slices"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
)

// Messages encodes attributes and refuses invalid ones.
func Messages(attrs map[string]base.Attribute) (map[string]*structspb.Attribute, error) {
	out := make(map[string]*structspb.Attribute, len(attrs))
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		a := attrs[name]
		if err := a.Validate(); err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		m := &structspb.Attribute{Unit: a.Unit}
		switch v := a.Value.(type) {
		case int64:
			m.Value = &structspb.Attribute_IntVal{IntVal: v}
		case float64:
			m.Value = &structspb.Attribute_FloatVal{FloatVal: v}
		case string:
			m.Value = &structspb.Attribute_StringVal{StringVal: v}
		case bool:
			m.Value = &structspb.Attribute_BoolVal{BoolVal: v}
		}
		out[name] = m
	}
	return out, nil
}

// Attributes decodes attributes and refuses invalid ones.
func Attributes(ms map[string]*structspb.Attribute) (map[string]base.Attribute, error) {
	out := make(map[string]base.Attribute, len(ms))
	for name, m := range ms {
		a := base.Attribute{Unit: m.GetUnit()}
		switch v := m.GetValue().(type) {
		case *structspb.Attribute_IntVal:
			a.Value = v.IntVal
		case *structspb.Attribute_FloatVal:
			a.Value = v.FloatVal
		case *structspb.Attribute_StringVal:
			a.Value = v.StringVal
		case *structspb.Attribute_BoolVal:
			a.Value = v.BoolVal
		}
		if err := a.Validate(); err != nil {
			return nil, fmt.Errorf("attribute %q: %w", name, err)
		}
		out[name] = a
	}
	return out, nil
}
