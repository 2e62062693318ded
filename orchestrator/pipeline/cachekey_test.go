package pipeline_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func keyedTask() pipeline.Task {
	return pipeline.Task{
		Command:    []string{"python3", "train.py"},
		Env:        map[string]string{"A": "1", "B": "2"},
		Code:       digestOf("code"),
		Inputs:     map[string]string{"x": digestOf("x"), "y": digestOf("y")},
		Outputs:    []pipeline.Output{{Name: "model"}, {Name: "log", Optional: true}},
		Params:     map[string]any{"lr": 0.1, "layers": []any{int64(1), int64(2)}, "nested": map[string]any{"a": true}},
		Resources:  pipeline.Resources{CPUMHz: 500, MemoryMiB: 256, GPU: &pipeline.GPU{Count: 1, Device: "nvidia/gpu"}},
		Checkpoint: &pipeline.Checkpoint{Keep: 3},
		Cache:      true,
		Priority:   50,
		Seed:       1,
	}
}

func TestCacheKeyOfWhatMakesResults(t *testing.T) {
	base := keyedTask().CacheKey(pipeline.KindStep)
	changes := map[string]func(*pipeline.Task){
		"command":          func(t *pipeline.Task) { t.Command = []string{"python3 train.py"} },
		"argument":         func(t *pipeline.Task) { t.Command = append(t.Command, "") },
		"environment":      func(t *pipeline.Task) { t.Env["A"] = "3" },
		"code":             func(t *pipeline.Task) { t.Code = digestOf("other") },
		"input":            func(t *pipeline.Task) { t.Inputs["x"] = digestOf("other") },
		"inputs swapped":   func(t *pipeline.Task) { t.Inputs["x"], t.Inputs["y"] = t.Inputs["y"], t.Inputs["x"] },
		"input's name":     func(t *pipeline.Task) { t.Inputs["z"] = t.Inputs["x"]; delete(t.Inputs, "x") },
		"output":           func(t *pipeline.Task) { t.Outputs = t.Outputs[:1] },
		"optional":         func(t *pipeline.Task) { t.Outputs[1].Optional = false },
		"parameter":        func(t *pipeline.Task) { t.Params["lr"] = 0.2 },
		"parameter's type": func(t *pipeline.Task) { t.Params["lr"] = "0.1" },
		"nested":           func(t *pipeline.Task) { t.Params["nested"].(map[string]any)["a"] = false },
		"list's order":     func(t *pipeline.Task) { t.Params["layers"] = []any{int64(2), int64(1)} },
		"seed":             func(t *pipeline.Task) { t.Seed = 2 },
		"GPU":              func(t *pipeline.Task) { t.Resources.GPU.Device = "nvidia/gpu/H100" },
		"no GPU":           func(t *pipeline.Task) { t.Resources.GPU = nil },
		"alternative":      func(t *pipeline.Task) { t.Resources.Or = []pipeline.GPU{{Count: 2, Device: "nvidia/gpu"}} },
		"gang":             func(t *pipeline.Task) { t.Gang = &pipeline.Gang{Min: 2, Max: 4} },
		"gang's size":      func(t *pipeline.Task) { t.Gang = &pipeline.Gang{Min: 4, Max: 4} },
	}
	seen := map[string]string{base: "nothing"}
	for name, change := range changes {
		task := keyedTask()
		change(&task)
		key := task.CacheKey(pipeline.KindStep)
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s make the same key", name, other)
		}
		seen[key] = name
	}
	if keyedTask().CacheKey(pipeline.KindSweep) == base {
		t.Error("kinds share a key")
	}
}

func TestCacheKeyIgnoresWhatDoesNotMakeResults(t *testing.T) {
	base := keyedTask().CacheKey(pipeline.KindStep)
	changes := map[string]func(*pipeline.Task){
		"CPU":             func(t *pipeline.Task) { t.Resources.CPUMHz = 9000 },
		"memory":          func(t *pipeline.Task) { t.Resources.MemoryMiB = 9000 },
		"checkpoints":     func(t *pipeline.Task) { t.Checkpoint = nil },
		"retries":         func(t *pipeline.Task) { t.Retry.Attempts = 3 },
		"timeout":         func(t *pipeline.Task) { t.Timeout = time.Hour },
		"priority":        func(t *pipeline.Task) { t.Priority = 99 },
		"outputs' order":  func(t *pipeline.Task) { t.Outputs[0], t.Outputs[1] = t.Outputs[1], t.Outputs[0] },
		"whole as float":  func(t *pipeline.Task) { t.Params["layers"] = []any{1.0, 2.0} },
		"whether to look": func(t *pipeline.Task) { t.Cache = false },
		"priority class":  func(t *pipeline.Task) { t.PriorityClass = "high" },
		"preemptible":     func(t *pipeline.Task) { t.Preemptible = true },
		"run time":        func(t *pipeline.Task) { t.RunTime = time.Hour },
		"topology":        func(t *pipeline.Task) { t.Resources.GPU.Topology = &pipeline.Topology{Level: pipeline.Island} },
	}
	for name, change := range changes {
		task := keyedTask()
		change(&task)
		if task.CacheKey(pipeline.KindStep) != base {
			t.Errorf("%s changes the key", name)
		}
	}
	none := pipeline.Task{Command: []string{"x"}}
	empty := pipeline.Task{Command: []string{"x"}, Env: map[string]string{}, Inputs: map[string]string{}, Params: map[string]any{}, Outputs: []pipeline.Output{}}
	if none.CacheKey(pipeline.KindStep) != empty.CacheKey(pipeline.KindStep) {
		t.Error("nil and empty make different keys")
	}
}

// The key of one task is fixed: a change of it would run everything again.
func TestCacheKeyIsFixed(t *testing.T) {
	golden(t, "cachekey.txt", []byte(keyedTask().CacheKey(pipeline.KindStep)+"\n"))
}

// Maps in another order are the same task, and no value shows in the key.
func TestCacheKeyIsCanonical(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		pairs := rapid.MapOf(rapid.StringMatching(`[A-Z]{1,8}`), rapid.StringMatching(`[a-z]{12}`)).Draw(r, "env")
		names := make([]string, 0, len(pairs))
		for name := range pairs {
			names = append(names, name)
		}
		names = rapid.Permutation(names).Draw(r, "order")
		a, b := keyedTask(), keyedTask()
		a.Env, b.Env = pairs, map[string]string{}
		for _, name := range names {
			b.Env[name] = pairs[name]
		}
		key := a.CacheKey(pipeline.KindStep)
		if key != b.CacheKey(pipeline.KindStep) {
			r.Fatal("order changes the key")
		}
		for _, value := range pairs {
			if strings.Contains(key, value) {
				r.Fatal("a value shows in the key")
			}
		}
	})
}

// Parameters that went through a result's JSON make the same key.
func TestCacheKeyAfterJSON(t *testing.T) {
	p := parse(t, upstream+`
step "b" {
  command = ["x"]
  params  = sweep.s.best.params
}
`)
	key := func(lr any) string {
		r := upstreamResults()
		r["sweep.s"].Best.Params["lr"] = lr
		return resolve(t, p, "step.b", r).CacheKey(pipeline.KindStep)
	}
	if key(int64(1)) != key(1.0) {
		t.Error("a whole number and the same as a float make different keys")
	}
}
