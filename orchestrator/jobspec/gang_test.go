package jobspec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/drover-ml/drover/orchestrator/jobspec"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

func TestGangsThatDoNotFitTheirPlaces(t *testing.T) {
	for _, test := range []struct {
		name   string
		gang   *pipeline.Gang
		place  *jobspec.Place
		places int
		want   string
	}{
		{"too few", &pipeline.Gang{Min: 2, Max: 4, Timeout: time.Minute}, nil, 1, "2 to 4 members"},
		{"too many", &pipeline.Gang{Min: 2, Max: 2, Timeout: time.Minute}, nil, 3, "2 members"},
		{"no gang", nil, nil, 2, "no gang"},
		{"one place for all", &pipeline.Gang{Min: 2, Max: 2, Timeout: time.Minute}, &jobspec.Place{NodeID: "a"}, 0, "each rank"},
		{"no timeout", &pipeline.Gang{Min: 2, Max: 2}, nil, 2, "gang.timeout"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, task := identity(), minimal()
			task.Gang, id.Place = test.gang, test.place
			for range test.places {
				id.Ranks = append(id.Ranks, jobspec.Place{NodeID: "a"})
			}
			if _, err := jobspec.Task(id, task, cluster); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A gang over nodes of several pools is registered in all of them.
func TestPoolOfAGang(t *testing.T) {
	for _, test := range []struct {
		name  string
		pools []string
		want  string
	}{
		{"none", []string{"", ""}, ""},
		{"one", []string{"gpu", "gpu"}, "gpu"},
		{"several", []string{"gpu", "spot"}, "all"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id, task := identity(), minimal()
			task.Gang = &pipeline.Gang{Min: 2, Max: 2, Timeout: time.Minute}
			for _, pool := range test.pools {
				id.Ranks = append(id.Ranks, jobspec.Place{NodeID: "a", Pool: pool})
			}
			job, err := jobspec.Task(id, task, cluster)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if job.NodePool != nil {
				got = *job.NodePool
			}
			if got != test.want {
				t.Errorf("pool %q, want %q", got, test.want)
			}
		})
	}
}

func TestRankOf(t *testing.T) {
	for _, test := range []struct {
		group string
		rank  int
		ok    bool
	}{
		{"task", 0, true}, {"rank-0", 0, true}, {"rank-12", 12, true},
		{"rank-", 0, false}, {"rank--1", 0, false}, {"rank-01", 0, false}, {"rank-x", 0, false}, {"web", 0, false},
	} {
		rank, ok := jobspec.RankOf(test.group)
		if ok != test.ok || ok && rank != test.rank {
			t.Errorf("%q: %d, %v; want %d, %v", test.group, rank, ok, test.rank, test.ok)
		}
	}
}
