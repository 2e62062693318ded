package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// cacheKeyVersion changes whenever a key of the same task would mean
// something else, so that no old result is taken for a new one.
const cacheKeyVersion = "drover-task-v1"

// CacheKey names the work that t does: two tasks with one key have the same
// outputs, so that the result of one may stand for the other. It is the hex
// SHA-256 of a JSON document with sorted keys:
//
//	{"version": "drover-task-v1", "kind": "step", "command": […], "env": {…},
//	 "code": "sha256:…", "inputs": {name: digest}, "outputs": {name: optional},
//	 "params": {…}, "seed": 0, "gpu": {…}, "gpu_or": […], "gang": [min, max]}
//
// GPUs count because results differ between models of them, and the size of a
// gang because they differ with the number of processes; without alternatives
// or a gang the document has none. How much CPU and memory there is, where GPUs
// and members are, timeouts, retries, priority, what else the queue goes by and
// how checkpoints are kept do not. Values of env are hashed, never kept in clear.
//
// It panics if a value of t.Params is not a JSON value; Resolve and Trials
// give no such task.
func (t Task) CacheKey(kind Kind) string {
	outputs := make(map[string]bool, len(t.Outputs))
	for _, o := range t.Outputs {
		outputs[o.Name] = o.Optional
	}
	doc := map[string]any{
		"version": cacheKeyVersion,
		"kind":    kind,
		"command": notNil(t.Command),
		"env":     notNilMap(t.Env),
		"code":    t.Code,
		"inputs":  notNilMap(t.Inputs),
		"outputs": outputs,
		"params":  notNilMap(t.Params),
		"seed":    t.Seed,
		"gpu":     placeless(t.Resources.GPU),
	}
	if t.Resources.Or != nil {
		alternatives := make([]*GPU, len(t.Resources.Or))
		for i := range t.Resources.Or {
			alternatives[i] = placeless(&t.Resources.Or[i])
		}
		doc["gpu_or"] = alternatives
	}
	if t.Gang != nil {
		doc["gang"] = [2]int{t.Gang.Min, t.Gang.Max}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("pipeline: parameters are not JSON values: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// placeless is g wherever its GPUs are.
func placeless(g *GPU) *GPU {
	if g == nil || g.Topology == nil {
		return g
	}
	copied := *g
	copied.Topology = nil
	return &copied
}

// notNil makes nil and empty the same in JSON.
func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func notNilMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}
