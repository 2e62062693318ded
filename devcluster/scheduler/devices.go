package scheduler

import (
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// groupMatches reports whether a device group answers to a job's name for it:
// "type", "vendor/type" or "vendor/type/model".
func groupMatches(name string, g *api.NodeDeviceResource) bool {
	parts := strings.SplitN(name, "/", 3)
	switch len(parts) {
	case 1:
		return parts[0] == g.Type
	case 2:
		return parts[0] == g.Vendor && parts[1] == g.Type
	default:
		return parts[0] == g.Vendor && parts[1] == g.Type && parts[2] == g.Name
	}
}

// deviceTarget resolves one side of a device constraint. ids is what
// ${device.ids} stands for.
func deviceTarget(target string, g *api.NodeDeviceResource, ids string) (value, bool) {
	name, ok := reference(target)
	if !ok {
		return parseValue(target), true
	}
	switch name {
	case "device.ids":
		return textValue(ids), true
	case "device.model":
		return textValue(g.Name), true
	case "device.vendor":
		return textValue(g.Vendor), true
	case "device.type":
		return textValue(g.Type), true
	}
	if attr, ok := strings.CutPrefix(name, "device.attr."); ok {
		return fromAttribute(g.Attributes[attr])
	}
	return value{}, false
}

func deviceMeets(l value, lok bool, operand string, r value, rok bool) bool {
	switch operand {
	case "is_set":
		return lok
	case "is_not_set":
		return !lok
	case "!=", "not":
		if lok != rok {
			return true
		}
		order, comparable := l.compare(r)
		return lok && comparable && order != 0
	}
	if !lok || !rok {
		return false
	}
	if operand == "" || operand == "=" || operand == "==" || operand == "is" {
		order, comparable := l.compare(r)
		return comparable && order == 0
	}
	if ordered, ok := orderOperands[operand]; ok {
		if l.flag != nil {
			return false
		}
		order, comparable := l.compare(r)
		return comparable && ordered(order)
	}
	lt, lok := l.text()
	rt, rok := r.text()
	return lok && rok && textMeets(lt, operand, rt)
}

// groupMeets reports whether a group can serve an ask at all, free or not.
func groupMeets(ask *api.RequestedDevice, g *api.NodeDeviceResource) bool {
	if !groupMatches(ask.Name, g) {
		return false
	}
	var ids []string
	for _, d := range g.Instances {
		ids = append(ids, d.ID)
	}
	all := strings.Join(ids, ",")
	for _, c := range ask.Constraints {
		l, lok := deviceTarget(c.LTarget, g, all)
		r, rok := deviceTarget(c.RTarget, g, all)
		if !deviceMeets(l, lok, c.Operand, r, rok) {
			return false
		}
	}
	return true
}

// idAllowed reports whether constraints on ${device.ids} allow an instance:
// the set that the constraint names must contain it.
func idAllowed(ask *api.RequestedDevice, g *api.NodeDeviceResource, id string) bool {
	for _, c := range ask.Constraints {
		var named string
		switch "${device.ids}" {
		case c.LTarget:
			named = c.RTarget
		case c.RTarget:
			named = c.LTarget
		default:
			continue
		}
		v, ok := deviceTarget(named, g, "")
		if !deviceMeets(v, ok, c.Operand, textValue(id), true) {
			return false
		}
	}
	return true
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
		l, lok := deviceTarget(a.LTarget, g, "")
		r, rok := deviceTarget(a.RTarget, g, "")
		if deviceMeets(l, lok, a.Operand, r, rok) {
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
