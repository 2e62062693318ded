package simulated

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// driverTrouble is what is wrong with the driver as a whole.
type driverTrouble struct {
	err   string        // calls answer with it
	hang  bool          // calls do not return
	delay time.Duration // calls take longer
	// reload is set while the driver is unloaded. When it is back, it has
	// forgotten what it counted, and faults that began before are over.
	reload bool
}

type driverBlock struct {
	At     string   `hcl:"at,optional"`
	For    string   `hcl:"for,optional"`
	Every  string   `hcl:"every,optional"`
	Times  *int     `hcl:"times,optional"`
	Error  string   `hcl:"error,optional"`
	Hang   bool     `hcl:"hang,optional"`
	Reload bool     `hcl:"reload,optional"`
	Delay  string   `hcl:"delay,optional"`
	Body   hcl.Body `hcl:",body" json:"-"`
}

// reasonUnloaded is what the driver library says without its kernel module.
const reasonUnloaded = "the NVIDIA kernel module is not loaded; run nvidia-smi to see why"

func (r *scriptReader) driver(b driverBlock) {
	start := b.Body.MissingItemRange()
	sched, diags := timing{b.At, b.For, b.Every, b.Times, b.Body}.schedule(start)
	r.diags = append(r.diags, diags...)
	t := &driverTrouble{err: b.Error, hang: b.Hang, reload: b.Reload, delay: r.delay(b.Body, start, b.Delay)}
	effects := 0
	for _, set := range []bool{b.Error != "", b.Hang, b.Reload, b.Delay != ""} {
		if set {
			effects++
		}
	}
	switch {
	case effects != 1:
		r.wrong(start, "a driver block has one of error, hang, reload and delay")
	case b.Reload && b.For == "":
		r.wrong(start, "a reload has for: how long the driver is unloaded")
	case b.Every != "" && b.For == "":
		r.wrong(rangeOf(b.Body, "every", start), "what comes back has to end in between: set for")
	}
	r.add(step{schedule: sched, where: start, driver: t}, "driver "+content(b))
}

// maxDelay keeps a mistyped delay from looking like a hang.
const maxDelay = 10 * time.Minute

func (r *scriptReader) delay(body hcl.Body, start hcl.Range, text string) time.Duration {
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.wrong(rangeOf(body, "delay", start), "delay is %q; it is a duration such as \"300ms\"", text)
	case d <= 0 || d > maxDelay:
		r.wrong(rangeOf(body, "delay", start), "delay is %s; it is up to %s", d, maxDelay)
	}
	return d
}

// migTrouble is what is wrong with calls that change MIG.
type migTrouble struct {
	call       string // "" is any
	nth        int    // of the calls since the block took effect; 0 is all
	err        string
	delay      time.Duration
	needsReset bool // changes of the mode wait for a reset
}

type migBlock struct {
	Device      string    `hcl:"device,label"`
	At          string    `hcl:"at,optional"`
	For         string    `hcl:"for,optional"`
	Call        string    `hcl:"call,optional"`
	Nth         *int      `hcl:"nth,optional"`
	Error       string    `hcl:"error,optional"`
	Delay       string    `hcl:"delay,optional"`
	NeedsReset  bool      `hcl:"needs_reset,optional"`
	DeviceRange hcl.Range `hcl:"device,label_range" json:"-"`
	Body        hcl.Body  `hcl:",body" json:"-"`
}

// The calls that a mig block can be about.
const (
	callMode    = "mode"
	callCreate  = "create"
	callDestroy = "destroy"
)

var migCalls = []string{callMode, callCreate, callDestroy}

func (r *scriptReader) mig(b migBlock) {
	s := r.step(b.Device, b.DeviceRange, timing{At: b.At, For: b.For, Body: b.Body})
	t := &migTrouble{call: b.Call, err: b.Error, needsReset: b.NeedsReset, delay: r.delay(b.Body, b.DeviceRange, b.Delay)}
	s.mig = t
	if b.Nth != nil {
		if t.nth = *b.Nth; t.nth < 1 {
			r.wrong(rangeOf(b.Body, "nth", b.DeviceRange), "nth is %d; the first call is 1", t.nth)
		}
	}
	if t.call != "" && !slices.Contains(migCalls, t.call) {
		r.wrong(rangeOf(b.Body, "call", b.DeviceRange), "call is %q; it is %s", t.call, joined(migCalls))
	}
	if t.err == "" && t.delay == 0 && !t.needsReset {
		r.wrong(b.DeviceRange, "a mig block has error, delay or needs_reset = true")
	}
	if strings.HasPrefix(b.Device, slicePrefix) {
		r.wrong(b.DeviceRange, "a mig block is about a board, not a slice")
	}
	r.add(s, "mig "+content(b))
}

// scriptedProcess is a program on a board or slice that is not there.
type scriptedProcess struct {
	pid        int // 0 derives one
	kind       gpu.ProcessKind
	memoryMiB  *int64
	gpuPercent *int64
}

type processBlock struct {
	Device      string    `hcl:"device,label"`
	At          string    `hcl:"at,optional"`
	For         string    `hcl:"for,optional"`
	Every       string    `hcl:"every,optional"`
	Times       *int      `hcl:"times,optional"`
	PID         int       `hcl:"pid,optional"`
	Kind        string    `hcl:"kind,optional"`
	MemoryMiB   *int64    `hcl:"memory_mib,optional"`
	GPUPercent  *int64    `hcl:"gpu_percent,optional"`
	DeviceRange hcl.Range `hcl:"device,label_range" json:"-"`
	Body        hcl.Body  `hcl:",body" json:"-"`
}

var processKinds = []gpu.ProcessKind{gpu.ProcessCompute, gpu.ProcessGraphics, gpu.ProcessMPS}

func (r *scriptReader) process(b processBlock) {
	s := r.step(b.Device, b.DeviceRange, timing{b.At, b.For, b.Every, b.Times, b.Body})
	p := &scriptedProcess{pid: b.PID, kind: gpu.ProcessKind(b.Kind), memoryMiB: b.MemoryMiB, gpuPercent: b.GPUPercent}
	s.process = p
	at := func(attribute string) hcl.Range { return rangeOf(b.Body, attribute, b.DeviceRange) }
	if p.kind == "" {
		p.kind = gpu.ProcessCompute
	}
	switch {
	case !slices.Contains(processKinds, p.kind):
		r.wrong(at("kind"), "kind is %q; it is %s", b.Kind, joined(processKinds))
	case p.pid < 0:
		r.wrong(at("pid"), "pid is %d; it is positive", p.pid)
	case p.memoryMiB != nil && *p.memoryMiB < 0:
		r.wrong(at("memory_mib"), "memory_mib is %d; it cannot be negative", *p.memoryMiB)
	case p.gpuPercent != nil && (*p.gpuPercent < 0 || *p.gpuPercent > 100):
		r.wrong(at("gpu_percent"), "gpu_percent is %d; it is 0 to 100", *p.gpuPercent)
	case b.Every != "" && b.For == "":
		r.wrong(at("every"), "what comes back has to end in between: set for")
	}
	r.add(s, "process "+content(b))
}
