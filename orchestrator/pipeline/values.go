package pipeline

import (
	"fmt"
	"math"
	"math/big"

	"github.com/zclconf/go-cty/cty"
)

// toGo gives a known value as JSON values: nil, bool, string, int64, float64,
// []any and map[string]any.
func toGo(v cty.Value) (any, error) {
	switch ty := v.Type(); {
	case !v.IsKnown():
		return nil, fmt.Errorf("the value is not known")
	case v.IsNull():
		return nil, nil
	case ty == cty.Bool:
		return v.True(), nil
	case ty == cty.String:
		return v.AsString(), nil
	case ty == cty.Number:
		return toGoNumber(v.AsBigFloat())
	case ty.IsListType() || ty.IsTupleType() || ty.IsSetType():
		list := make([]any, 0, v.LengthInt())
		for _, element := range v.Elements() {
			one, err := toGo(element)
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, nil
	case ty.IsMapType() || ty.IsObjectType():
		m := make(map[string]any, v.LengthInt())
		for key, element := range v.Elements() {
			one, err := toGo(element)
			if err != nil {
				return nil, err
			}
			m[key.AsString()] = one
		}
		return m, nil
	default:
		return nil, fmt.Errorf("a %s cannot be written as JSON", ty.FriendlyName())
	}
}

func toGoNumber(n *big.Float) (any, error) {
	if i, accuracy := n.Int64(); accuracy == big.Exact {
		return i, nil
	}
	f, _ := n.Float64()
	if math.IsInf(f, 0) {
		return nil, fmt.Errorf("the number is too large")
	}
	return f, nil
}

// toValue is the inverse of toGo. It takes what encoding/json gives as well.
func toValue(v any) cty.Value {
	switch v := v.(type) {
	case bool:
		return cty.BoolVal(v)
	case string:
		return cty.StringVal(v)
	case int:
		return cty.NumberIntVal(int64(v))
	case int64:
		return cty.NumberIntVal(v)
	case float64:
		if number, ok := numberValue(v); ok {
			return number
		}
	case []any:
		list := make([]cty.Value, len(v))
		for i := range v {
			list[i] = toValue(v[i])
		}
		return cty.TupleVal(list)
	case map[string]any:
		m := make(map[string]cty.Value, len(v))
		for key := range v {
			m[key] = toValue(v[key])
		}
		return cty.ObjectVal(m)
	}
	return cty.NullVal(cty.DynamicPseudoType)
}

// numberValue is f, and false for NaN, which cty has no value for, and for the
// infinities, which JSON has none for.
func numberValue(f float64) (cty.Value, bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return cty.NilVal, false
	}
	return cty.NumberFloatVal(f), true
}

// sizeOf is about how many bytes v takes; counting stops beyond limit.
func sizeOf(v cty.Value, limit int) int {
	const overhead = 16 // of any value
	if !v.IsKnown() || v.IsNull() {
		return overhead
	}
	if v.Type() == cty.String {
		return overhead + len(v.AsString())
	}
	size := overhead
	if v.CanIterateElements() {
		for key, element := range v.Elements() {
			size += sizeOf(key, limit) + sizeOf(element, limit-size)
			if size > limit {
				break
			}
		}
	}
	return size
}
