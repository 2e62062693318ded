package mltask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxMetricsLine bounds a line of the metrics file, in bytes.
const MaxMetricsLine = 64 << 10

// ParseMetricsLine reads a line of the metrics file. Fields that it doesn't
// know are ignored. JSON has no NaN and no infinities, so a line with one is
// malformed.
func ParseMetricsLine(line []byte) (MetricsLine, error) {
	if len(line) > MaxMetricsLine {
		return MetricsLine{}, fmt.Errorf("longer than %d bytes", MaxMetricsLine)
	}
	var l struct {
		MetricsLine
		Metrics *map[string]float64 `json:"metrics"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &l); err != nil {
		return MetricsLine{}, fmt.Errorf("not a JSON object such as {\"step\": 1, \"metrics\": {\"loss\": 0.5}}: %w", err)
	}
	if l.Metrics == nil {
		return MetricsLine{}, errors.New(`no "metrics" in it`)
	}
	l.MetricsLine.Metrics = *l.Metrics
	return l.MetricsLine, nil
}
