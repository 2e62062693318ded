// Package sharing is how boards and slices are shared by several tasks: which
// are, in how many replicas, and what part of the hardware each may use. It is
// pure; package mps sees to it that tasks keep to their parts.
//
// Replicas by time-slicing take turns on the whole device: nothing limits what
// one takes of its memory and time. Replicas by MPS run at the same time, each
// process within a limit of threads and of memory. What cannot be kept to, by
// all that is known, is not handed out: such a device has a fault.
package sharing

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

// Mode is how tasks share a device.
type Mode string

// The modes.
const (
	TimeSlicing Mode = "time-slicing"
	MPS         Mode = "mps"
)

// Block is a `sharing` block of the plugin's configuration:
//
//	sharing {
//	  device         = "model:NVIDIA L4"
//	  mode           = "mps"
//	  replicas       = 4
//	  thread_percent = 25
//	  pinned_memory  = "5 GiB"
//	}
type Block struct {
	// Device selects devices, as the include and exclude options do. Of two
	// blocks that select a device, the first holds.
	Device   string `codec:"device"`
	Mode     string `codec:"mode"`
	Replicas int    `codec:"replicas"`
	// ThreadPercent is of the device's threads, for each process of a replica;
	// 0 is an equal part.
	ThreadPercent int `codec:"thread_percent"`
	// PinnedMemory is what each process of a replica can allocate, "5 GiB"; ""
	// is an equal part.
	PinnedMemory string `codec:"pinned_memory"`
	// Overcommit lets the limits of all replicas be more than the device.
	Overcommit bool `codec:"overcommit"`
	// TrustTasks accepts that a task gets around its limits if it unsets its
	// environment, as on every device that is not in compute mode
	// Exclusive_Process. Slices do not have that mode.
	TrustTasks bool `codec:"trust_tasks"`
}

const (
	maxBlocks = 64
	// maxReplicas is how many clients an MPS server has of one device.
	maxReplicas = 48
)

// Schema is that of the blocks, under the key "sharing" of the plugin's.
func Schema() *schema.Spec {
	return schema.BlockList("sharing", 0, maxBlocks, schema.Object(map[string]*schema.Spec{
		"device":         schema.Attr("device", "string", true),
		"mode":           schema.Attr("mode", "string", true),
		"replicas":       schema.Attr("replicas", "number", true),
		"thread_percent": schema.Attr("thread_percent", "number", false),
		"pinned_memory":  schema.Attr("pinned_memory", "string", false),
		"overcommit":     schema.Default(schema.Attr("overcommit", "bool", false), "false"),
		"trust_tasks":    schema.Default(schema.Attr("trust_tasks", "bool", false), "false"),
	}))
}

// Plan is a configuration that was checked. The zero Plan shares nothing.
type Plan struct {
	rules []rule
	// simulated devices have nothing behind them that a limit could be of.
	simulated bool
}

type rule struct {
	Block
	mode      Mode
	selector  gpu.Selector
	memoryMiB int64 // 0 is an equal part
}

// NewPlan checks blocks. The error tells every problem, with the option's
// path. On a simulated machine nothing is there to limit, and limits are shown
// as such.
func NewPlan(blocks []Block, simulated bool) (Plan, error) {
	p := Plan{simulated: simulated}
	var problems []error
	if len(blocks) > maxBlocks {
		return Plan{}, fmt.Errorf("sharing: %d blocks; there can be %d", len(blocks), maxBlocks)
	}
	taken := make(map[string]int)
	for i, b := range blocks {
		r, errs := b.rule()
		if first, ok := taken[b.Device]; ok {
			errs = append(errs, fmt.Errorf("device: %q is that of sharing[%d] too, which comes first", b.Device, first))
		} else {
			taken[b.Device] = i
		}
		for _, err := range errs {
			problems = append(problems, fmt.Errorf("sharing[%d].%w", i, err))
		}
		p.rules = append(p.rules, r)
	}
	return p, errors.Join(problems...)
}

// rule reads a block. Each error begins with the name of an option.
func (b Block) rule() (rule, []error) {
	r := rule{Block: b, mode: Mode(b.Mode)}
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	var err error
	if r.selector, err = gpu.ParseSelector(b.Device); err != nil {
		wrong("device: %w", err)
	}
	if b.Replicas < 2 || b.Replicas > maxReplicas {
		wrong("replicas: %d; a device has 2 to %d", b.Replicas, maxReplicas)
	}
	switch r.mode {
	case MPS:
		if b.PinnedMemory != "" {
			if r.memoryMiB, err = parseMiB(b.PinnedMemory); err != nil {
				wrong("pinned_memory: %w", err)
			}
		}
		if b.ThreadPercent < 0 || b.ThreadPercent > 100 {
			wrong("thread_percent: %d; it is 1 to 100, or left out for an equal part", b.ThreadPercent)
		} else if sum := b.ThreadPercent * b.Replicas; sum > 100 && !b.Overcommit {
			wrong("thread_percent: %d replicas of %d %% are %d %% of a device; take less, or set overcommit = true", b.Replicas, b.ThreadPercent, sum)
		}
	case TimeSlicing:
		for option, set := range map[string]bool{
			"thread_percent": b.ThreadPercent != 0, "pinned_memory": b.PinnedMemory != "",
			"overcommit": b.Overcommit, "trust_tasks": b.TrustTasks,
		} {
			if set {
				wrong("%s: time-slicing has no limits; leave it out, or set mode = %q", option, MPS)
			}
		}
	default:
		wrong("mode: %q; it is %q or %q", b.Mode, TimeSlicing, MPS)
	}
	return r, problems
}

// units are those of Nomad's device attributes, in bytes.
var units = map[string]float64{
	"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	"MB": 1e6, "GB": 1e9, "TB": 1e12,
}

// parseMiB reads an amount of memory, rounded down to MiB.
func parseMiB(text string) (int64, error) {
	trimmed := strings.TrimSpace(text)
	end := strings.LastIndexAny(trimmed, "0123456789.") + 1
	unit, ok := units[strings.TrimSpace(trimmed[end:])]
	amount, err := strconv.ParseFloat(trimmed[:end], 64)
	if !ok || err != nil || amount < 0 || amount*unit >= 1<<60 || amount*unit < 1<<20 {
		return 0, fmt.Errorf(`%.40q; write at least 1 MiB as in "5 GiB", with a unit of MiB, GiB, TiB, MB, GB or TB`, text)
	}
	return int64(amount*unit) >> 20, nil
}
