package simulated

import (
	"maps"
	"slices"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// model is a GPU product as NVML reports it on a real machine.
type model struct {
	product           string
	architecture      string
	computeCapability float64
	pciDeviceID       string // as NVML packs it: device and vendor
	memoryMiB         int64
	powerW            int64
	bar1MiB           int64
	coresClockMHz     int64
	memoryClockMHz    int64
	pciGeneration     int64 // of sixteen lanes
	multiprocessors   int64
	cores             int64 // per multiprocessor

	// nvlinks is how many links the board has, of nvlinkMBps each in one
	// direction. Whether they lead anywhere is the machine's affair.
	nvlinks, nvlinkMBps int64
	// baseboard is set for boards that come mounted on a baseboard with
	// NVLink between all of them (SXM and its successors).
	baseboard bool
	// memoryErrors is how the board keeps bad memory out of use.
	memoryErrors memoryErrors
	hbm          bool // stacked memory, which has a temperature of its own
	fan          bool
	// savesLanes is set for boards that drop to PCIe 1 while idle.
	savesLanes bool
	// coherent is set for boards whose memory is a NUMA node of the machine.
	coherent               bool
	slowdownC, shutdownC   int64
	pciBandwidthMBpsChosen int64 // of a board file; 0 follows from the generation
}

type memoryErrors int

const (
	withoutECC memoryErrors = iota
	remapsRows              // from Ampere on
	retiresPages
)

// pciBandwidthMBps is nominal, of sixteen lanes: 1024 MB/s a lane of PCIe 3,
// twice that for each later generation.
func (m model) pciBandwidthMBps() int64 {
	switch {
	case m.pciBandwidthMBpsChosen != 0:
		return m.pciBandwidthMBpsChosen
	case m.pciGeneration < 1:
		return 0
	}
	return 16 * 1024 << m.pciGeneration >> 3
}

// migModel is how the board can be cut, if it can.
func (m model) migModel() (mig.Model, bool) {
	return mig.Board{Product: m.product, PCIDeviceID: m.pciDeviceID}.Model()
}

// gpm is set for boards whose driver has profiling metrics without DCGM.
func (m model) gpm() bool { return m.computeCapability >= 9 }

// Names, memory, limits and clocks are those that nvidia-smi shows of the real
// boards, PCI device IDs those of NVIDIA's tables. The temperatures at which
// boards slow down and shut down are typical ones, since they differ between
// boards of a model, and of the GB200 not all numbers could be checked. How
// boards can be cut is package mig's to know.
var models = map[string]model{
	"v100-32gb": {
		product: "Tesla V100-SXM3-32GB", architecture: "volta", computeCapability: 7.0, pciDeviceID: "0x1DB810DE",
		memoryMiB: 32768, powerW: 350, bar1MiB: 32768, coresClockMHz: 1597, memoryClockMHz: 958,
		pciGeneration: 3, multiprocessors: 80, cores: 64, nvlinks: 6, nvlinkMBps: 25781, baseboard: true,
		memoryErrors: retiresPages, hbm: true, slowdownC: 87, shutdownC: 90,
	},
	"t4": {
		product: "Tesla T4", architecture: "turing", computeCapability: 7.5, pciDeviceID: "0x1EB810DE",
		memoryMiB: 15360, powerW: 70, bar1MiB: 256, coresClockMHz: 1590, memoryClockMHz: 5001,
		pciGeneration: 3, multiprocessors: 40, cores: 64, memoryErrors: retiresPages, slowdownC: 93, shutdownC: 96,
	},
	"a30": {
		product: "NVIDIA A30", architecture: "ampere", computeCapability: 8.0, pciDeviceID: "0x20B710DE",
		memoryMiB: 24576, powerW: 165, bar1MiB: 32768, coresClockMHz: 1440, memoryClockMHz: 1215,
		pciGeneration: 4, multiprocessors: 56, cores: 64, nvlinks: 4, nvlinkMBps: 25000,
		memoryErrors: remapsRows, hbm: true, slowdownC: 92, shutdownC: 95,
	},
	"a100-40gb": {
		product: "NVIDIA A100-SXM4-40GB", architecture: "ampere", computeCapability: 8.0, pciDeviceID: "0x20B010DE",
		memoryMiB: 40536, powerW: 400, bar1MiB: 65536, coresClockMHz: 1410, memoryClockMHz: 1215,
		pciGeneration: 4, multiprocessors: 108, cores: 64, nvlinks: 12, nvlinkMBps: 25000, baseboard: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"a100-80gb": {
		product: "NVIDIA A100-SXM4-80GB", architecture: "ampere", computeCapability: 8.0, pciDeviceID: "0x20B210DE",
		memoryMiB: 81920, powerW: 400, bar1MiB: 131072, coresClockMHz: 1410, memoryClockMHz: 1593,
		pciGeneration: 4, multiprocessors: 108, cores: 64, nvlinks: 12, nvlinkMBps: 25000, baseboard: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"a100-pcie-40gb": {
		product: "NVIDIA A100-PCIE-40GB", architecture: "ampere", computeCapability: 8.0, pciDeviceID: "0x20F110DE",
		memoryMiB: 40960, powerW: 250, bar1MiB: 65536, coresClockMHz: 1410, memoryClockMHz: 1215,
		pciGeneration: 4, multiprocessors: 108, cores: 64, nvlinks: 12, nvlinkMBps: 25000,
		memoryErrors: remapsRows, hbm: true, slowdownC: 92, shutdownC: 95,
	},
	"a100-pcie-80gb": {
		product: "NVIDIA A100 80GB PCIe", architecture: "ampere", computeCapability: 8.0, pciDeviceID: "0x20B510DE",
		memoryMiB: 81920, powerW: 300, bar1MiB: 131072, coresClockMHz: 1410, memoryClockMHz: 1512,
		pciGeneration: 4, multiprocessors: 108, cores: 64, nvlinks: 12, nvlinkMBps: 25000,
		memoryErrors: remapsRows, hbm: true, slowdownC: 92, shutdownC: 95,
	},
	"h100": {
		product: "NVIDIA H100 80GB HBM3", architecture: "hopper", computeCapability: 9.0, pciDeviceID: "0x233010DE",
		memoryMiB: 81559, powerW: 700, bar1MiB: 131072, coresClockMHz: 1980, memoryClockMHz: 2619,
		pciGeneration: 5, multiprocessors: 132, cores: 128, nvlinks: 18, nvlinkMBps: 26562, baseboard: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"h100-pcie": {
		product: "NVIDIA H100 PCIe", architecture: "hopper", computeCapability: 9.0, pciDeviceID: "0x233110DE",
		memoryMiB: 81559, powerW: 350, bar1MiB: 131072, coresClockMHz: 1755, memoryClockMHz: 1593,
		pciGeneration: 5, multiprocessors: 114, cores: 128, nvlinks: 12, nvlinkMBps: 26562,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"h100-nvl": {
		product: "NVIDIA H100 NVL", architecture: "hopper", computeCapability: 9.0, pciDeviceID: "0x232110DE",
		memoryMiB: 95830, powerW: 400, bar1MiB: 131072, coresClockMHz: 1785, memoryClockMHz: 2619,
		pciGeneration: 5, multiprocessors: 132, cores: 128, nvlinks: 12, nvlinkMBps: 26562,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"h200": {
		product: "NVIDIA H200", architecture: "hopper", computeCapability: 9.0, pciDeviceID: "0x233510DE",
		memoryMiB: 143771, powerW: 700, bar1MiB: 262144, coresClockMHz: 1980, memoryClockMHz: 3201,
		pciGeneration: 5, multiprocessors: 132, cores: 128, nvlinks: 18, nvlinkMBps: 26562, baseboard: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"b200": {
		product: "NVIDIA B200", architecture: "blackwell", computeCapability: 10.0, pciDeviceID: "0x290110DE",
		memoryMiB: 183359, powerW: 1000, bar1MiB: 262144, coresClockMHz: 1965, memoryClockMHz: 3996,
		pciGeneration: 5, multiprocessors: 148, cores: 128, nvlinks: 18, nvlinkMBps: 53125, baseboard: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"gb200": {
		product: "NVIDIA GB200", architecture: "blackwell", computeCapability: 10.0, pciDeviceID: "0x294110DE",
		memoryMiB: 189471, powerW: 1200, bar1MiB: 262144, coresClockMHz: 2062, memoryClockMHz: 3996,
		pciGeneration: 5, multiprocessors: 152, cores: 128, nvlinks: 18, nvlinkMBps: 53125, baseboard: true, coherent: true,
		memoryErrors: remapsRows, hbm: true, slowdownC: 89, shutdownC: 92,
	},
	"l4": {
		product: "NVIDIA L4", architecture: "ada", computeCapability: 8.9, pciDeviceID: "0x27B810DE",
		memoryMiB: 23034, powerW: 72, bar1MiB: 32768, coresClockMHz: 2040, memoryClockMHz: 6251,
		pciGeneration: 4, multiprocessors: 58, cores: 128, memoryErrors: remapsRows, slowdownC: 89, shutdownC: 92,
	},
	"l40s": {
		product: "NVIDIA L40S", architecture: "ada", computeCapability: 8.9, pciDeviceID: "0x26B910DE",
		memoryMiB: 46068, powerW: 350, bar1MiB: 65536, coresClockMHz: 2520, memoryClockMHz: 9001,
		pciGeneration: 4, multiprocessors: 142, cores: 128, memoryErrors: remapsRows, slowdownC: 89, shutdownC: 92,
	},
	"rtx-a6000": {
		product: "NVIDIA RTX A6000", architecture: "ampere", computeCapability: 8.6, pciDeviceID: "0x223010DE",
		memoryMiB: 49140, powerW: 300, bar1MiB: 65536, coresClockMHz: 2100, memoryClockMHz: 8001,
		pciGeneration: 4, multiprocessors: 84, cores: 128, nvlinks: 4, nvlinkMBps: 14062,
		memoryErrors: remapsRows, fan: true, savesLanes: true, slowdownC: 95, shutdownC: 98,
	},
	"rtx-6000-ada": {
		product: "NVIDIA RTX 6000 Ada Generation", architecture: "ada", computeCapability: 8.9, pciDeviceID: "0x26B110DE",
		memoryMiB: 49140, powerW: 300, bar1MiB: 65536, coresClockMHz: 3105, memoryClockMHz: 10001,
		pciGeneration: 4, multiprocessors: 142, cores: 128,
		memoryErrors: remapsRows, fan: true, savesLanes: true, slowdownC: 95, shutdownC: 98,
	},
	"rtx-pro-6000": {
		product:      "NVIDIA RTX PRO 6000 Blackwell Server Edition",
		architecture: "blackwell", computeCapability: 12.0, pciDeviceID: "0x2BB510DE",
		memoryMiB: 97887, powerW: 600, bar1MiB: 131072, coresClockMHz: 2430, memoryClockMHz: 12481,
		pciGeneration: 5, multiprocessors: 188, cores: 128, memoryErrors: remapsRows, slowdownC: 92, shutdownC: 95,
	},
	"rtx-4090": {
		product: "NVIDIA GeForce RTX 4090", architecture: "ada", computeCapability: 8.9, pciDeviceID: "0x268410DE",
		memoryMiB: 24564, powerW: 450, bar1MiB: 32768, coresClockMHz: 3105, memoryClockMHz: 10501,
		pciGeneration: 4, multiprocessors: 128, cores: 128, fan: true, savesLanes: true, slowdownC: 95, shutdownC: 100,
	},
	"rtx-5090": {
		product: "NVIDIA GeForce RTX 5090", architecture: "blackwell", computeCapability: 12.0, pciDeviceID: "0x2B8510DE",
		memoryMiB: 32607, powerW: 575, bar1MiB: 32768, coresClockMHz: 3090, memoryClockMHz: 14001,
		pciGeneration: 5, multiprocessors: 170, cores: 128, fan: true, savesLanes: true, slowdownC: 95, shutdownC: 100,
	},
}

// Presets are the names that Preset knows, sorted.
func Presets() []string {
	names := slices.Collect(maps.Keys(servers))
	names = slices.AppendSeq(names, maps.Keys(models))
	slices.Sort(names)
	return names
}
