package pipeline

import "testing"

// Where the fast scan is sure, it must be as strict as the tokens are.
func FuzzDepth(f *testing.F) {
	f.Add([]byte("a { b = \"x${y[0]}\" # c\n}\n"), 3)
	f.Add([]byte("a = \"%{ if x }y%{ endif }\" /* ( */ + (1 - 2) // [\n"), 5)
	f.Add([]byte("a = <<E\n${x}\nE\n"), 2)
	f.Fuzz(func(t *testing.T, unit []byte, times int) {
		if len(unit) == 0 || len(unit)*times > 1<<16 || times < 0 {
			return
		}
		src := make([]byte, 0, len(unit)*times)
		for range times {
			src = append(src, unit...)
		}
		if diags := checkBytes("f", src); diags.HasErrors() {
			return
		}
		offset, _, sure := depthOfBytes(src)
		if sure && offset < 0 && depthOfTokens("f", src) >= 0 {
			t.Fatalf("the fast scan misses how deep %d × %q is", times, unit)
		}
	})
}
