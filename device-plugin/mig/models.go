package mig

import "fmt"

// The tables below are from these places:
//
//   - starts and sizes of boards with eight slots: what `nvidia-smi mig -lgipp`
//     prints on A100 boards. NVIDIA's MIG user guide draws the same for every
//     later board with seven compute slices, so they are taken over for those.
//   - profile names, PCI device IDs and the balanced layouts: the
//     configuration that NVIDIA's mig-parted ships. The numbers of instances
//     are the user guide's.
//   - memory: `nvidia-smi mig -lgip` on real boards, as posted with the
//     changes that added the boards to mig-parted and the GPU operator; it
//     prints GiB with two digits, which name a multiple of 128 MiB exactly.
//     Where no reading is known there is none here. The largest slices of
//     the B200 are computed: twice and four times the 2g one.
//   - media engines: the same readings and the user guide. That the engines of
//     a board's slices add up to at most the board's is derived: it is what
//     makes +me possible once, and +me.all only beside -me.
//   - starts and sizes of RTX PRO 6000 boards are derived from their numbers
//     of instances, as those of the A30, which has as many slots.

// sizes are the figures that differ between boards with eight slots: the
// gigabytes in the names, and the MiB, of slices of 1, 2, 4 and 8 slots. No
// MiB are unknown ones.
type sizes struct {
	gb  [4]string
	mib [4]int64
}

// memory is nil where it is not known.
func memory(mib int64) *int64 {
	if mib == 0 {
		return nil
	}
	return &mib
}

// sevenths makes the profiles of a board with eight memory slots and seven
// compute slices. The last compute slice has a slot's neighbour for itself,
// so slot 7 belongs to slices of several slots only.
func sevenths(s sizes, engines func(compute, size int) Engines) []Profile {
	profile := func(compute, size, max int, suffix string, starts ...int) Profile {
		place := map[int]int{1: 0, 2: 1, 4: 2, 8: 3}[size]
		return Profile{
			Name:    fmt.Sprintf("%dg.%sgb%s", compute, s.gb[place], suffix),
			Compute: compute, Size: size, Max: max, Starts: starts,
			MemoryMiB: memory(s.mib[place]), Engines: engines(compute, size),
		}
	}
	withMedia := profile(1, 1, 1, "+me", 0, 1, 2, 3, 4, 5, 6)
	withMedia.Engines = Engines{Decoders: 1, JPEG: 1, OpticalFlow: 1}
	return []Profile{
		profile(1, 1, 7, "", 0, 1, 2, 3, 4, 5, 6),
		withMedia,
		profile(1, 2, 4, "", 0, 2, 4, 6),
		profile(2, 2, 3, "", 0, 2, 4),
		profile(3, 4, 2, "", 0, 4),
		profile(4, 4, 1, "", 0),
		profile(7, 8, 1, "", 0),
	}
}

// ampereEngines are those of an A100's slices: five decoders, of which one
// slot has none.
func ampereEngines(compute, size int) Engines {
	if compute == 7 {
		return Engines{Decoders: 5, JPEG: 1, OpticalFlow: 1}
	}
	return Engines{Decoders: size / 2}
}

// hopperEngines are those of boards from the H100 on: a decoder and a JPEG
// decoder for each compute slice.
func hopperEngines(compute, _ int) Engines {
	e := Engines{Decoders: compute, JPEG: compute}
	if compute == 7 {
		e.OpticalFlow = 1
	}
	return e
}

// quarters makes the profiles of a board with four slots and as many compute
// slices, from those of one, two and four slots. Sizes that a kind is not
// listed for do not exist.
func quarters(s sizes, kinds []kind) []Profile {
	starts := map[int][]int{1: {0, 1, 2, 3}, 2: {0, 2}, 4: {0}}
	var profiles []Profile
	for place, slots := range []int{1, 2, 4} {
		for _, k := range kinds {
			if k.max[place] == 0 {
				continue
			}
			profiles = append(profiles, Profile{
				Name:    fmt.Sprintf("%dg.%sgb%s", slots, s.gb[place], k.suffix),
				Compute: slots, Size: slots, Max: k.max[place], Starts: starts[slots],
				MemoryMiB: memory(s.mib[place]), Engines: k.engines[place], Graphics: k.suffix == "+gfx",
			})
		}
	}
	return profiles
}

// kind is a suffix of a profile's name and what it means, for slices of 1, 2
// and 4 slots.
type kind struct {
	suffix  string
	max     [3]int
	engines [3]Engines
}

var a30Kinds = []kind{
	{"", [3]int{4, 2, 1}, [3]Engines{{}, {Decoders: 2}, {Decoders: 4, JPEG: 1, OpticalFlow: 1}}},
	{"+me", [3]int{1, 1, 0}, [3]Engines{{1, 0, 1, 1}, {2, 0, 1, 1}}},
}

// rtxKinds are those of RTX PRO 6000 boards. Each quarter has a decoder, an
// encoder and a JPEG decoder; +me.all takes all of the board's into one slice,
// and -me takes none.
var rtxKinds = []kind{
	{"", [3]int{4, 2, 1}, [3]Engines{{1, 1, 1, 0}, {2, 2, 2, 0}, {4, 4, 4, 1}}},
	{"+me", [3]int{1, 1, 0}, [3]Engines{{1, 1, 1, 1}, {2, 2, 2, 1}}},
	{"+gfx", [3]int{4, 2, 1}, [3]Engines{{1, 1, 1, 0}, {2, 2, 2, 0}, {4, 4, 4, 1}}},
	{"+me.all", [3]int{1, 1, 0}, [3]Engines{{4, 4, 4, 1}, {4, 4, 4, 1}}},
	{"-me", [3]int{4, 2, 0}, [3]Engines{{}, {}}},
}

// eight makes a model with eight memory slots.
func eight(name string, s sizes, devices []string, aliases ...string) Model {
	m := Model{Name: name, Slots: 8, Compute: 7, Engines: hopperEngines(7, 8), devices: devices, aliases: aliases}
	engines := hopperEngines
	if name[0] == 'A' { // Ampere: A100, A800
		m.Engines, engines = ampereEngines(7, 8), ampereEngines
	}
	m.Profiles = sevenths(s, engines)
	one, two, three := m.Profiles[0].Name, m.Profiles[3].Name, m.Profiles[4].Name
	m.Balanced = []string{one, one, two, three}
	return m
}

var (
	gb40  = sizes{[4]string{"5", "10", "20", "40"}, [4]int64{4864, 9856, 19968, 40192}}
	gb80  = sizes{[4]string{"10", "20", "40", "80"}, [4]int64{9856, 19968, 40192, 80384}}
	h80   = sizes{[4]string{"10", "20", "40", "80"}, [4]int64{9984, 20096, 40448, 81152}}
	gb94  = sizes{[4]string{"12", "24", "47", "94"}, [4]int64{11008, 22144}}
	gb96  = sizes{gb: [4]string{"12", "24", "48", "96"}}
	gb141 = sizes{[4]string{"18", "35", "71", "141"}, [4]int64{16384, 33024, 71168, 143360}}
	gb144 = sizes{[4]string{"18", "36", "72", "144"}, [4]int64{17920, 36096}}
	gb180 = sizes{[4]string{"23", "45", "90", "180"}, [4]int64{20992, 45312, 90624, 181248}}
	gb186 = sizes{[4]string{"23", "47", "93", "186"}, [4]int64{22528, 46592}}
	gb189 = sizes{gb: [4]string{"24", "47", "95", "189"}}
	gb269 = sizes{gb: [4]string{"34", "67", "135", "269"}}
	gb278 = sizes{gb: [4]string{"35", "70", "139", "278"}}
)

// models are the boards that are known. The aliases of a model are names that
// NVML has for the same board, or for one that is cut alike.
var models = []Model{
	{
		Name: "A30", Slots: 4, Compute: 4, Engines: Engines{Decoders: 4, JPEG: 1, OpticalFlow: 1}, devices: []string{"20B7"},
		Profiles: quarters(sizes{gb: [4]string{"6", "12", "24"}}, a30Kinds),
		Balanced: []string{"1g.6gb", "1g.6gb", "2g.12gb"},
	},
	eight("A100-SXM4-40GB", gb40, []string{"20B0", "20B1"}, "A800-SXM4-40GB"),
	eight("A100-PCIE-40GB", gb40, []string{"20F1", "20F6"}, "A800 40GB"),
	eight("A100-SXM4-80GB", gb80, []string{"20B2", "20F3"}, "A800-SXM4-80GB"),
	eight("A100 80GB PCIe", gb80, []string{"20B5", "20F5"}, "A100-PCIE-80GB", "A800 80GB PCIe"),
	eight("H100 80GB HBM3", h80, []string{"2330", "2324"}, "H100 80GB", "H100 SXM5 80GB", "H800"),
	eight("H100 PCIe", h80, []string{"2331", "2322"}, "H100 80GB PCIe", "H800 PCIe"),
	eight("H100 NVL", gb94, []string{"2321", "233A"}, "H100 94GB", "H100 SXM5 94GB", "H800 NVL"),
	eight("H100 96GB", gb96, []string{"233D", "20B6"}, "H100 SXM5 96GB"),
	eight("H20", gb96, []string{"2329"}),
	eight("H200", gb141, []string{"2335"}),
	eight("H200 NVL", gb141, []string{"233B"}),
	eight("GH200 480GB", gb96, []string{"2342"}, "GH200 120GB", "GH200 96GB"),
	eight("GH200 144G HBM3e", gb144, []string{"2348"}, "GH200 144G", "GH200 144GB"),
	eight("B200", gb180, []string{"2901"}),
	eight("GB200", gb186, []string{"2941"}),
	// The same board with a driver that reports more memory.
	eight("GB200 189GB", gb189, nil),
	eight("B300", gb269, []string{"3182"}),
	eight("GB300", gb278, []string{"31C2"}),
	{
		Name: "RTX PRO 6000 Blackwell", Slots: 4, Compute: 4,
		Engines: Engines{4, 4, 4, 1}, devices: []string{"2BB1", "2BB4", "2BB5"},
		Profiles: quarters(sizes{[4]string{"24", "48", "96"}, [4]int64{24192}}, rtxKinds),
		Balanced: []string{"1g.24gb", "1g.24gb", "2g.48gb"},
	},
}
