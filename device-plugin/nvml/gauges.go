package nvml

import (
	"math"
	"sync"
	"time"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

const (
	// profilingPeriod is the least time between the two readings that
	// profiling metrics are the difference of; the driver wants a tenth of a
	// second. Who asks sooner gets the metrics of before.
	profilingPeriod = 250 * time.Millisecond
	// throughputPeriod is how often PCIe throughput is measured on boards
	// without counters of it: for that the driver holds the caller up for a
	// fiftieth of a second in each direction.
	throughputPeriod = 5 * time.Second
	// gaugeFor is for how long a device that nobody asks for is remembered.
	gaugeFor = 10 * time.Minute
)

// gauges remember of each device the readings that the next one is compared
// with.
type gauges struct {
	mu      sync.Mutex
	devices map[gpu.ID]*gauge
}

// gauge is that of one device.
type gauge struct {
	used time.Time

	unprofiled      bool // the device has no profiling metrics
	before, current lib.GpmSample
	sampledAt       time.Time // of before; zero if there is none
	profiling       *gpu.Profiling

	measuredAt   time.Time
	tx, rx       *int64 // bytes so far, at measuredAt
	txKBps, rxKB *int64
}

// with calls do with a device's gauge. It forgets those that are no longer
// asked for.
func (g *gauges) with(id gpu.ID, free func(lib.GpmSample), do func(*gauge)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	one, ok := g.devices[id]
	if !ok {
		for old, stale := range g.devices {
			if now.Sub(stale.used) > gaugeFor {
				stale.release(free)
				delete(g.devices, old)
			}
		}
		if g.devices == nil {
			g.devices = make(map[gpu.ID]*gauge)
		}
		one = &gauge{}
		g.devices[id] = one
	}
	one.used = now
	do(one)
}

// forget releases everything, before the library goes.
func (g *gauges) forget(free func(lib.GpmSample)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range g.devices {
		one.release(free)
	}
	g.devices = nil
}

func (g *gauge) release(free func(lib.GpmSample)) {
	for _, s := range []lib.GpmSample{g.before, g.current} {
		if s != nil {
			free(s)
		}
	}
	g.before, g.current = nil, nil
}

func (s *Source) freeSample(sample lib.GpmSample) {
	if s.has("nvmlGpmSampleFree") {
		sample.Free()
	}
}

// pcieKBps is what went over PCIe per second, in units of 1000 bytes: since
// the reading before by the board's counters, or where it has none, as the
// driver measures it.
func (r *reader) pcieKBps(d lib.Device, g *gauge, tx, rx *int64, now time.Time) (txKBps, rxKBps *int64) {
	if tx != nil && rx != nil {
		elapsed := now.Sub(g.measuredAt)
		if g.tx != nil && elapsed < profilingPeriod {
			return g.txKBps, g.rxKB
		}
		if g.tx != nil {
			g.txKBps, g.rxKB = rate(*g.tx, *tx, elapsed), rate(*g.rx, *rx, elapsed)
		}
		g.tx, g.rx, g.measuredAt = tx, rx, now
		return g.txKBps, g.rxKB
	}
	if g.measuredAt.IsZero() || now.Sub(g.measuredAt) >= throughputPeriod {
		measure := func(direction lib.PcieUtilCounter) *int64 {
			return number(read(r, func() (uint32, lib.Return) { return d.GetPcieThroughput(direction) }, "nvmlDeviceGetPcieThroughput"))
		}
		g.txKBps, g.rxKB = measure(lib.PCIE_UTIL_TX_BYTES), measure(lib.PCIE_UTIL_RX_BYTES)
		g.measuredAt = now
	}
	return g.txKBps, g.rxKB
}

// rate is nil if the counter began anew.
func rate(from, to int64, elapsed time.Duration) *int64 {
	if to < from || elapsed <= 0 {
		return nil
	}
	return integer(int64(float64(to-from) / 1000 / elapsed.Seconds()))
}

const mebibyte = 1 << 20

// profilingMetrics are what is asked of the driver, and what makes it a share
// of 1 or bytes per second.
var profilingMetrics = []struct {
	id    lib.GpmMetricId
	scale float64
	of    func(*gpu.Profiling) **float64
}{
	{lib.GPM_METRIC_GRAPHICS_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.GraphicsActive }},
	{lib.GPM_METRIC_SM_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.SMActive }},
	{lib.GPM_METRIC_SM_OCCUPANCY, .01, func(p *gpu.Profiling) **float64 { return &p.SMOccupancy }},
	{lib.GPM_METRIC_ANY_TENSOR_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.TensorActive }},
	{lib.GPM_METRIC_DRAM_BW_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.DRAMActive }},
	{lib.GPM_METRIC_FP64_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.FP64Active }},
	{lib.GPM_METRIC_FP32_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.FP32Active }},
	{lib.GPM_METRIC_FP16_UTIL, .01, func(p *gpu.Profiling) **float64 { return &p.FP16Active }},
	{lib.GPM_METRIC_PCIE_TX_PER_SEC, mebibyte, func(p *gpu.Profiling) **float64 { return &p.PCIeTxBps }},
	{lib.GPM_METRIC_PCIE_RX_PER_SEC, mebibyte, func(p *gpu.Profiling) **float64 { return &p.PCIeRxBps }},
	{lib.GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, mebibyte, func(p *gpu.Profiling) **float64 { return &p.NVLinkTxBps }},
	{lib.GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, mebibyte, func(p *gpu.Profiling) **float64 { return &p.NVLinkRxBps }},
}

// profiling are the metrics between the reading before and one that take makes
// now; nil at the first, and on boards without them.
func (r *reader) profiling(g *gauge, now time.Time, take func(lib.GpmSample) lib.Return, board lib.Device) *gpu.Profiling {
	if g.unprofiled {
		return nil
	}
	if !g.sampledAt.IsZero() && now.Sub(g.sampledAt) < profilingPeriod {
		return g.profiling
	}
	if g.before == nil && !r.startProfiling(g, board) {
		return nil
	}
	if ret := take(g.current); ret != lib.SUCCESS {
		r.note(ret)
		if ret == lib.ERROR_NOT_SUPPORTED {
			g.unprofiled = true
		}
		g.sampledAt, g.profiling = time.Time{}, nil
		return nil
	}
	if g.sampledAt.IsZero() {
		g.profiling = nil
	} else {
		g.profiling = r.metricsBetween(g.before, g.current)
	}
	g.before, g.current, g.sampledAt = g.current, g.before, now
	return g.profiling
}

// startProfiling finds out whether a board has the metrics, and makes room for
// two readings of it.
func (r *reader) startProfiling(g *gauge, board lib.Device) bool {
	for _, symbol := range []string{
		"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlGpmSampleFree",
	} {
		if !r.has(symbol) {
			g.unprofiled = true
			return false
		}
	}
	support := read(r, board.GpmQueryDeviceSupport, "nvmlGpmQueryDeviceSupport")
	if support == nil || support.IsSupportedDevice == 0 {
		g.unprofiled = true
		return false
	}
	for _, sample := range []*lib.GpmSample{&g.before, &g.current} {
		s, ret := r.lib.GpmSampleAlloc()
		if ret != lib.SUCCESS {
			g.release(r.freeSample)
			return false
		}
		*sample = s
	}
	return true
}

func (r *reader) metricsBetween(before, after lib.GpmSample) *gpu.Profiling {
	q := lib.GpmMetricsGetType{NumMetrics: uint32(len(profilingMetrics)), Sample1: before, Sample2: after}
	for i, m := range profilingMetrics {
		q.Metrics[i].MetricId = uint32(m.id)
	}
	if ret := r.lib.GpmMetricsGet(&q); ret != lib.SUCCESS {
		return nil
	}
	var p gpu.Profiling
	for i, m := range profilingMetrics {
		got := q.Metrics[i]
		if lib.Return(got.NvmlReturn) == lib.SUCCESS && !math.IsNaN(got.Value) && !math.IsInf(got.Value, 0) {
			v := got.Value * m.scale
			*m.of(&p) = &v
		}
	}
	if p == (gpu.Profiling{}) {
		return nil
	}
	return &p
}
