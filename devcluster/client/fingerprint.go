package client

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/driver"
)

// nomadVersion is the version that nodes claim to have, for jobs that ask.
const nomadVersion = "2.0.5"

// fingerprint is what plugins have told, by plugin name.
type fingerprint struct {
	drivers map[string]driver.Fingerprint
	devices map[string][]device.Group
}

func (f *fingerprint) init() {
	f.drivers, f.devices = map[string]driver.Fingerprint{}, map[string][]device.Group{}
}

// node describes the node to the server.
func (f *fingerprint) node(cfg Config, id string) *api.Node {
	n := &api.Node{
		ID: id, Name: cfg.Name, Datacenter: cfg.Datacenter, NodeClass: cfg.Class, NodePool: cfg.Pool, HTTPAddr: cfg.HTTPAddr,
		Attributes: hostAttributes(cfg), Meta: maps.Clone(cfg.Meta), Links: map[string]string{}, Drivers: map[string]*api.DriverInfo{},
		NodeResources: &api.NodeResources{
			Cpu:            api.NodeCpuResources{CpuShares: int64(cfg.CPUMHz), TotalCpuCores: uint16(runtime.NumCPU())},
			Memory:         api.NodeMemoryResources{MemoryMB: int64(cfg.MemoryMiB)},
			Disk:           api.NodeDiskResources{DiskMB: int64(cfg.DiskMiB)},
			Networks:       []*api.NetworkResource{{Mode: "host", Device: "lo", CIDR: "127.0.0.1/32", IP: "127.0.0.1"}},
			MinDynamicPort: cfg.MinPort, MaxDynamicPort: cfg.MaxPort, Devices: []*api.NodeDeviceResource{},
		},
		ReservedResources: &api.NodeReservedResources{},
		// The older forms of the same, which Nomad's command line still reads.
		Resources: &api.Resources{CPU: &cfg.CPUMHz, MemoryMB: &cfg.MemoryMiB, DiskMB: &cfg.DiskMiB},
		Reserved:  &api.Resources{CPU: new(int), MemoryMB: new(int), DiskMB: new(int)},
		Status:    api.NodeStatusReady,
	}
	maps.Copy(n.Attributes, cfg.Attributes)
	for name, fp := range f.drivers {
		info := &api.DriverInfo{Attributes: map[string]string{}, Detected: fp.Health != driver.HealthUndetected,
			Healthy: fp.Health == driver.HealthHealthy, HealthDescription: fp.Description, UpdateTime: time.Now()}
		for k, v := range fp.Attributes {
			n.Attributes[k] = attributeText(v)
		}
		if info.Detected {
			n.Attributes["driver."+name] = "1"
			info.Attributes["driver."+name] = "true"
		}
		n.Drivers[name] = info
	}
	for _, name := range slices.Sorted(maps.Keys(f.devices)) {
		for _, g := range f.devices[name] {
			n.NodeResources.Devices = append(n.NodeResources.Devices, deviceResource(g))
		}
	}
	return n
}

func deviceResource(g device.Group) *api.NodeDeviceResource {
	r := &api.NodeDeviceResource{Vendor: g.Vendor, Type: g.Type, Name: g.Name, Attributes: map[string]*api.Attribute{}}
	for k, v := range g.Attributes {
		r.Attributes[k] = apiAttribute(v)
	}
	for _, d := range g.Devices {
		inst := &api.NodeDevice{ID: d.ID, Healthy: d.Healthy, HealthDescription: d.HealthDescription}
		if d.PCIBusID != "" {
			inst.Locality = &api.NodeDeviceLocality{PciBusID: d.PCIBusID}
		}
		r.Instances = append(r.Instances, inst)
	}
	return r
}

func apiAttribute(v base.Attribute) *api.Attribute {
	a := &api.Attribute{Unit: v.Unit}
	switch x := v.Value.(type) {
	case int64:
		a.IntVal = &x
	case float64:
		a.FloatVal = &x
	case string:
		a.StringVal = &x
	case bool:
		a.BoolVal = &x
	}
	return a
}

func attributeText(v base.Attribute) string { return fmt.Sprint(v.Value) + v.Unit }

// hostAttributes are the facts about this machine that jobs ask for. Sizes
// are the node's own claims.
func hostAttributes(cfg Config) map[string]string {
	hostname, _ := os.Hostname()
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return map[string]string{
		"kernel.name": runtime.GOOS, "kernel.arch": kernelArch(), "arch": kernelArch(), "cpu.arch": runtime.GOARCH,
		"kernel.version": strings.TrimSpace(string(release)), "os.name": osName(),
		"cpu.numcores": strconv.Itoa(runtime.NumCPU()), "cpu.totalcompute": strconv.Itoa(cfg.CPUMHz),
		"cpu.usablecompute": strconv.Itoa(cfg.CPUMHz), "memory.totalbytes": strconv.FormatInt(int64(cfg.MemoryMiB)<<20, 10),
		"nomad.version": nomadVersion, "nomad.revision": "drover-devcluster", "nomad.advertise.address": cfg.HTTPAddr,
		"unique.hostname": hostname, "unique.network.ip-address": "127.0.0.1", "unique.storage.volume": cfg.Dir,
		"unique.storage.bytestotal": strconv.FormatInt(int64(cfg.DiskMiB)<<20, 10), "drover.devcluster": "true",
		"nomad.service_discovery": "true",
	}
}

func kernelArch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

func osName() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "ID="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return runtime.GOOS
}

// sameNode compares what nodes tell, but for times.
func sameNode(a, b *api.Node) bool {
	strip := func(n *api.Node) string {
		c := *n
		c.Drivers = map[string]*api.DriverInfo{}
		for name, d := range n.Drivers {
			info := *d
			info.UpdateTime = time.Time{}
			c.Drivers[name] = &info
		}
		j, err := json.Marshal(c)
		if err != nil {
			return err.Error()
		}
		return string(j)
	}
	return strip(a) == strip(b)
}
