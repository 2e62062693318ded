package jobspec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/mltask"
	"github.com/drover-ml/drover/orchestrator/pipeline"
)

// rankPrefix is how the names of the groups of a gang begin: "rank-0" and so
// on. Each member is a group of its own, so that each can be pinned.
const rankPrefix = "rank-"

// anyPool is Nomad's name for all node pools.
const anyPool = "all"

// RankOf is the rank of the member that a task group holds, 0 for the group of
// a task that is no gang.
func RankOf(group string) (rank int, ok bool) {
	if group == GroupName {
		return 0, true
	}
	digits, ok := strings.CutPrefix(group, rankPrefix)
	if !ok {
		return 0, false
	}
	rank, err := strconv.Atoi(digits)
	return rank, err == nil && rank >= 0 && strconv.Itoa(rank) == digits
}

// gangSize is how many members id starts with, 0 if t is no gang.
func gangSize(id Identity, t pipeline.Task) (int, error) {
	switch {
	case t.Gang == nil && id.Ranks == nil:
		return 0, nil
	case t.Gang == nil:
		return 0, fmt.Errorf("there are places for %d ranks, but the task is no gang", len(id.Ranks))
	case id.Place != nil:
		return 0, fmt.Errorf("a gang needs a place for each rank, not one")
	case id.Ranks == nil:
		return t.Gang.Max, nil
	case len(id.Ranks) < t.Gang.Min || len(id.Ranks) > t.Gang.Max:
		return 0, fmt.Errorf("there are places for %d ranks, but the gang has %s members", len(id.Ranks), t.Gang)
	}
	return len(id.Ranks), nil
}

// newMember is the part of a job that runs a member of a gang, whose task would have
// the given config if it were none.
func newMember(id Identity, t pipeline.Task, config map[string]any, rank, size int) (*api.TaskGroup, error) {
	config = maps.Clone(config)
	config["result_key"] = mltask.RankKey(id.ResultKey(), rank)
	config["gang"] = []map[string]any{{
		"key": id.ResultKey(), "rank": rank, "size": size, "timeout": t.Gang.Timeout.String(),
	}}
	if rank != 0 {
		delete(config, "output")
	}
	var place *Place
	if id.Ranks != nil {
		place = &id.Ranks[rank]
	}
	group, err := newGroup(rankPrefix+strconv.Itoa(rank), t, config, place, id.Avoid)
	if err != nil {
		return nil, err
	}
	group.Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: mltask.MasterPort}}}}
	return group, nil
}

// poolOf is the node pool of a job whose tasks run at some places, "" if they
// name none.
func poolOf(places ...Place) string {
	var pools []string
	for _, p := range places {
		if p.Pool != "" && !slices.Contains(pools, p.Pool) {
			pools = append(pools, p.Pool)
		}
	}
	switch len(pools) {
	case 0:
		return ""
	case 1:
		return pools[0]
	}
	return anyPool
}
