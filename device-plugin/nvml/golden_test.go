package nvml

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestReadings reads go-nvml's servers in full, with MIG off, on without any
// slices, and on with slices on some boards.
func TestReadings(t *testing.T) {
	machines := []struct {
		name     string
		make     func() *nvmltest.Machine
		profiles []string // of three and four compute slices
	}{
		{"a100", a100, []string{"3g.20gb", "4g.20gb", "1g.5gb"}},
		{"h100", h100, []string{"3g.40gb", "4g.40gb", "1g.10gb"}},
		{"h200", h200, []string{"3g.71gb", "4g.71gb", "1g.18gb"}},
		{"b200", b200, []string{"3g.90gb", "4g.90gb", "1g.23gb"}},
	}
	for _, tt := range machines {
		modes := []struct {
			name string
			set  func(*testing.T, *Source, []*nvmltest.Board)
		}{
			{"off", func(*testing.T, *Source, []*nvmltest.Board) {}},
			{"on", func(t *testing.T, s *Source, boards []*nvmltest.Board) {
				for _, b := range boards {
					cut(t, s, b)
				}
			}},
			{"mixed", func(t *testing.T, s *Source, boards []*nvmltest.Board) {
				cut(t, s, boards[0], instanceAt(tt.profiles[1], 0, 4, 4), instanceAt(tt.profiles[0], 4, 4, 1, 2))
				cut(t, s, boards[3], instanceAt(tt.profiles[2], 0, 1, 1), instanceAt(tt.profiles[2], 6, 1, 1))
			}},
		}
		for _, mode := range modes {
			t.Run(tt.name+"/"+mode.name, func(t *testing.T) {
				m := tt.make()
				s := sourceOf(t, m)
				mode.set(t, s, m.Boards)
				goldenJSON(t, filepath.Join("testdata", tt.name+"-"+mode.name+".json"), readAll(t, s))
			})
		}
	}
}

// readAll is everything that a source reads of the first and the fourth board,
// without times.
func readAll(t *testing.T, s *Source) map[string]any {
	t.Helper()
	inv := inventory(t, s)
	if len(inv.Boards) != 8 || len(inv.Lost) != 0 {
		t.Fatalf("%d boards, lost %v", len(inv.Boards), inv.Lost)
	}
	inv.Boards = []gpu.Board{inv.Boards[0], inv.Boards[3]}
	var ids, boards []gpu.ID
	for _, b := range inv.Boards {
		ids, boards = append(ids, b.ID), append(boards, b.ID)
		for _, slice := range b.Slices {
			ids = append(ids, slice.ID)
		}
	}
	samples, err := s.Sample(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for id, sample := range samples {
		if sample.Time.IsZero() {
			t.Errorf("the sample of %s has no time", id)
		}
	}
	vitals, err := s.Vitals(t.Context(), boards)
	if err != nil {
		t.Fatal(err)
	}
	graph, err := s.Topology(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	controlled, err := s.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph.Links = graph.Links[:1]
	return map[string]any{
		"inventory": inv, "samples": samples, "vitals": vitals, "topology": graph, "mig": controlled[:1],
	}
}

func goldenJSON(t *testing.T, path string, v any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(raw, &plain); err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(stripped(plain), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

// stripped is without times, and without what is not there.
func stripped(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value == nil || value == "" || key == "Time" {
				delete(v, key)
				continue
			}
			v[key] = stripped(value)
		}
	case []any:
		for i := range v {
			v[i] = stripped(v[i])
		}
	}
	return v
}
