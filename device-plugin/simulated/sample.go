package simulated

import (
	"context"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Sample reads boards and slices. A device is busy while a program is on it,
// in waves of some minutes, with power and temperature that follow; without
// one it idles.
func (s *Source) Sample(ctx context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	t, now, err := s.enter(ctx, s.ownerOf(ids))
	if err != nil {
		return nil, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return nil, err
	}
	wanted := make(map[gpu.ID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	on := s.occupants(t, now, views, s.processes.on())
	samples := make(map[gpu.ID]gpu.Sample, len(ids))
	for _, v := range views {
		if !v.there() {
			continue
		}
		if wanted[v.ID] {
			samples[v.ID] = v.sample(on, v.at(now))
		}
		for _, slice := range v.Slices {
			if !wanted[slice.ID] {
				continue
			}
			c := t.slice(slice.ID, v.loaded, now)
			at := v.at(now)
			if !c.stalled.IsZero() && c.stalled.Before(at) {
				at = c.stalled
			}
			if !c.gone && c.reason == "" {
				samples[slice.ID] = v.sampleSlice(slice, on, at)
			}
		}
	}
	return samples, nil
}

// ownerOf tells of a board whether a call for the devices is about it.
func (s *Source) ownerOf(ids []gpu.ID) func(subject) bool {
	return func(b subject) bool {
		if slices.Contains(ids, b.id) {
			return true
		}
		// Which board a slice is of can change; all that can have any count.
		_, ok := s.machine.boards[b.index].migModel()
		return ok && !slices.ContainsFunc(ids, func(id gpu.ID) bool { return id[:min(len(id), len(slicePrefix))] != slicePrefix })
	}
}

// at is the moment that readings of a board are of: while they are stalled,
// the one when that began.
func (v boardView) at(now time.Time) time.Time {
	if v.stalled.IsZero() {
		return now
	}
	return v.stalled
}

// load is what programs do to a device.
type load struct {
	busy      float64 // 0 to 1
	memoryMiB int64
}

// load is what those on a device with so much memory do.
func (o occupants) load(id gpu.ID, totalMiB int64, now time.Time) load {
	var l load
	for _, p := range o.amounts(id, totalMiB, now) {
		l.busy += float64(*p.GPUPercent) / 100
		l.memoryMiB += *p.MemoryMiB
	}
	return load{min(l.busy, 1), min(l.memoryMiB, totalMiB)}
}

// amounts are the programs on a device with what they take: what the script
// says, or shares of what a program in training takes.
func (o occupants) amounts(id gpu.ID, totalMiB int64, now time.Time) []gpu.Process {
	on := o[id]
	processes := make([]gpu.Process, len(on))
	for i, p := range on {
		processes[i] = p.Process
		memory, percent := p.scriptedMemoryMiB, p.scriptedPercent
		if memory == nil {
			memory = whole(memoryShare(id, now) * float64(totalMiB) / float64(len(on)))
		}
		if percent == nil {
			percent = whole(100 * busyShare(id, now) / float64(len(on)))
		}
		processes[i].MemoryMiB, processes[i].GPUPercent = memory, percent
	}
	return processes
}

// boardLoad is that of a board, its slices' if it is in MIG mode.
func (v boardView) boardLoad(on occupants, now time.Time) load {
	if !v.MIG {
		return on.load(v.ID, v.model.memoryMiB, now)
	}
	var sum load
	for _, slice := range v.Slices {
		l := on.load(slice.ID, *slice.MemoryMiB, now)
		sum.busy += l.busy * float64(*slice.Multiprocessors) / float64(max(v.model.multiprocessors, 1))
		sum.memoryMiB += l.memoryMiB
	}
	return load{min(sum.busy, 1), min(sum.memoryMiB, v.model.memoryMiB)}
}

// sample is that of a board. In MIG mode it does not tell how busy it is.
func (v boardView) sample(on occupants, now time.Time) gpu.Sample {
	m := v.model
	l := v.boardLoad(on, now)
	warm := v.warm(on, now)
	s := gpu.Sample{
		Time:           now,
		TemperatureC:   orReading(v.temperatureC, whole(31+42*warm)),
		MemoryUsedMiB:  whole(float64(l.memoryMiB)),
		MemoryTotalMiB: v.Specs.MemoryMiB, MemoryReservedMiB: whole(float64(m.memoryMiB) * 0.007),
		BAR1TotalMiB:     v.Specs.BAR1MiB,
		PerformanceState: v.performanceState(l.busy),
		EnergyMJ:         v.energyMJ(now),
		PCIeTxKBps:       whole(l.busy * float64(m.pciBandwidthMBps()) * 12), // some percent of the link
		PCIeRxKBps:       whole(l.busy * float64(m.pciBandwidthMBps()) * 31),
	}
	if !v.MIG {
		s.GPUPercent, s.MemoryPercent = whole(100*l.busy), whole(70*l.busy)
		s.EncoderPercent, s.DecoderPercent = whole(0), whole(0)
	}
	if m.hbm {
		s.MemoryTemperatureC = orReading(v.memoryTemperatureC, whole(34+46*warm))
	}
	if m.fan {
		s.FanPercent = whole(30 + 50*warm)
	}
	if m.powerW != 0 {
		s.PowerW = orReading(v.powerW, whole(float64(m.powerW)*(0.12+0.83*l.busy*v.clockShare())))
	}
	if v.Specs.BAR1MiB != nil {
		s.BAR1UsedMiB = whole(4)
	}
	v.clocks(&s, l.busy)
	if m.memoryErrors != withoutECC {
		s.ECCL1, s.ECCL2, s.ECCMemory = whole(0), whole(0), &v.volatile.eccCorrected
	}
	if m.gpm() && !v.MIG {
		s.Profiling = profiling(v.ID, l.busy, now)
		links := float64(0)
		if v.Specs.NVLinkMBps != nil {
			links = float64(*v.Specs.NVLinkMBps) * 1e6
		}
		bus := float64(m.pciBandwidthMBps()) * 1e6
		s.Profiling.PCIeTxBps, s.Profiling.PCIeRxBps = rate(bus*0.012*l.busy), rate(bus*0.031*l.busy)
		s.Profiling.NVLinkTxBps, s.Profiling.NVLinkRxBps = rate(links*0.35*l.busy), rate(links*0.35*l.busy)
	}
	return s
}

// sampleSlice has what NVML tells of a MIG device: its memory, and from Hopper
// on the profiling metrics that are not of the whole board.
func (v boardView) sampleSlice(slice gpu.Slice, on occupants, now time.Time) gpu.Sample {
	l := on.load(slice.ID, *slice.MemoryMiB, now)
	s := gpu.Sample{Time: now, MemoryUsedMiB: whole(float64(l.memoryMiB)), MemoryTotalMiB: slice.MemoryMiB}
	if v.model.gpm() {
		s.Profiling = profiling(slice.ID, l.busy, now)
	}
	return s
}

// profiling are the metrics of a program that trains.
func profiling(id gpu.ID, busy float64, now time.Time) *gpu.Profiling {
	tensor := 0.35 + 0.2*chance(string(id)+strconv.FormatInt(now.Unix()/30, 10))
	return &gpu.Profiling{
		GraphicsActive: rate(busy), SMActive: rate(0.92 * busy), SMOccupancy: rate(0.38 * busy), TensorActive: rate(tensor * busy),
		DRAMActive: rate(0.55 * busy), FP64Active: rate(0), FP32Active: rate(0.12 * busy), FP16Active: rate(0.07 * busy),
	}
}

// clocks fills in the clocks: low while idle, the maximum under load, less
// where they are held down.
func (v boardView) clocks(s *gpu.Sample, busy float64) {
	m := v.model
	if m.coresClockMHz == 0 || m.memoryClockMHz == 0 {
		return
	}
	cores, memory := float64(m.coresClockMHz), float64(m.memoryClockMHz)
	if busy == 0 {
		cores = 345
		switch {
		case !m.hbm:
			memory = 405
		case m.computeCapability < 9:
			cores = 210
		}
	}
	s.SMClockMHz = whole(cores * v.clockShare())
	s.MemoryClockMHz = whole(memory)
	s.VideoClockMHz = whole(0.9 * cores * v.clockShare())
}

// clockShare is what is left of the clocks while they are held down.
func (v boardView) clockShare() float64 {
	for _, t := range v.throttled() {
		switch t {
		case gpu.ThrottleHWSlowdown, gpu.ThrottleHWThermal, gpu.ThrottleHWPowerBrake:
			return 0.5
		case gpu.ThrottleSWPowerCap, gpu.ThrottleSWThermal:
			return 0.8
		}
	}
	return 1
}

// throttled are the reasons for which clocks are held down: those of the
// script, and the hardware's own when the board is too hot.
func (v boardView) throttled() []gpu.ThrottleReason {
	reasons := v.throttle
	if t := v.temperatureC; t != nil && v.model.slowdownC != 0 && *t >= v.model.slowdownC {
		for _, r := range []gpu.ThrottleReason{gpu.ThrottleHWSlowdown, gpu.ThrottleHWThermal} {
			if !slices.Contains(reasons, r) {
				reasons = append(slices.Clip(reasons), r)
			}
		}
	}
	return reasons
}

// performanceState is 8 on boards that save power while idle.
func (v boardView) performanceState(busy float64) *int64 {
	if busy == 0 && !v.model.hbm {
		return whole(8)
	}
	return whole(0)
}

// warm is 0 to 1: the heat sink averages over half a minute.
func (v boardView) warm(on occupants, now time.Time) float64 {
	sum := 0.0
	for _, ago := range []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second} {
		sum += v.boardLoad(on, now.Add(-ago)).busy
	}
	return sum / 3
}

// energyMJ is what the board used since it began anew. It grows by the same
// amount whatever the board does, so that it never falls but by a reset.
func (v boardView) energyMJ(now time.Time) *int64 {
	if v.model.powerW == 0 || v.model.computeCapability < 7 {
		return nil
	}
	n := int64(float64(v.model.powerW) * 0.4 * float64(now.Sub(v.loaded).Milliseconds()))
	return &n
}

// busyShare is 0 to 1: a slow wave, a faster one, and noise that changes every
// five seconds.
func busyShare(id gpu.ID, now time.Time) float64 {
	t := float64(now.UnixMilli()) / 1000
	phase := 2 * math.Pi * chance(string(id))
	noise := chance(string(id) + strconv.FormatInt(now.Unix()/5, 10))
	v := 0.62 + 0.25*math.Sin(2*math.Pi*t/300+phase) + 0.08*math.Sin(2*math.Pi*t/47+3*phase) + 0.1*(noise-0.5)
	return min(max(v, 0), 1)
}

// memoryShare moves between 30 % and 80 % over a quarter of an hour.
func memoryShare(id gpu.ID, now time.Time) float64 {
	t := float64(now.Unix()) / 900
	return 0.55 + 0.25*math.Sin(2*math.Pi*(t+chance(string(id))))
}

// chance is a number in [0, 1) that depends on the text only.
func chance(text string) float64 {
	h := fnv.New64a()
	h.Write([]byte(text)) // never fails
	// FNV's high bits hardly move for short texts that differ at the end.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

func whole(v float64) *int64 {
	n := int64(math.Round(v))
	return &n
}

// rate rounds to what is worth reading.
func rate(v float64) *float64 {
	v = math.Round(v*1000) / 1000
	return &v
}

// orReading is what the script says, or the reading where it says nothing.
func orReading(scripted, reading *int64) *int64 {
	if scripted != nil {
		return scripted
	}
	return reading
}
