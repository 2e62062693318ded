package mps

import (
	"slices"
	"testing"
)

func TestParseLimit(t *testing.T) {
	tests := []struct {
		text string
		want int64 // MiB
		ok   bool
	}{
		{"5G", 5120, true}, {"5120M", 5120, true}, {"5120MB", 5120, true}, {"5120 MiB", 5120, true}, {"5368709120", 5120, true},
		{"5242880K", 5120, true}, {"1T", 1 << 20, true}, {"5120.0M", 5120, true},
		{"", 0, false}, {"5.5G", 0, false}, {"-5G", 0, false}, {"5GG", 0, false}, {"device 0: 5G", 0, false}, {"9999999999999999G", 0, false},
	}
	for _, tt := range tests {
		if got, ok := parseLimit(tt.text); got != tt.want || ok != tt.ok {
			t.Errorf("%q is %d MiB, %v; want %d, %v", tt.text, got, ok, tt.want, tt.ok)
		}
	}
}

// FuzzAnswers checks that no answer of a daemon is taken for what it does not
// say.
func FuzzAnswers(f *testing.F) {
	for _, text := range []string{"5G", "5120 MiB", "4711\n4712", "Unknown command", "-1", "0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if mib, ok := parseLimit(text); ok && mib < 0 {
			t.Errorf("%q is %d MiB", text, mib)
		}
		pids, err := parsePIDs(text)
		if err != nil {
			return
		}
		if slices.ContainsFunc(pids, func(pid int) bool { return pid <= 0 }) {
			t.Errorf("%q is processes %v", text, pids)
		}
	})
}
