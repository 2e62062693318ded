// Package gate decides whether a model may go on: it compares metrics of a run
// with bounds and with the champion's metrics.
//
// It is pure. A metric that is missing or not a number never passes. With no
// champion there is nothing to be worse than, and comparisons with it pass.
package gate

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// Verdict is what a gate decided, and why.
type Verdict struct {
	Passed bool `json:"passed"`
	// Champion is the version that was compared with, 0 for none.
	Champion int           `json:"champion_version,omitempty"`
	Checks   []CheckResult `json:"checks"`
}

// CheckResult is one condition of a verdict. Reason is a sentence with the
// numbers, also of a check that passed.
type CheckResult struct {
	Metric   string   `json:"metric"`
	Value    *float64 `json:"value,omitempty"`    // nil if missing or not a number
	Champion *float64 `json:"champion,omitempty"` // nil if not compared
	Passed   bool     `json:"passed"`
	Reason   string   `json:"reason"`
}

// Champion is the version that a model is compared with.
type Champion struct {
	Version int
	Metrics map[string]float64
}

// tolerance absorbs the rounding of decimal fractions, such as in
// 0.871 - 0.01 >= 0.861.
const tolerance = 1e-9

// Evaluate checks all conditions. metrics gives the metrics of a node, nil if
// it has none. champion is nil if there is none. A gate without checks passes.
func Evaluate(checks []pipeline.Check, metrics func(pipeline.NodeID) map[string]float64, champion *Champion) Verdict {
	v := Verdict{Passed: true, Checks: make([]CheckResult, 0, len(checks))}
	for _, c := range checks {
		if c.AgainstChampion && champion != nil {
			v.Champion = champion.Version
		}
		r := evaluate(c, metrics(c.Source), champion)
		v.Passed = v.Passed && r.Passed
		v.Checks = append(v.Checks, r)
	}
	return v
}

// Refusal joins the reasons of the checks that did not pass, "" if all did.
func (v Verdict) Refusal() string {
	var reasons []string
	for _, c := range v.Checks {
		if !c.Passed {
			reasons = append(reasons, c.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

func evaluate(c pipeline.Check, metrics map[string]float64, champion *Champion) CheckResult {
	r := CheckResult{Metric: c.Metric}
	value, ok := metrics[c.Metric]
	switch {
	case !ok:
		r.Reason = fmt.Sprintf("%s has no metric %q", c.Source, c.Metric)
		return r
	case math.IsNaN(value) || math.IsInf(value, 0):
		r.Reason = fmt.Sprintf("%s of %s is %v, not a finite number", c.Metric, c.Source, value)
		return r
	}
	r.Value = &value
	var passed []string
	if c.Min != nil {
		if value < *c.Min-tolerance {
			r.Reason = fmt.Sprintf("%s %s is below %s", c.Metric, number(value), number(*c.Min))
			return r
		}
		passed = append(passed, "at least "+number(*c.Min))
	}
	if c.Max != nil {
		if value > *c.Max+tolerance {
			r.Reason = fmt.Sprintf("%s %s is above %s", c.Metric, number(value), number(*c.Max))
			return r
		}
		passed = append(passed, "at most "+number(*c.Max))
	}
	if c.AgainstChampion {
		reason, ok := compare(c, value, champion, &r)
		if !ok {
			r.Reason = reason
			return r
		}
		passed = append(passed, reason)
	}
	r.Passed = true
	r.Reason = fmt.Sprintf("%s is %s", c.Metric, number(value))
	if len(passed) > 0 {
		r.Reason += ": " + strings.Join(passed, ", ")
	}
	return r
}

// compare says how value stands against the champion's, noted in r.
func compare(c pipeline.Check, value float64, champion *Champion, r *CheckResult) (reason string, ok bool) {
	if champion == nil {
		return "there is no champion to compare with", true
	}
	theirs, known := champion.Metrics[c.Metric]
	if !known || math.IsNaN(theirs) || math.IsInf(theirs, 0) {
		return fmt.Sprintf("champion v%d has no metric %q to compare with: register it with the model, or drop the check", champion.Version, c.Metric), false
	}
	r.Champion = &theirs
	bound, word := theirs+c.MinDelta, "at least"
	ok = value >= bound-tolerance
	if c.LowerIsBetter {
		bound, word = theirs-c.MinDelta, "at most"
		ok = value <= bound+tolerance
	}
	if ok {
		return fmt.Sprintf("%s %s as champion v%d's %s asks", word, number(bound), champion.Version, number(theirs)), true
	}
	against := fmt.Sprintf("champion v%d's %s", champion.Version, number(theirs))
	if c.MinDelta != 0 {
		against = fmt.Sprintf("%s, %s with min_delta %s", number(bound), against, number(c.MinDelta))
	}
	side := "below"
	if c.LowerIsBetter {
		side = "above"
	}
	return fmt.Sprintf("%s %s is %s %s", c.Metric, number(value), side, against), false
}

// number prints up to six significant digits.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
