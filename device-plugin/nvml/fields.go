package nvml

import (
	"encoding/binary"
	"math"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// field is one of NVML's numbered values, of one link where it has a scope.
type field struct{ id, scope uint32 }

// mostFields is how many values are asked for in one call.
const mostFields = 96

// fields reads several values in few calls. The answer has one entry for each;
// nil is a value that cannot be had.
func (r *reader) fields(d lib.Device, asked ...field) []*int64 {
	answer := make([]*int64, len(asked))
	if !r.has("nvmlDeviceGetFieldValues") {
		return answer
	}
	for start := 0; start < len(asked); start += mostFields {
		values := make([]lib.FieldValue, min(mostFields, len(asked)-start))
		for i := range values {
			values[i] = lib.FieldValue{FieldId: asked[start+i].id, ScopeId: asked[start+i].scope}
		}
		if ret := d.GetFieldValues(values); ret != lib.SUCCESS {
			r.note(ret)
			return answer
		}
		for i, v := range values {
			if ret := lib.Return(v.NvmlReturn); ret == lib.SUCCESS {
				answer[start+i] = fieldNumber(v)
			} else {
				r.note(ret)
			}
		}
	}
	return answer
}

// fieldNumber is a value of whatever type as a number; nil if it is none.
func fieldNumber(v lib.FieldValue) *int64 {
	raw := binary.NativeEndian.Uint64(v.Value[:])
	low := binary.NativeEndian.Uint32(v.Value[:4])
	switch lib.ValueType(v.ValueType) {
	case lib.VALUE_TYPE_DOUBLE:
		f := math.Float64frombits(raw)
		if math.IsNaN(f) || math.Abs(f) > math.MaxInt64/2 {
			return nil
		}
		return integer(int64(f))
	case lib.VALUE_TYPE_UNSIGNED_INT:
		return integer(low)
	case lib.VALUE_TYPE_UNSIGNED_SHORT:
		return integer(binary.NativeEndian.Uint16(v.Value[:2]))
	case lib.VALUE_TYPE_UNSIGNED_LONG, lib.VALUE_TYPE_UNSIGNED_LONG_LONG:
		if raw > math.MaxInt64 {
			return nil
		}
		return integer(raw)
	case lib.VALUE_TYPE_SIGNED_LONG_LONG:
		return integer(int64(raw))
	case lib.VALUE_TYPE_SIGNED_INT:
		return integer(int32(low))
	}
	return nil
}
