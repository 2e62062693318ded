package metrics

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"

	"github.com/drover-ml/drover/device-plugin/attribution"
	"github.com/drover-ml/drover/device-plugin/gpu"
)

// fill sets some of the fields of a struct that may be missing.
func fill(t *rapid.T, of any) {
	v := reflect.ValueOf(of).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.CanSet() || !rapid.Bool().Draw(t, v.Type().Field(i).Name) {
			continue
		}
		switch f.Kind() {
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			if e := f.Elem(); e.Kind() == reflect.Struct {
				fill(t, f.Interface())
			} else if e.CanInt() {
				e.SetInt(rapid.Int64Range(0, 1<<60).Draw(t, "n"))
			}
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), rapid.IntRange(0, 3).Draw(t, "length"), 3))
			for n := range f.Len() {
				if f.Index(n).Kind() == reflect.Struct {
					fill(t, f.Index(n).Addr().Interface())
				}
			}
		}
	}
}

// TestProperties: whatever is known of whatever machine, Prometheus can read
// the answer, no series is there twice, each is of a reading, and each reading
// is in one.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var boards []gpu.Board
		for b := range rapid.IntRange(0, 3).Draw(t, "boards") {
			boards = append(boards, board(b, "A"+rapid.String().Draw(t, "product")))
			if rapid.Bool().Draw(t, "mig") {
				boards[b] = cut(boards[b], "1g.5gb", rapid.IntRange(0, 3).Draw(t, "slices"))
			}
		}
		r := newRig(Config{Tasks: func(pids []int) map[int]attribution.Task {
			found := map[int]attribution.Task{}
			for _, pid := range pids {
				if pid%3 > 0 {
					found[pid] = attribution.Task{Alloc: fmt.Sprint(pid % 5), Job: rapid.String().Draw(t, "job")}
				}
			}
			return found
		}})
		r.show(boards...)
		samples, vitals := map[gpu.ID]gpu.Sample{}, map[gpu.ID]gpu.Vitals{}
		var processes []gpu.Process
		each := func(id gpu.ID) {
			s := gpu.Sample{Time: start}
			fill(t, &s)
			samples[id] = s
			for range rapid.IntRange(0, 4).Draw(t, "processes") {
				p := gpu.Process{PID: rapid.IntRange(1, 9).Draw(t, "pid"), Device: id}
				fill(t, &p)
				processes = append(processes, p)
			}
		}
		for _, b := range boards {
			each(b.ID)
			v := gpu.Vitals{Time: start}
			fill(t, &v)
			vitals[b.ID] = v
			for _, s := range b.Slices {
				each(s.ID)
			}
		}
		for s := range 2 {
			at := start.Add(time.Duration(s) * time.Second)
			r.Samples(at, samples, nil)
			r.Vitals(at, nil, vitals, nil)
			r.Processes(at, processes, nil)
		}
		check(t, r, boards, samples)
	})
}

func check(t *rapid.T, r *rig, boards []gpu.Board, samples map[gpu.ID]gpu.Sample) {
	text := r.scrape()
	families, err := ptr(expfmt.NewTextParser(model.UTF8Validation)).TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		series := line[:strings.LastIndexByte(line, ' ')]
		if !strings.HasPrefix(line, "#") && seen[series] {
			t.Fatalf("twice: %s", series)
		}
		seen[series] = true
	}
	for _, f := range ofSamples {
		want := 0
		for _, b := range boards {
			ofSlices := 0
			for _, s := range b.Slices {
				if _, ok := f.read(ptr(samples[s.ID])); ok {
					ofSlices++
				}
			}
			if _, ok := f.read(ptr(samples[b.ID])); ok && ofSlices == 0 {
				want++
			}
			want += ofSlices
		}
		if got := len(families[f.name].GetMetric()); got != want {
			t.Fatalf("%d series of %s, want %d\n%s", got, f.name, want, text)
		}
	}
}
