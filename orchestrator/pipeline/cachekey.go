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
//	 "params": {…}, "seed": 0, "gpu": {…}}
//
// GPUs count because results differ between models of them. How much CPU and
// memory there is, timeouts, retries, priority and how checkpoints are kept do
// not. Values of env are hashed, never kept in clear.
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
		"gpu":     t.Resources.GPU,
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("pipeline: parameters are not JSON values: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
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
