package metrics

import (
	"maps"
	"slices"
	"strconv"

	"github.com/drover-ml/drover/device-plugin/sysfs"
)

// Bounds on what is shown of the network.
const (
	maxInterfaces = 64
	maxPorts      = 64
	maxCounters   = 80 // of one port
)

// ofInterfaces are the counters of network interfaces.
var ofInterfaces = []field[*sysfs.Interface]{
	{"drover_node_network_up", gauge, "Whether the interface is up.", func(i *sysfs.Interface) (float64, bool) {
		return yes(i.State == "up"), i.State != "" && i.State != "unknown"
	}},
	{"drover_node_network_carrier", gauge, "Whether the interface has a partner.", func(i *sysfs.Interface) (float64, bool) {
		if i.Carrier == nil {
			return 0, false
		}
		return yes(*i.Carrier), true
	}},
	{"drover_node_network_speed_bytes", gauge, "Speed of the interface in bytes per second.", func(i *sysfs.Interface) (float64, bool) {
		mbps, ok := integer(i.SpeedMbps)
		return mbps * 1e6 / 8, ok
	}},
	ofInterface("receive_bytes", "Bytes received.", func(i *sysfs.Interface) *int64 { return i.RxBytes }),
	ofInterface("transmit_bytes", "Bytes sent.", func(i *sysfs.Interface) *int64 { return i.TxBytes }),
	ofInterface("receive_packets", "Packets received.", func(i *sysfs.Interface) *int64 { return i.RxPackets }),
	ofInterface("transmit_packets", "Packets sent.", func(i *sysfs.Interface) *int64 { return i.TxPackets }),
	ofInterface("receive_errs", "Errors while receiving.", func(i *sysfs.Interface) *int64 { return i.RxErrors }),
	ofInterface("transmit_errs", "Errors while sending.", func(i *sysfs.Interface) *int64 { return i.TxErrors }),
	ofInterface("receive_drop", "Packets received and dropped.", func(i *sysfs.Interface) *int64 { return i.RxDropped }),
	ofInterface("transmit_drop", "Packets dropped before they were sent.", func(i *sysfs.Interface) *int64 { return i.TxDropped }),
	ofInterface("carrier_changes", "How often the partner was lost and found.", func(i *sysfs.Interface) *int64 { return i.CarrierChanges }),
}

func ofInterface(name, help string, get func(*sysfs.Interface) *int64) field[*sysfs.Interface] {
	return field[*sysfs.Interface]{"drover_node_network_" + name + "_total", counter, help,
		func(i *sysfs.Interface) (float64, bool) { return integer(get(i)) }}
}

// ofPorts are what all RDMA ports have, whatever the driver.
var ofPorts = []field[*sysfs.Port]{
	{"drover_node_rdma_up", gauge, "Whether the port carries traffic.", func(p *sysfs.Port) (float64, bool) {
		return yes(p.Active()), p.State != ""
	}},
	{"drover_node_rdma_rate_bytes", gauge, "Speed of the port in bytes per second.", func(p *sysfs.Port) (float64, bool) {
		mbps, ok := integer(p.RateMbps)
		return mbps * 1e6 / 8, ok
	}},
	{"drover_node_rdma_received_bytes_total", counter, "Bytes received.", func(p *sysfs.Port) (float64, bool) {
		return integer(p.ReceivedBytes())
	}},
	{"drover_node_rdma_transmitted_bytes_total", counter, "Bytes sent.", func(p *sysfs.Port) (float64, bool) {
		return integer(p.TransmittedBytes())
	}},
}

// writeNetwork writes the node's network cards. Its names differ from those of
// node_exporter, which may run beside and must not be counted twice.
func (p *page) writeNetwork(t *text) {
	if !p.fresh("network", p.ages.Network) {
		return
	}
	interfaces := p.network[:min(len(p.network), maxInterfaces)]
	for _, f := range ofInterfaces {
		t.family(f.name, f.kind, f.help)
		for n := range interfaces {
			if v, ok := f.read(&interfaces[n]); ok {
				t.series()
				t.label("device", interfaces[n].Name)
				t.label("pci_bus_id", interfaces[n].PCIBusID)
				t.value(v)
			}
		}
	}
	p.writeRDMA(t)
}

func (p *page) writeRDMA(t *text) {
	var devices []*sysfs.RDMADevice
	var ports []*sysfs.Port
	for d := range p.rdma {
		for n := range p.rdma[d].Ports {
			if len(ports) < maxPorts {
				devices, ports = append(devices, &p.rdma[d]), append(ports, &p.rdma[d].Ports[n])
			}
		}
	}
	begin := func(n int) {
		t.series()
		t.label("device", devices[n].Name)
		t.label("port", strconv.Itoa(ports[n].Number))
	}
	t.family("drover_node_rdma_info", gauge, "State of the port in the driver's words.")
	for n, port := range ports {
		begin(n)
		t.label("pci_bus_id", devices[n].PCIBusID)
		t.label("link_layer", port.LinkLayer)
		t.label("state", port.State)
		t.label("physical_state", port.PhysicalState)
		t.value(1)
	}
	for _, f := range ofPorts {
		t.family(f.name, f.kind, f.help)
		for n, port := range ports {
			if v, ok := f.read(port); ok {
				begin(n)
				t.value(v)
			}
		}
	}
	t.family("drover_node_rdma_counter", "untyped", "Counters of the port by the driver's names, in its units.")
	for n, port := range ports {
		names := slices.Sorted(maps.Keys(port.Counters))
		for _, name := range names[:min(len(names), maxCounters)] {
			begin(n)
			t.label("counter", name)
			t.value(float64(port.Counters[name]))
		}
	}
}
