package gate

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func f(v float64) *float64 { return &v }

func TestEvaluate(t *testing.T) {
	champion := func(v float64) *Champion {
		return &Champion{Version: 3, Metrics: map[string]float64{"accuracy": v}}
	}
	tests := map[string]struct {
		check    pipeline.Check
		value    *float64 // nil: missing
		champion *Champion
		passed   bool
		reason   string
	}{
		"above minimum":             {pipeline.Check{Min: f(0.9)}, f(0.95), nil, true, "accuracy is 0.95: at least 0.9"},
		"at minimum":                {pipeline.Check{Min: f(0.9)}, f(0.9), nil, true, "accuracy is 0.9: at least 0.9"},
		"below minimum":             {pipeline.Check{Min: f(0.9)}, f(0.871), nil, false, "accuracy 0.871 is below 0.9"},
		"above maximum":             {pipeline.Check{Max: f(0.5)}, f(0.7), nil, false, "accuracy 0.7 is above 0.5"},
		"zero bound":                {pipeline.Check{Min: f(0)}, f(-0.1), nil, false, "accuracy -0.1 is below 0"},
		"missing":                   {pipeline.Check{Min: f(0.9)}, nil, nil, false, `step.evaluate has no metric "accuracy"`},
		"not a number":              {pipeline.Check{Min: f(0.9)}, f(math.NaN()), nil, false, "accuracy of step.evaluate is NaN, not a finite number"},
		"infinite":                  {pipeline.Check{Min: f(0.9)}, f(math.Inf(1)), nil, false, "accuracy of step.evaluate is +Inf, not a finite number"},
		"no bounds":                 {pipeline.Check{}, f(0.1), nil, true, "accuracy is 0.1"},
		"no champion":               {pipeline.Check{AgainstChampion: true}, f(0.1), nil, true, "accuracy is 0.1: there is no champion to compare with"},
		"as champion":               {pipeline.Check{AgainstChampion: true}, f(0.9), champion(0.9), true, "accuracy is 0.9: at least 0.9 as champion v3's 0.9 asks"},
		"worse":                     {pipeline.Check{AgainstChampion: true}, f(0.8), champion(0.9), false, "accuracy 0.8 is below champion v3's 0.9"},
		"worse but in the margin":   {pipeline.Check{AgainstChampion: true, MinDelta: -0.01}, f(0.861), champion(0.871), true, "accuracy is 0.861: at least 0.861 as champion v3's 0.871 asks"},
		"not better enough":         {pipeline.Check{AgainstChampion: true, MinDelta: 0.02}, f(0.91), champion(0.9), false, "accuracy 0.91 is below 0.92, champion v3's 0.9 with min_delta 0.02"},
		"champion of zero, better":  {pipeline.Check{AgainstChampion: true, MinDelta: 0.1}, f(0.5), champion(0), true, "accuracy is 0.5: at least 0.1 as champion v3's 0 asks"},
		"champion of zero, same":    {pipeline.Check{AgainstChampion: true, MinDelta: 0.1}, f(0), champion(0), false, "accuracy 0 is below 0.1, champion v3's 0 with min_delta 0.1"},
		"lower is better, enough":   {pipeline.Check{AgainstChampion: true, LowerIsBetter: true, MinDelta: 0.02}, f(0.27), champion(0.30), true, "accuracy is 0.27: at most 0.28 as champion v3's 0.3 asks"},
		"lower is better, just not": {pipeline.Check{AgainstChampion: true, LowerIsBetter: true, MinDelta: 0.02}, f(0.29), champion(0.30), false, "accuracy 0.29 is above 0.28, champion v3's 0.3 with min_delta 0.02"},
		"lower is better, worse":    {pipeline.Check{AgainstChampion: true, LowerIsBetter: true, MinDelta: 0.02}, f(0.31), champion(0.30), false, "accuracy 0.31 is above 0.28, champion v3's 0.3 with min_delta 0.02"},
		"champion without the metric": {pipeline.Check{AgainstChampion: true}, f(0.9), &Champion{Version: 3}, false,
			`champion v3 has no metric "accuracy" to compare with: register it with the model, or drop the check`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.check.Metric, tt.check.Source = "accuracy", "step.evaluate"
			metrics := map[string]float64{}
			if tt.value != nil {
				metrics["accuracy"] = *tt.value
			}
			v := Evaluate([]pipeline.Check{tt.check}, func(pipeline.NodeID) map[string]float64 { return metrics }, tt.champion)
			if v.Passed != tt.passed || v.Checks[0].Passed != tt.passed {
				t.Errorf("passed = %v, want %v", v.Passed, tt.passed)
			}
			if got := v.Checks[0].Reason; got != tt.reason {
				t.Errorf("reason = %q\n     want %q", got, tt.reason)
			}
			if (v.Refusal() == "") != tt.passed {
				t.Errorf("Refusal = %q", v.Refusal())
			}
		})
	}
}

// A better value never fares worse.
func TestEvaluateIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		num := rapid.Float64Range(-10, 10)
		lower := rapid.Bool().Draw(t, "lower is better")
		c := pipeline.Check{Metric: "m", Source: "s", AgainstChampion: true, LowerIsBetter: lower, MinDelta: num.Draw(t, "delta")}
		champion := &Champion{Version: 1, Metrics: map[string]float64{"m": num.Draw(t, "champion")}}
		a, b := num.Draw(t, "a"), num.Draw(t, "b")
		better, worse := max(a, b), min(a, b)
		if lower {
			better, worse = worse, better
		}
		passed := func(v float64) bool {
			return Evaluate([]pipeline.Check{c}, func(pipeline.NodeID) map[string]float64 { return map[string]float64{"m": v} }, champion).Passed
		}
		if passed(worse) && !passed(better) {
			t.Fatalf("%v passes and the better %v does not", worse, better)
		}
	})
}

func TestAllReasonsAreGiven(t *testing.T) {
	v := Evaluate([]pipeline.Check{{Metric: "a", Source: "s", Min: f(1)}, {Metric: "b", Source: "s"}, {Metric: "c", Source: "s", Max: f(1)}},
		func(pipeline.NodeID) map[string]float64 { return map[string]float64{"a": 0, "b": 0, "c": 2} }, nil)
	if v.Passed || len(v.Checks) != 3 || strings.Count(v.Refusal(), ";") != 1 {
		t.Errorf("verdict = %+v, refusal %q", v, v.Refusal())
	}
}
