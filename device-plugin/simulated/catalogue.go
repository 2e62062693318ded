package simulated

import (
	"maps"
	"slices"
)

// model is a GPU product as NVML reports it on a real machine.
type model struct {
	product           string
	architecture      string
	computeCapability float64
	memoryMiB         int64
	powerW            int64
	bar1MiB           int64
	coresClockMHz     int64
	memoryClockMHz    int64
	pciBandwidthMBps  int64 // nominal, x16
	mig               *geometry
}

// geometry is how a board in MIG mode can be cut: eight memory slots and
// seven compute slices on every data-centre board from the A100 on.
type geometry struct {
	// gigabytes and memoryMiB are the name and the real size of a slice that
	// takes 1, 2, 4 or 8 memory slots.
	gigabytes, memoryMiB map[int]int64
}

// Memory sizes are those that nvidia-smi shows on the real boards, except the
// two largest slices of the B200, which are twice and four times the 2g one.
var models = map[string]model{
	"a100-40gb": {
		product: "NVIDIA A100-SXM4-40GB", architecture: "ampere", computeCapability: 8.0,
		memoryMiB: 40536, powerW: 400, bar1MiB: 65536, coresClockMHz: 1410, memoryClockMHz: 1215, pciBandwidthMBps: 32768,
		mig: &geometry{
			gigabytes: map[int]int64{1: 5, 2: 10, 4: 20, 8: 40},
			memoryMiB: map[int]int64{1: 4864, 2: 9856, 4: 19968, 8: 40192},
		},
	},
	"a100-80gb": {
		product: "NVIDIA A100-SXM4-80GB", architecture: "ampere", computeCapability: 8.0,
		memoryMiB: 81920, powerW: 400, bar1MiB: 131072, coresClockMHz: 1410, memoryClockMHz: 1593, pciBandwidthMBps: 32768,
		mig: &geometry{
			gigabytes: map[int]int64{1: 10, 2: 20, 4: 40, 8: 80},
			memoryMiB: map[int]int64{1: 9856, 2: 19968, 4: 40192, 8: 80384},
		},
	},
	"h100": {
		product: "NVIDIA H100 80GB HBM3", architecture: "hopper", computeCapability: 9.0,
		memoryMiB: 81559, powerW: 700, bar1MiB: 131072, coresClockMHz: 1980, memoryClockMHz: 2619, pciBandwidthMBps: 65536,
		mig: &geometry{
			gigabytes: map[int]int64{1: 10, 2: 20, 4: 40, 8: 80},
			memoryMiB: map[int]int64{1: 9984, 2: 20096, 4: 40448, 8: 81152},
		},
	},
	"h200": {
		product: "NVIDIA H200", architecture: "hopper", computeCapability: 9.0,
		memoryMiB: 143771, powerW: 700, bar1MiB: 262144, coresClockMHz: 1980, memoryClockMHz: 3201, pciBandwidthMBps: 65536,
		mig: &geometry{
			gigabytes: map[int]int64{1: 18, 2: 35, 4: 71, 8: 141},
			memoryMiB: map[int]int64{1: 16384, 2: 33024, 4: 71168, 8: 143360},
		},
	},
	"b200": {
		product: "NVIDIA B200", architecture: "blackwell", computeCapability: 10.0,
		memoryMiB: 183359, powerW: 1000, bar1MiB: 262144, coresClockMHz: 1965, memoryClockMHz: 3996, pciBandwidthMBps: 65536,
		mig: &geometry{
			gigabytes: map[int]int64{1: 23, 2: 45, 4: 90, 8: 180},
			memoryMiB: map[int]int64{1: 20992, 2: 45312, 4: 90624, 8: 181248},
		},
	},
	"l4": {
		product: "NVIDIA L4", architecture: "ada", computeCapability: 8.9,
		memoryMiB: 23034, powerW: 72, bar1MiB: 32768, coresClockMHz: 2040, memoryClockMHz: 6251, pciBandwidthMBps: 32768,
	},
	"t4": {
		product: "Tesla T4", architecture: "turing", computeCapability: 7.5,
		memoryMiB: 15360, powerW: 70, bar1MiB: 256, coresClockMHz: 1590, memoryClockMHz: 5001, pciBandwidthMBps: 16384,
	},
}

// servers are the machines of eight boards that presets name.
var servers = map[string]string{
	"dgx-a100":      "a100-40gb",
	"dgx-a100-80gb": "a100-80gb",
	"dgx-h100":      "h100",
	"dgx-h200":      "h200",
	"dgx-b200":      "b200",
}

// busNumbers are the PCI buses of a DGX H100's GPUs; boards beyond the eighth
// get the next free ones.
var busNumbers = []int{0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf}

// Presets are the names that Preset knows, sorted.
func Presets() []string {
	names := slices.Collect(maps.Keys(servers))
	names = slices.AppendSeq(names, maps.Keys(models))
	slices.Sort(names)
	return names
}
