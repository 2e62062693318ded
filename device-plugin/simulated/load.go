package simulated

import (
	"hash/fnv"
	"math"
	"strconv"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// sampleBoard is a board that trains: busy in waves of some minutes, with
// power and temperature that follow. It depends on the board's ID and the time
// only.
func sampleBoard(b gpu.Board, now time.Time) gpu.Sample {
	busy := busyShare(b.ID, now)
	// The heat sink averages over half a minute.
	warm := (busyShare(b.ID, now.Add(-10*time.Second)) + busyShare(b.ID, now.Add(-20*time.Second)) + busyShare(b.ID, now.Add(-30*time.Second))) / 3
	s := gpu.Sample{
		Time:           now,
		GPUPercent:     whole(100 * busy),
		MemoryPercent:  whole(70 * busy),
		EncoderPercent: whole(0),
		DecoderPercent: whole(0),
		TemperatureC:   whole(31 + 42*warm),
		ECCL1:          whole(0),
		ECCL2:          whole(0),
		ECCMemory:      whole(0),
		MemoryUsedMiB:  memoryUsed(b.ID, b.Specs.MemoryMiB, now),
		MemoryTotalMiB: b.Specs.MemoryMiB,
		BAR1TotalMiB:   b.Specs.BAR1MiB,
	}
	if p := b.Specs.PowerW; p != nil {
		s.PowerW = whole(float64(*p) * (0.12 + 0.83*busy))
	}
	if b.Specs.BAR1MiB != nil {
		s.BAR1UsedMiB = whole(4)
	}
	return s
}

// sampleSlice has what NVML tells of a MIG device: its memory, and nothing
// else.
func sampleSlice(slice gpu.Slice, now time.Time) gpu.Sample {
	return gpu.Sample{
		Time:           now,
		MemoryUsedMiB:  memoryUsed(slice.ID, slice.MemoryMiB, now),
		MemoryTotalMiB: slice.MemoryMiB,
	}
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

// memoryUsed moves between 30 % and 80 % over a quarter of an hour.
func memoryUsed(id gpu.ID, totalMiB *int64, now time.Time) *int64 {
	if totalMiB == nil {
		return nil
	}
	t := float64(now.Unix()) / 900
	share := 0.55 + 0.25*math.Sin(2*math.Pi*(t+chance(string(id))))
	return whole(share * float64(*totalMiB))
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
