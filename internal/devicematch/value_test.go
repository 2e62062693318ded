package devicematch_test

import (
	"testing"

	"github.com/drover-ml/drover/internal/devicematch"
)

func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"10 GiB", "3.5", "-1", "true", "1e9", "", ".", "9999999999999999999999 MHz", "NVIDIA H100"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := devicematch.ParseValue(s)
		if order, ok := v.Compare(v); !ok || order != 0 {
			t.Errorf("%q does not equal itself", s)
		}
	})
}

func TestCompareValues(t *testing.T) {
	tests := []struct {
		a, b  string
		order int
		ok    bool
	}{
		{"10 GiB", "10240 MiB", 0, true},
		{"1 GB", "1 GiB", -1, true},
		{"1 GHz", "999 MHz", 1, true},
		{"1 kW", "1000 W", 0, true},
		{"1", "1 GiB", 0, false},
		{"1 GiB", "1 GiB/s", 0, false},
		{"0.1", "0.10", 0, true},
		{"abc", "abd", -1, true},
		{"true", "true", 0, true},
		{"abc", "1", 0, false},
	}
	for _, tt := range tests {
		order, ok := devicematch.ParseValue(tt.a).Compare(devicematch.ParseValue(tt.b))
		if ok != tt.ok || ok && order != tt.order {
			t.Errorf("%q with %q: %d, %v; want %d, %v", tt.a, tt.b, order, ok, tt.order, tt.ok)
		}
	}
}
