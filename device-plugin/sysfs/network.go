package sysfs

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Interface is a network interface with hardware behind it. Nil is what the
// driver does not tell. Counters are since the driver was loaded.
type Interface struct {
	Name      string // "ens1f0"
	PCIBusID  string // in the driver's form, "00000000:1B:00.0"; "" if it is not a PCI device
	NUMANode  *int   // nil if unknown, or if the machine has one node only and does not say
	State     string // "up", "down", "dormant", ... as the kernel calls it; "unknown" from some drivers
	Carrier   *bool  // a cable with a partner is there; nil while the interface is down
	SpeedMbps *int64

	RxBytes, TxBytes     *int64
	RxPackets, TxPackets *int64
	RxErrors, TxErrors   *int64
	RxDropped, TxDropped *int64
	CarrierChanges       *int64
}

// Network lists the network interfaces that are devices, by name: no loopback,
// bridges or tunnels.
func Network(root fs.FS) ([]Interface, error) {
	const class = "class/net"
	if _, err := fs.Stat(root, class); err != nil {
		return nil, fmt.Errorf("reading the network interfaces: %w", err)
	}
	var interfaces []Interface
	for _, name := range names(root, class) {
		dir := path.Join(class, name)
		at := resolve(root, path.Join(dir, "device"))
		if at == "" {
			continue
		}
		i := Interface{
			Name: name, PCIBusID: busID(at), NUMANode: numaNode(root, at),
			State: text(root, dir, "operstate"), SpeedMbps: counter(root, dir, "speed"),
			CarrierChanges: counter(root, dir, "carrier_changes"),
		}
		if i.State == "" {
			i.State = "unknown"
		}
		if n := number(root, dir, "carrier"); n != nil {
			carrier := *n == 1
			i.Carrier = &carrier
		}
		for file, value := range map[string]**int64{
			"rx_bytes": &i.RxBytes, "tx_bytes": &i.TxBytes, "rx_packets": &i.RxPackets, "tx_packets": &i.TxPackets,
			"rx_errors": &i.RxErrors, "tx_errors": &i.TxErrors, "rx_dropped": &i.RxDropped, "tx_dropped": &i.TxDropped,
		} {
			*value = counter(root, dir, "statistics", file)
		}
		interfaces = append(interfaces, i)
	}
	return interfaces, nil
}

// RDMADevice is an InfiniBand or RoCE device.
type RDMADevice struct {
	Name     string // "mlx5_0"
	PCIBusID string // as of an Interface
	NUMANode *int
	Netdevs  []string // the interfaces of the same card
	Ports    []Port
}

// Port is a port of an RDMA device. Nil is what the driver does not tell.
type Port struct {
	Number        int
	State         string // "ACTIVE", "DOWN", "INIT", "ARMED"; "" if unknown
	PhysicalState string // "LinkUp", "Disabled", "Polling", ...; "" if unknown
	LinkLayer     string // "InfiniBand" or "Ethernet"; "" if unknown
	RateMbps      *int64 // of all lanes
	// Counters are those of the port's counters and hw_counters folders, as the
	// driver names them, in the driver's units: port_xmit_data and
	// port_rcv_data, for two, are in units of 4 bytes.
	Counters map[string]int64
}

// Active reports whether the port carries traffic.
func (p Port) Active() bool { return p.State == "ACTIVE" }

// ReceivedBytes is the payload received; nil if it is not counted.
func (p Port) ReceivedBytes() *int64 { return p.words("port_rcv_data") }

// TransmittedBytes is the payload sent; nil if it is not counted.
func (p Port) TransmittedBytes() *int64 { return p.words("port_xmit_data") }

// words is a counter of 32-bit words, in bytes.
func (p Port) words(counter string) *int64 {
	n, ok := p.Counters[counter]
	if !ok {
		return nil
	}
	n *= 4
	return &n
}

// maxCounters bounds those of one port; drivers have about 60.
const maxCounters = 500

// RDMA lists the RDMA devices, by name; none on a machine without any.
func RDMA(root fs.FS) []RDMADevice {
	const class = "class/infiniband"
	var devices []RDMADevice
	for _, name := range names(root, class) {
		dir := path.Join(class, name)
		at := resolve(root, path.Join(dir, "device"))
		d := RDMADevice{Name: name, PCIBusID: busID(at), NUMANode: numaNode(root, at)}
		if at != "" {
			d.Netdevs = names(root, path.Join(at, "net"))
		}
		for _, port := range names(root, path.Join(dir, "ports")) {
			if n, err := strconv.Atoi(port); err == nil {
				d.Ports = append(d.Ports, readPort(root, path.Join(dir, "ports", port), n))
			}
		}
		devices = append(devices, d)
	}
	return devices
}

func readPort(root fs.FS, dir string, n int) Port {
	p := Port{
		Number: n, State: named(text(root, dir, "state")), PhysicalState: named(text(root, dir, "phys_state")),
		LinkLayer: text(root, dir, "link_layer"), RateMbps: rateMbps(text(root, dir, "rate")),
		Counters: make(map[string]int64),
	}
	for _, folder := range []string{"counters", "hw_counters"} {
		for _, name := range names(root, path.Join(dir, folder)) {
			if v := counter(root, dir, folder, name); v != nil && len(p.Counters) < maxCounters {
				p.Counters[name] = *v
			}
		}
	}
	return p
}

// named is the name in "4: ACTIVE".
func named(state string) string {
	if _, name, ok := strings.Cut(state, ":"); ok {
		return strings.TrimSpace(name)
	}
	return state
}

// rateMbps reads "400 Gb/sec (4X NDR)" and "2.5 Gb/sec (1X SDR)".
func rateMbps(rate string) *int64 {
	amount, unit, _ := strings.Cut(rate, " ")
	gbps, err := strconv.ParseFloat(amount, 64)
	if err != nil || gbps < 0 || gbps > 1e6 || !strings.HasPrefix(unit, "Gb/sec") {
		return nil
	}
	mbps := int64(gbps * 1000)
	return &mbps
}
