package jobspec

import (
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Place is the node and the devices that a task was given.
type Place struct {
	NodeID   string `json:"node_id"`
	NodeName string `json:"node_name"`
	// Pool is the node's pool; "" leaves the job's.
	Pool string `json:"pool,omitempty"`
	// Device is the group of the devices, vendor/type/model; "" for a task that
	// has none.
	Device  string   `json:"device,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// pin has a group run at a place, and nowhere else. Nomad checks a constraint on
// ${device.ids} for the group of devices, which must have them all, and then for
// each instance, which must be one of them.
func pin(g *api.TaskGroup, p Place) {
	g.Constraints = append(g.Constraints, &api.Constraint{LTarget: "${node.unique.id}", Operand: "=", RTarget: p.NodeID})
	if len(p.Devices) == 0 {
		return
	}
	for _, d := range g.Tasks[0].Resources.Devices {
		d.Name = p.Device
		d.Count = new(uint64(len(p.Devices)))
		// These devices were chosen by what the task asks for: other constraints may
		// be those of another of its alternatives.
		d.Constraints = []*api.Constraint{{LTarget: "${device.ids}", Operand: "set_contains", RTarget: strings.Join(p.Devices, ",")}}
	}
}
