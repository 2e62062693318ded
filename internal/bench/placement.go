package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// placementSeeds is how many draws each figure is the mean of, as published.
const placementSeeds = 10

// publishedPolicies are the published names of policies.
var publishedPolicies = map[string]string{
	"random": "Random", "dot-product": "DotProd", "gpu-clustering": "GpuClustering", "gpu-packing": "GpuPacking", "best-fit": "BestFit", "fgd": "FGD",
}

// placementRun is what drover simulate placement -json prints of a run.
type placementRun struct {
	At100      float64 `json:"allocated_pct_at_100"`
	At130      float64 `json:"allocated_pct_at_130"`
	Fragmented float64 `json:"fragmented_pct"`
	MedianUs   float64 `json:"decision_median_us"`
	P99Us      float64 `json:"decision_p99_us"`
}

// benchPlacement repeats the experiment that the openb trace was published
// with, by the command that users have, for every policy. Its values are means.
func benchPlacement(ctx context.Context) ([]row, error) {
	data := os.Getenv("DROVER_DATA")
	if data == "" {
		return []row{{Case: "openb", Subject: "drover simulate placement", Note: "skipped: DROVER_DATA names no folder that holds openb/"}}, nil
	}
	dir := filepath.Join(data, "openb")
	published, err := readPublished(filepath.Join(dir, "published.csv"))
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, workload := range []string{"default", "gpushare40", "gpuspec33", "multigpu20"} {
		for _, policy := range placement.Policies() {
			more, err := placementRows(ctx, dir, workload, policy, published)
			if err != nil {
				return rows, fmt.Errorf("%s, %s: %w", workload, policy, err)
			}
			rows = append(rows, more...)
		}
	}
	return rows, nil
}

func placementRows(ctx context.Context, dir, workload, policy string, published map[[2]string][2]float64) ([]row, error) {
	var at100, at130, fragmented, median, p99 []float64
	for seed := 1; seed <= placementSeeds; seed++ {
		cmd := exec.CommandContext(ctx, filepath.Join("bin", "drover"), "simulate", "placement", "-json",
			"-nodes", filepath.Join(dir, "openb_node_list_all_node.csv.gz"), "-tasks", filepath.Join(dir, "openb_pod_list_"+workload+".csv.gz"),
			"-load", "1.3", "-policy", policy, "-seed", strconv.Itoa(seed))
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("running drover simulate placement (make build makes it): %w", err)
		}
		var r placementRun
		if err := json.Unmarshal(out, &r); err != nil {
			return nil, fmt.Errorf("reading its output: %w", err)
		}
		at100, at130, fragmented = append(at100, r.At100), append(at130, r.At130), append(fragmented, r.Fragmented)
		median, p99 = append(median, r.MedianUs), append(p99, r.P99Us)
	}
	rows := []row{
		mean(workload+", 100 % arrived", policy, "% of GPUs", at100), mean(workload+", 130 % arrived", policy, "% of GPUs", at130),
		mean(workload+", fragmented", policy, "% of GPUs", fragmented),
		mean(workload+", decision median", policy, "µs", median), mean(workload+", decision p99", policy, "µs", p99),
	}
	fgd := published[[2]string{workload, "FGD"}]
	own, known := published[[2]string{workload, publishedPolicies[policy]}]
	for i := range fgd {
		rows[i].Note = fmt.Sprintf("%+.2f to published FGD", rows[i].Value-fgd[i])
		if known {
			rows[i].Note = fmt.Sprintf("published %.2f; ", own[i]) + rows[i].Note
		}
	}
	return rows, nil
}

// mean is spread with the mean as its value.
func mean(caseName, subject, unit string, values []float64) row {
	r := spread(caseName, subject, unit, values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	r.Value = sum / float64(len(values))
	return r
}

// readPublished reads the published means by workload and policy, at 100 % and
// 130 % arrived.
func readPublished(path string) (map[[2]string][2]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	published := map[[2]string][2]float64{}
	for _, line := range lines[min(1, len(lines)):] {
		if len(line) < 4 {
			return nil, fmt.Errorf("reading %s: a line of %d fields, not 4", path, len(line))
		}
		var v [2]float64
		for i := range v {
			if v[i], err = strconv.ParseFloat(line[2+i], 64); err != nil {
				return nil, fmt.Errorf("reading %s: %w", path, err)
			}
		}
		published[[2]string{line[0], line[1]}] = v
	}
	return published, nil
}
