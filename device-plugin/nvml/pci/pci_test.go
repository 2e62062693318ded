package pci

import "testing"

// TestParse is that bus IDs from all places are the same slot: NVML's, the
// kernel's, and that of the driver's messages.
func TestParse(t *testing.T) {
	want := Slot{domain: 0, bus: 7, device: 0}
	for _, text := range []string{"00000000:07:00.0", "0000:07:00.0", "0000:07:00", "00000000:07:00", " 0000:07:00.1\n"} {
		if got, ok := Parse(text); !ok || got != want {
			t.Errorf("%q is %v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "07:00.0", "0000:07:00.", "0000:07:00.x", "0000:107:00.0", "100000000:07:00.0", "00000000:07:00.0\x00\x00", "a:b:c:d"} {
		if got, ok := Parse(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("00000000:07:00.0")
	f.Add("9:c1:1f")
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := Parse(text); ok {
			if again, ok := Parse(s.String()); !ok || again != s {
				t.Errorf("%q is %v, and that is %v", text, s, again)
			}
		}
	})
}
