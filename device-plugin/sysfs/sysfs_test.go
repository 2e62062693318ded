package sysfs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/drover-ml/drover/device-plugin/sysfs"
	"github.com/drover-ml/drover/internal/topology"
)

// tree is a /sys that a test builds.
type tree fstest.MapFS

func (t tree) file(name, content string) {
	t[name] = &fstest.MapFile{Data: []byte(content + "\n"), Mode: 0o444}
}

// link makes a link as the kernel does, relative to where it is.
func (t tree) link(name, target string) {
	up := strings.Repeat("../", strings.Count(name, "/"))
	t[name] = &fstest.MapFile{Data: []byte(up + target), Mode: fs.ModeSymlink | 0o777}
}

// pci adds a device below devices/, by the addresses on the way to it.
func (t tree) pci(node int, at ...string) string {
	dir := path.Join("devices", path.Join(at...))
	t.file(path.Join(dir, "numa_node"), fmt.Sprint(node))
	t.file(path.Join(dir, "local_cpulist"), fmt.Sprintf("%d-%d", 8*node, 8*node+7))
	t.link("bus/pci/devices/"+at[len(at)-1], dir)
	return dir
}

// netdev adds an interface of a device.
func (t tree) netdev(name, device string, files map[string]string) {
	dir := path.Join(device, "net", name)
	for file, content := range files {
		t.file(path.Join(dir, file), content)
	}
	t.link(path.Join(dir, "device"), device)
	t.link("class/net/"+name, dir)
}

// rdma adds an RDMA device of a device, with one port.
func (t tree) rdma(name, device string, files map[string]string) {
	dir := path.Join(device, "infiniband", name)
	for file, content := range files {
		t.file(path.Join(dir, "ports/1", file), content)
	}
	t.link(path.Join(dir, "device"), device)
	t.link("class/infiniband/"+name, dir)
}

func (t tree) fs() fs.FS { return fstest.MapFS(t) }

var active = map[string]string{"state": "4: ACTIVE", "phys_state": "5: LinkUp", "rate": "400 Gb/sec (4X NDR)", "link_layer": "InfiniBand"}

func ptr[T any](v T) *T { return &v }

func TestNetwork(t *testing.T) {
	sys := tree{}
	sys.netdev("ens1f0", sys.pci(1, "pci0000:80", "0000:80:01.0", "0000:81:00.0"), map[string]string{
		"operstate": "up", "carrier": "1", "speed": "100000", "carrier_changes": "3", "statistics/rx_bytes": "123456789012",
		"statistics/tx_bytes": "17", "statistics/rx_errors": "0", "statistics/tx_dropped": "4",
	})
	sys.netdev("ens2", sys.pci(-1, "pci0000:00", "0000:00:03.0"), map[string]string{"operstate": "down", "speed": "-1"})
	sys.netdev("eth0", "devices/pci0000:00/0000:00:04.0/virtio1", map[string]string{"carrier": "0"})
	sys.file("devices/virtual/net/lo/operstate", "unknown")
	sys.link("class/net/lo", "devices/virtual/net/lo")
	sys.file("class/net/bonding_masters", "")
	for name, target := range map[string]string{"loop0": "class/net/loop1", "loop1": "class/net/loop0", "out": "../../etc", "nowhere": "devices/gone"} {
		sys.link("class/net/"+name, target)
	}

	got, err := sysfs.Network(sys.fs())
	if err != nil {
		t.Fatal(err)
	}
	want := []sysfs.Interface{
		{
			Name: "ens1f0", PCIBusID: "00000000:81:00.0", NUMANode: ptr(1), State: "up", Carrier: ptr(true), SpeedMbps: ptr(int64(100000)),
			RxBytes: ptr(int64(123456789012)), TxBytes: ptr(int64(17)), RxErrors: ptr(int64(0)), TxDropped: ptr(int64(4)), CarrierChanges: ptr(int64(3)),
		},
		{Name: "ens2", PCIBusID: "00000000:00:03.0", State: "down"},
		{Name: "eth0", PCIBusID: "00000000:00:04.0", State: "unknown", Carrier: ptr(false)},
	}
	// The parent of a virtio device is not in this tree, so it has no node.
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	if _, err := sysfs.Network(tree{}.fs()); err == nil {
		t.Error("no error of a /sys without network interfaces")
	}
}

func TestRDMA(t *testing.T) {
	sys := tree{}
	card := sys.pci(0, "pci0000:16", "0000:16:01.0", "0000:17:00.0")
	sys.rdma("mlx5_0", card, active)
	sys.netdev("ib0", card, nil)
	for name, content := range map[string]string{
		"counters/port_rcv_data": "250", "counters/port_xmit_data": "9", "counters/symbol_error": "0",
		"hw_counters/out_of_sequence": "12", "hw_counters/lifespan": "nonsense",
	} {
		sys.file(path.Join(card, "infiniband/mlx5_0/ports/1", name), content)
	}
	sys.rdma("mlx5_1", sys.pci(-1, "pci0000:16", "0000:16:02.0", "0000:18:00.0"), map[string]string{"state": "1: DOWN", "rate": "2.5 Gb/sec (1X SDR)"})

	got := sysfs.RDMA(sys.fs())
	want := []sysfs.RDMADevice{
		{Name: "mlx5_0", PCIBusID: "00000000:17:00.0", NUMANode: ptr(0), Netdevs: []string{"ib0"}, Ports: []sysfs.Port{{
			Number: 1, State: "ACTIVE", PhysicalState: "LinkUp", LinkLayer: "InfiniBand", RateMbps: ptr(int64(400000)),
			Counters: map[string]int64{"port_rcv_data": 250, "port_xmit_data": 9, "symbol_error": 0, "out_of_sequence": 12},
		}}},
		{Name: "mlx5_1", PCIBusID: "00000000:18:00.0", Ports: []sysfs.Port{{
			Number: 1, State: "DOWN", RateMbps: ptr(int64(2500)), Counters: map[string]int64{},
		}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	port := got[0].Ports[0]
	if n := port.ReceivedBytes(); n == nil || *n != 1000 {
		t.Errorf("received %v bytes, want 1000", n)
	}
	if n := got[1].Ports[0].TransmittedBytes(); n != nil {
		t.Errorf("transmitted %d bytes where none are counted", *n)
	}
}

func TestComplete(t *testing.T) {
	const (
		gpu0, gpu1, gpu2, gpu3 = "GPU-0", "GPU-1", "GPU-2", "GPU-3"
		host, root             = "pci0000:15", "0000:15:01.0"
	)
	sys := tree{}
	// Two switches below one port: GPU 0 with mlx5_0 on the first, GPU 1 on the
	// second. GPU 2 is on another port of the host bridge; GPU 3 far away.
	sys.pci(0, host, root, "0000:16:00.0", "0000:17:00.0", "0000:18:00.0", "0000:19:00.0", "0000:1a:00.0")
	sys.rdma("mlx5_0", sys.pci(0, host, root, "0000:16:00.0", "0000:17:00.0", "0000:18:00.0", "0000:19:01.0", "0000:1b:00.0"), active)
	sys.pci(0, host, root, "0000:16:00.0", "0000:17:01.0", "0000:1c:00.0", "0000:1d:00.0", "0000:1e:00.0")
	sys.pci(0, host, "0000:15:02.0", "0000:1f:00.0")
	sys.pci(1, "pci0000:80", "0000:80:01.0", "0000:81:00.0")
	sys.netdev("ens9", sys.pci(0, "pci0000:30", "0000:30:01.0", "0000:31:00.0"), map[string]string{"operstate": "down"})
	sys.netdev("eth0", "devices/platform/usb", nil)
	sys.rdma("rxe0", "devices/virtual/rxe", active)

	g := sysfs.Complete(sys.fs(), topology.Graph{
		GPUs: []topology.GPU{
			{ID: gpu0, PCIBusID: "00000000:1A:00.0"}, {ID: gpu1, PCIBusID: "00000000:1E:00.0", CPUs: "0-3"},
			{ID: gpu2, PCIBusID: "0000:1f:00.0"}, {ID: gpu3, PCIBusID: "00000000:81:00.0"}, {ID: "GPU-gone", PCIBusID: "00000000:99:00.0"},
		},
		Links: []topology.Link{{A: gpu0, B: gpu2, Kind: topology.NVLink, NVLinks: 4}},
	})
	wantNICs := []topology.NIC{
		{Name: "mlx5_0", PCIBusID: "00000000:1B:00.0", NUMANode: ptr(0), RDMA: true},
		{Name: "ens9", Netdev: "ens9", PCIBusID: "00000000:31:00.0", NUMANode: ptr(0), Down: true},
	}
	if diff := cmp.Diff(wantNICs, g.NICs); diff != "" {
		t.Errorf("NICs (-want +got):\n%s", diff)
	}
	for _, want := range []struct {
		a, b, link string
	}{
		{gpu0, gpu1, "PXB"}, {gpu0, gpu2, "NV4"}, {gpu1, gpu2, "PHB"}, {gpu0, gpu3, "SYS"},
		{gpu0, "mlx5_0", "PIX"}, {gpu1, "mlx5_0", "PXB"}, {gpu2, "mlx5_0", "PHB"}, {gpu3, "mlx5_0", "SYS"}, {gpu0, "ens9", "NODE"}, {"mlx5_0", "ens9", "NODE"},
		{gpu0, "GPU-gone", ""}, {"GPU-gone", "mlx5_0", ""},
	} {
		if got := g.Between(want.a, want.b).String(); got != want.link {
			t.Errorf("%s to %s is %q, want %q", want.a, want.b, got, want.link)
		}
	}
	if g.GPUs[0].CPUs != "0-7" || g.GPUs[1].CPUs != "0-3" || g.GPUs[3].NUMANode == nil || *g.GPUs[3].NUMANode != 1 {
		t.Errorf("GPUs %+v", g.GPUs)
	}
}

// FuzzAttributes has a machine whose attributes are anything.
func FuzzAttributes(f *testing.F) {
	for _, text := range []string{"0", "-1", "up", "4: ACTIVE", "400 Gb/sec (4X NDR)", "1e999 Gb/sec", "0000:1a:00.0", "99999999999999999999", ":"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sys := tree{}
		card := sys.pci(0, "pci0000:16", "0000:17:00.0")
		for _, name := range []string{"numa_node", "local_cpulist"} {
			sys.file(path.Join(card, name), text)
		}
		files := map[string]string{}
		for _, name := range []string{"operstate", "carrier", "speed", "statistics/rx_bytes", "state", "phys_state", "rate", "link_layer", "counters/port_rcv_data"} {
			files[name] = text
		}
		sys.netdev("ens1", card, files)
		sys.rdma("mlx5_0", card, files)
		interfaces, err := sysfs.Network(sys.fs())
		if err != nil || len(interfaces) != 1 || interfaces[0].NUMANode != nil && *interfaces[0].NUMANode < 0 {
			t.Fatalf("interfaces %+v, %v", interfaces, err)
		}
		for _, v := range []*int64{interfaces[0].RxBytes, interfaces[0].SpeedMbps, sysfs.RDMA(sys.fs())[0].Ports[0].RateMbps} {
			if v != nil && *v < 0 {
				t.Errorf("%q is %d", text, *v)
			}
		}
		sysfs.Complete(sys.fs(), topology.Graph{GPUs: []topology.GPU{{ID: "a", PCIBusID: text}, {ID: "b", PCIBusID: "00000000:17:00.0"}}})
	})
}

// TestThisMachine reads the /sys of the machine that the test runs on.
func TestThisMachine(t *testing.T) {
	sys := os.DirFS("/sys")
	if _, err := fs.Stat(sys, "class/net"); err != nil {
		t.Skipf("this machine shows no /sys: %v", err)
	}
	interfaces, err := sysfs.Network(sys)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.RxBytes == nil {
			t.Errorf("%s counts nothing", i.Name)
		}
	}
	sysfs.RDMA(sys)
	sysfs.Complete(sys, topology.Graph{})
}
