package nvml

import (
	"testing"
	"testing/fstest"

	lib "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/nvml/nvmltest"
	"github.com/drover-ml/drover/internal/topology"
)

// bridge gives two boards so many links to each other, from link n on.
func bridge(a, b *nvmltest.Board, from, links int) {
	for _, pair := range [][2]*nvmltest.Board{{a, b}, {b, a}} {
		board, other := pair[0], pair[1]
		next := board.GetNvLinkRemotePciInfoFunc
		for n := from; n < from+links; n++ {
			board.Links[n] = true
		}
		board.GetNvLinkRemoteDeviceTypeFunc = func(int) (lib.IntNvLinkDeviceType, lib.Return) { return lib.NVLINK_DEVICE_TYPE_GPU, lib.SUCCESS }
		board.GetNvLinkRemotePciInfoFunc = func(n int) (lib.PciInfo, lib.Return) {
			if n >= from && n < from+links {
				return other.GetPciInfo()
			}
			return next(n)
		}
	}
}

func TestTopology(t *testing.T) {
	island := func(n int) *int { return &n }
	tests := []struct {
		name    string
		machine func() *nvmltest.Machine
		change  func(m *nvmltest.Machine)
		first   topology.Link // of boards 0 and 1
		far     topology.Link // of boards 0 and 5
		islands []*int        // of boards 0, 1 and 5
	}{
		{
			name: "DGX A100", machine: a100,
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 12, BandwidthMBps: 300_000},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 12, BandwidthMBps: 300_000},
			islands: []*int{island(0), island(0), island(0)},
		},
		{
			name: "DGX H100", machine: h100,
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 18, BandwidthMBps: 450_000},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 18, BandwidthMBps: 450_000},
			islands: []*int{island(0), island(0), island(0)},
		},
		{
			name: "links down", machine: h100,
			change:  func(m *nvmltest.Machine) { m.Boards[1].Links[3], m.Boards[1].Links[4] = false, false },
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 16, BandwidthMBps: 400_000},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 18, BandwidthMBps: 450_000},
			islands: []*int{island(0), island(0), island(0)},
		},
		{
			name: "not in the fabric yet", machine: h100,
			change:  func(m *nvmltest.Machine) { m.Boards[1].Fabric.State = lib.GPU_FABRIC_STATE_IN_PROGRESS },
			first:   topology.Link{Kind: topology.SameNode},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 18, BandwidthMBps: 450_000},
			islands: []*int{island(0), nil, island(0)},
		},
		{
			name: "partitions of the fabric", machine: h100,
			change: func(m *nvmltest.Machine) {
				for _, b := range m.Boards[4:] {
					b.Fabric.CliqueId = 1
				}
			},
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 18, BandwidthMBps: 450_000},
			far:     topology.Link{Kind: topology.System},
			islands: []*int{island(0), island(0), island(1)},
		},
		{
			name: "no NVLink", machine: a100,
			change: func(m *nvmltest.Machine) {
				for _, b := range m.Boards {
					b.Links = nil
				}
			},
			first: topology.Link{Kind: topology.SameNode}, far: topology.Link{Kind: topology.System}, islands: []*int{nil, nil, nil},
		},
		{
			name: "bridges", machine: func() *nvmltest.Machine { return withLinks(0) },
			change: func(m *nvmltest.Machine) {
				bridge(m.Boards[0], m.Boards[1], 0, 4)
				bridge(m.Boards[0], m.Boards[5], 4, 2)
				m.Boards[1].Links[7] = true // to a board that is not there
			},
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 4, BandwidthMBps: 100_000},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 2, BandwidthMBps: 50_000},
			islands: []*int{island(0), island(0), island(0)},
		},
		{
			name: "driver that does not tell switches from boards", machine: a100,
			change: func(m *nvmltest.Machine) {
				m.Lack("nvmlDeviceGetNvLinkRemoteDeviceType")
				for _, b := range m.Boards {
					b.GetNvLinkRemotePciInfoFunc = func(int) (lib.PciInfo, lib.Return) {
						var p lib.PciInfo
						for i, c := range "00000000:C5:00.0" {
							p.BusId[i] = int8(c)
						}
						return p, lib.SUCCESS
					}
				}
			},
			first:   topology.Link{Kind: topology.NVLink, NVLinks: 12, BandwidthMBps: 300_000},
			far:     topology.Link{Kind: topology.NVLink, NVLinks: 12, BandwidthMBps: 300_000},
			islands: []*int{island(0), island(0), island(0)},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.machine()
			if tt.change != nil {
				tt.change(m)
			}
			g, err := sourceOf(t, m).Topology(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for other, want := range map[int]topology.Link{1: tt.first, 5: tt.far} {
				want.A, want.B = m.Boards[0].UUID, m.Boards[other].UUID
				if diff := cmp.Diff(want, g.Between(want.A, want.B)); diff != "" {
					t.Errorf("board 0 and %d (-want +got):\n%s", other, diff)
				}
			}
			if diff := cmp.Diff(tt.islands, []*int{g.GPUs[0].Island, g.GPUs[1].Island, g.GPUs[5].Island}); diff != "" {
				t.Errorf("islands (-want +got):\n%s", diff)
			}
			if len(g.Links) != 28 {
				t.Errorf("%d links of 8 boards", len(g.Links))
			}
		})
	}
}

// TestLocality is that the kernel's word goes before NVML's.
func TestLocality(t *testing.T) {
	one := 1
	tests := []struct {
		name  string
		files fstest.MapFS
		node  *int
		cpus  string
	}{
		{"kernel", fstest.MapFS{
			"sys/bus/pci/devices/0000:07:00.0/numa_node":     {Data: []byte("1\n")},
			"sys/bus/pci/devices/0000:07:00.0/local_cpulist": {Data: []byte("32-63,96-127\n")},
		}, &one, "32-63,96-127"},
		{"kernel of one node", fstest.MapFS{
			"sys/bus/pci/devices/0000:07:00.0/numa_node":     {Data: []byte("-1\n")},
			"sys/bus/pci/devices/0000:07:00.0/local_cpulist": {Data: []byte("0-31\n")},
		}, new(int), "0-31"},
		{"NVML", fstest.MapFS{}, new(int), "0-31,128-159"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := inventory(t, New(Config{Library: a100(), Host: Host{Files: tt.files}})).Boards[0]
			if diff := cmp.Diff(tt.node, b.NUMANode); diff != "" || b.CPUs != tt.cpus {
				t.Errorf("CPUs %q, node (-want +got):\n%s", b.CPUs, diff)
			}
		})
	}
	m := a100()
	m.Lack("nvmlDeviceGetMemoryAffinity", "nvmlDeviceGetCpuAffinity")
	if b := inventory(t, sourceOf(t, m)).Boards[0]; b.NUMANode != nil || b.CPUs != "" {
		t.Errorf("unknown locality is %v, %q", b.NUMANode, b.CPUs)
	}
}

func TestRanges(t *testing.T) {
	tests := []struct {
		words []uint
		want  string
	}{
		{nil, ""}, {[]uint{0}, ""}, {[]uint{1}, "0"}, {[]uint{0b1011}, "0-1,3"}, {[]uint{1 << 63, 1}, "63-64"}, {[]uint{0, 6}, "65-66"},
	}
	for _, tt := range tests {
		if got := topology.FormatCPUs(members(tt.words)); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.words, got, tt.want)
		}
	}
}
