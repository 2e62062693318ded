// Package nvmltest is NVML without a GPU: go-nvml's mocks, made to answer
// everything and to keep state as hardware does. Its boards have NVLink behind
// switches, processes, counters and events; MIG instances are created and
// destroyed by the rules of a real board. It is for tests.
package nvmltest

import (
	"reflect"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Unsupported makes every function of a mock that is not set answer, as a
// driver does, that it is not supported. Without that the mock panics. Pass a
// pointer to a struct of go-nvml's package mock.
func Unsupported(mock any) {
	v := reflect.ValueOf(mock).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Func || !f.CanSet() || !f.IsNil() {
			continue
		}
		kind := f.Type()
		f.Set(reflect.MakeFunc(kind, func([]reflect.Value) []reflect.Value {
			results := make([]reflect.Value, kind.NumOut())
			for n := range results {
				results[n] = reflect.New(kind.Out(n)).Elem()
				if kind.Out(n) == reflect.TypeFor[lib.Return]() {
					results[n].SetInt(int64(lib.ERROR_NOT_SUPPORTED))
				}
			}
			return results
		}))
	}
}
