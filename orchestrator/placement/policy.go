package placement

import (
	"maps"
	"math"
	"math/bits"
	"slices"
)

// DefaultPolicy is the policy of a Config that names none.
const DefaultPolicy = "drover"

// policyFunc scores a node that has room for a shape.
type policyFunc func(c *Cluster, n *node, s *shape) score

// policies are what a Config can name. But for "drover" they follow the
// simulator published with "Beware of Fragmentation: Scheduling GPU-Sharing
// Workloads with Fragmentation Gradient Descent" (USENIX ATC 2023), down to
// scores that are whole numbers from 0 to 100, so that they can be compared with
// what was published.
var policies = map[string]policyFunc{
	"random":         random,
	"best-fit":       bestFit,
	"dot-product":    dotProduct,
	"gpu-packing":    gpuPacking,
	"gpu-clustering": gpuClustering,
	"fgd":            fgd,
	"drover":         drover,
}

// Policies are the names of all policies, sorted.
func Policies() []string { return slices.Sorted(maps.Keys(policies)) }

// What a large node has, by which best-fit, dot-product and gpu-clustering
// scale what is free.
const (
	largeCPUMilli = 128_000
	largeGPUMilli = 8 * WholeGPU
	topScore      = 100
)

// anyGPU is a choice left to the seed among the GPUs with room. A real choice
// of all 64 GPUs would mean whole ones, of which there is one choice.
const anyGPU = math.MaxUint64

// random takes any node with room, and any GPU of it. Its scores are not what
// decides: see Place.
func random(_ *Cluster, n *node, s *shape) score {
	if s.gpus == 1 && s.share < WholeGPU {
		return score{gpus: anyGPU}
	}
	return score{gpus: tightest(n, s.gpus, s.share)}
}

func (c *Cluster) randomGPU(n *node, share int) uint64 {
	var fit uint64
	for g, f := range n.free {
		if int(f) >= share {
			fit |= 1 << g
		}
	}
	for range c.random.IntN(bits.OnesCount64(fit)) {
		fit &= fit - 1
	}
	return fit & -fit
}

// tightest is the GPU with the least free that has room for a share, or the
// first free ones for whole GPUs.
func tightest(n *node, gpus, share int) uint64 {
	if share == WholeGPU {
		var set uint64
		for g, f := range n.free {
			if gpus > 0 && f == WholeGPU {
				set |= 1 << g
				gpus--
			}
		}
		return set
	}
	best := -1
	for g, f := range n.free {
		if gpus > 0 && int(f) >= share && (best < 0 || f < n.free[best]) {
			best = g
		}
	}
	if best < 0 {
		return 0
	}
	return 1 << best
}

// bestFit takes the node that has least left afterwards, CPU and GPU weighing
// the same.
func bestFit(_ *Cluster, n *node, s *shape) score {
	left := 0.5*float64(n.cpu-s.cpu)/largeCPUMilli + 0.5*float64(n.freeMilli()-s.milli())/largeGPUMilli
	return score{value: math.Trunc((1 - left) * topScore), gpus: tightest(n, s.gpus, s.share)}
}

// milli is what the shape asks of all its GPUs.
func (s *shape) milli() int64 { return int64(s.gpus) * int64(s.share) }

// dotProduct takes the node whose free resources are least like the ask, which
// is how Tetris aligns tasks with nodes, turned to packing.
func dotProduct(_ *Cluster, n *node, s *shape) score {
	dot := float64(n.cpu)*float64(s.cpu)/(largeCPUMilli*largeCPUMilli) +
		float64(n.freeMilli())*float64(s.milli())/(largeGPUMilli*largeGPUMilli)
	return score{value: math.Trunc(topScore * (1 - dot/2)), gpus: tightest(n, s.gpus, s.share)}
}

// gpuPacking takes GPUs in use before free ones, and nodes in use before idle
// ones.
func gpuPacking(_ *Cluster, n *node, s *shape) score {
	gpus := tightest(n, s.gpus, s.share)
	if s.gpus == 0 {
		return score{}
	}
	idle := 0
	for _, f := range n.free {
		if f == WholeGPU {
			idle++
		}
	}
	if idle == len(n.free) {
		return score{value: float64(max(topScore/3-idle, idle)), gpus: gpus}
	}
	used := n.free[bits.TrailingZeros64(gpus)]
	if used == WholeGPU {
		return score{value: float64(max(topScore/2-s.gpus, topScore/3)), gpus: gpus}
	}
	return score{value: float64(max(topScore-int(used)*100/WholeGPU/10, topScore/2)), gpus: gpus}
}

// gpuClustering takes nodes that hold tasks of the same number of GPUs, best
// no others, then idle ones; among those, the fullest.
func gpuClustering(_ *Cluster, n *node, s *shape) score {
	if s.gpus == 0 {
		return score{}
	}
	classes, same := 0, n.held[class(s.gpus, s.share)] > 0
	for g := range len(n.free) + 1 {
		if n.held[g] > 0 {
			classes++
		}
	}
	rank := 0
	switch {
	case same && classes == 1:
		rank = 3
	case same:
		rank = 2
	case classes == 0:
		rank = 1
	}
	fill := topScore / 4 * (largeGPUMilli - n.freeMilli()) / largeGPUMilli
	return score{value: float64(int64(rank)*topScore/4 + fill), gpus: tightest(n, s.gpus, s.share)}
}

// fgd is fragmentation gradient descent: the node, and the GPU of it, where
// the task makes least fragmentation. Its score is published as a whole number,
// so that placements which differ little are a tie.
func fgd(c *Cluster, n *node, s *shape) score {
	best := c.descent(n, s, nil)
	best.value = math.Trunc(topScore / (1 + math.Exp(-best.value)))
	return best
}
