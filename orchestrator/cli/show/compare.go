package show

import (
	"maps"
	"slices"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/run"
)

// Row is a row of a comparison: something that runs have, and what each of
// them has.
type Row struct {
	Kind   string `json:"kind"` // run, variable, param, metric, output, gate or model
	Step   string `json:"step,omitempty"`
	Name   string `json:"name"`
	Values []any  `json:"values"` // nil where a run does not have it
}

// Compare puts runs side by side.
func Compare(runs []run.Run, all bool) []Row {
	rows := []Row{}
	index := map[[3]string]int{}
	set := func(i int, kind, step, name string, v any) {
		key := [3]string{kind, step, name}
		at, ok := index[key]
		if !ok {
			at = len(rows)
			index[key] = at
			rows = append(rows, Row{Kind: kind, Step: step, Name: name, Values: make([]any, len(runs))})
		}
		rows[at].Values[i] = v
	}
	for i, r := range runs {
		set(i, "run", "", "phase", string(r.Phase))
		if r.Started != nil && r.Ended != nil {
			set(i, "run", "", "seconds", r.Ended.Sub(*r.Started).Seconds())
		}
		for _, k := range slices.Sorted(maps.Keys(r.Variables)) {
			set(i, "variable", "", k, r.Variables[k])
		}
		for j := range r.Nodes {
			compareNode(&r.Nodes[j], func(kind, name string, v any) { set(i, kind, string(r.Nodes[j].ID), name, v) })
		}
	}
	if all {
		return rows
	}
	return slices.DeleteFunc(rows, func(c Row) bool {
		for _, v := range c.Values[1:] {
			if Value(v) != Value(c.Values[0]) {
				return false
			}
		}
		return true
	})
}

func compareNode(n *run.Node, set func(kind, name string, v any)) {
	if n.Kind == pipeline.KindModel {
		if n.Version > 0 {
			set("model", "version", float64(n.Version))
		}
		return // its metrics and files are its steps'
	}
	for _, k := range slices.Sorted(maps.Keys(n.Params)) {
		set("param", k, n.Params[k])
	}
	for _, k := range slices.Sorted(maps.Keys(n.Metrics)) {
		set("metric", k, n.Metrics[k])
	}
	for _, k := range slices.Sorted(maps.Keys(n.Outputs)) {
		set("output", k, Digest(n.Outputs[k].Digest))
	}
	if n.Gate != nil {
		set("gate", "verdict", Verdict(n.Gate))
	}
}
