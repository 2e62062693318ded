package jobspec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

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

// What has no place runs in the pools of its workspace, if that has any.
func TestPools(t *testing.T) {
	for _, test := range []struct {
		name       string
		pools      []string
		want       string
		constraint string
	}{
		{"none", nil, "server", ""},
		{"one", []string{"gpu"}, "gpu", ""},
		{"several", []string{"gpu", "spot"}, "all", "${node.pool} set_contains_any gpu,spot"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := cluster
			c.NodePool, c.Pools = "server", test.pools
			step, err := jobspec.Task(identity(), minimal(), c)
			if err != nil {
				t.Fatal(err)
			}
			task, endpoint := serving()
			service, err := jobspec.Endpoint(endpointIdentity(), task, endpoint, c)
			if err != nil {
				t.Fatal(err)
			}
			for _, job := range []*api.Job{step, service} {
				constraint := ""
				for _, c := range job.Constraints {
					constraint += c.LTarget + " " + c.Operand + " " + c.RTarget
				}
				if *job.NodePool != test.want || constraint != test.constraint {
					t.Errorf("%s is in pool %q with constraint %q, want %q and %q", *job.Type, *job.NodePool, constraint, test.want, test.constraint)
				}
			}
			placed := identity()
			placed.Place = &jobspec.Place{NodeID: "a", Pool: "gpu"}
			if job, err := jobspec.Task(placed, minimal(), c); err != nil || *job.NodePool != "gpu" || len(job.Constraints) != 0 {
				t.Errorf("a task with a place: %+v, %v", job, err)
			}
		})
	}
}

// A job in another namespace is the same revision's.
func TestNamespaceIsNoPartOfWhatARevisionRuns(t *testing.T) {
	task, endpoint := serving()
	var specs [2]string
	for i, namespace := range []string{"default", "vision"} {
		c := cluster
		c.Namespace = namespace
		job, err := jobspec.Endpoint(endpointIdentity(), task, endpoint, c)
		if err != nil || *job.Namespace != namespace {
			t.Fatalf("namespace %v, %v", job.Namespace, err)
		}
		specs[i] = job.Meta[jobspec.MetaSpec]
	}
	if specs[0] != specs[1] {
		t.Errorf("specs %v", specs)
	}
}
