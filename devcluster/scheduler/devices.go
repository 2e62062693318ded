package scheduler

import (
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/internal/devicematch"
)

// described is a device group as constraints see it.
func described(g *api.NodeDeviceResource) devicematch.Group {
	d := devicematch.Group{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: g.Attributes}
	for _, instance := range g.Instances {
		d.IDs = append(d.IDs, instance.ID)
	}
	return d
}

func condition(left, operand, right string) devicematch.Constraint {
	return devicematch.Constraint{Left: left, Operand: operand, Right: right}
}

// groupMeets reports whether a group can serve an ask at all, free or not.
func groupMeets(ask *api.RequestedDevice, g *api.NodeDeviceResource) bool {
	m := described(g)
	return m.Named(ask.Name) && !slices.ContainsFunc(ask.Constraints, func(c *api.Constraint) bool {
		return !m.Meets(condition(c.LTarget, c.Operand, c.RTarget))
	})
}

// idAllowed reports whether constraints on ${device.ids} allow an instance.
func idAllowed(ask *api.RequestedDevice, g *api.NodeDeviceResource, id string) bool {
	m := devicematch.Group{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: g.Attributes}
	return !slices.ContainsFunc(ask.Constraints, func(c *api.Constraint) bool {
		return !m.Allows(condition(c.LTarget, c.Operand, c.RTarget), id)
	})
}

func wanted(ask *api.RequestedDevice) int {
	if ask.Count == nil {
		return 1
	}
	return int(min(*ask.Count, math.MaxInt32))
}

// nodeHasDevices reports whether a node could ever serve all device asks of a
// group: healthy instances, free or not.
func nodeHasDevices(n *api.Node, tg *api.TaskGroup) bool {
	taken := map[string]int{}
	for _, task := range tg.Tasks {
		for _, ask := range task.Resources.Devices {
			if !slices.ContainsFunc(n.NodeResources.Devices, func(g *api.NodeDeviceResource) bool {
				if !groupMeets(ask, g) {
					return false
				}
				healthy := 0
				for _, d := range g.Instances {
					if d.Healthy && idAllowed(ask, g, d.ID) {
						healthy++
					}
				}
				key := g.Vendor + "/" + g.Type + "/" + g.Name
				if healthy-taken[key] < wanted(ask) {
					return false
				}
				taken[key] += wanted(ask)
				return true
			}) {
				return false
			}
		}
	}
	return true
}

// offerDevices picks free, healthy instances for an ask, from the group with
// the best affinity; among equals the fullest one, then by name, so that
// placement is the same every time. It returns nil if no group has enough.
// weight is the sum of the affinity weights that the choice meets.
func (u *usage) offerDevices(ask *api.RequestedDevice) (offer *api.AllocatedDeviceResource, weight float64) {
	bestScore, bestFree := math.Inf(-1), 0
	for _, g := range u.node.NodeResources.Devices {
		if !groupMeets(ask, g) {
			continue
		}
		var free []string
		for _, d := range g.Instances {
			if d.Healthy && !u.devices[deviceKey(g.Vendor, g.Type, g.Name, d.ID)] && idAllowed(ask, g, d.ID) {
				free = append(free, d.ID)
			}
		}
		if len(free) < wanted(ask) {
			continue
		}
		score, met := deviceAffinity(ask, g)
		if offer != nil && (score < bestScore || score == bestScore && len(free) >= bestFree) {
			continue
		}
		bestScore, bestFree, weight = score, len(free), met
		offer = &api.AllocatedDeviceResource{Vendor: g.Vendor, Type: g.Type, Name: g.Name, DeviceIDs: free[:wanted(ask)]}
	}
	return offer, weight
}

// deviceAffinity scores a group by the ask's affinities, from -1 to 1.
func deviceAffinity(ask *api.RequestedDevice, g *api.NodeDeviceResource) (score, met float64) {
	var total float64
	for _, a := range ask.Affinities {
		w := affinityWeight(a)
		total += math.Abs(w)
		if described(g).Meets(condition(a.LTarget, a.Operand, a.RTarget)) {
			met += w
		}
	}
	if total == 0 {
		return 0, 0
	}
	return met / total, met
}

func affinityWeight(a *api.Affinity) float64 {
	if a.Weight == nil {
		return 50
	}
	return float64(*a.Weight)
}

func deviceKey(parts ...string) string { return strings.Join(parts, "\x00") }
