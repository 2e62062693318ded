package driver

import (
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
)

func taskMessage(t *TaskConfig) *driverpb.TaskConfig {
	if t == nil {
		return nil
	}
	m := &driverpb.TaskConfig{
		Id:                   t.ID,
		Name:                 t.Name,
		MsgpackDriverConfig:  t.DriverConfig,
		Env:                  t.Env,
		DeviceEnv:            t.DeviceEnv,
		Resources:            resourcesMessage(t.Resources),
		User:                 t.User,
		AllocDir:             t.AllocDir,
		StdoutPath:           t.StdoutPath,
		StderrPath:           t.StderrPath,
		TaskGroupName:        t.Group,
		JobName:              t.JobName,
		JobId:                t.JobID,
		AllocId:              t.AllocID,
		Namespace:            t.Namespace,
		NodeName:             t.NodeName,
		NodeId:               t.NodeID,
		NetworkIsolationSpec: isolationMessage(t.Network),
	}
	for _, x := range t.Mounts {
		m.Mounts = append(m.Mounts, &driverpb.Mount{
			TaskPath: x.TaskPath, HostPath: x.HostPath, Readonly: x.ReadOnly,
			PropagationMode: x.Propagation, SelinuxLabel: x.SELinuxLabel, RequestName: x.RequestName,
		})
	}
	for _, x := range t.Devices {
		m.Devices = append(m.Devices, &driverpb.Device{TaskPath: x.TaskPath, HostPath: x.HostPath, CgroupPermissions: x.Permissions})
	}
	if t.DNS != nil {
		m.Dns = &driverpb.DNSConfig{Servers: t.DNS.Servers, Searches: t.DNS.Searches, Options: t.DNS.Options}
	}
	return m
}

func taskOf(m *driverpb.TaskConfig) *TaskConfig {
	if m == nil {
		return nil
	}
	t := &TaskConfig{
		ID:           m.GetId(),
		Name:         m.GetName(),
		DriverConfig: m.GetMsgpackDriverConfig(),
		Env:          m.GetEnv(),
		DeviceEnv:    m.GetDeviceEnv(),
		Resources:    resourcesOf(m.GetResources()),
		User:         m.GetUser(),
		AllocDir:     m.GetAllocDir(),
		StdoutPath:   m.GetStdoutPath(),
		StderrPath:   m.GetStderrPath(),
		Group:        m.GetTaskGroupName(),
		JobName:      m.GetJobName(),
		JobID:        m.GetJobId(),
		AllocID:      m.GetAllocId(),
		Namespace:    m.GetNamespace(),
		NodeName:     m.GetNodeName(),
		NodeID:       m.GetNodeId(),
		Network:      isolationOf(m.GetNetworkIsolationSpec()),
	}
	for _, x := range m.GetMounts() {
		t.Mounts = append(t.Mounts, Mount{
			TaskPath: x.GetTaskPath(), HostPath: x.GetHostPath(), ReadOnly: x.GetReadonly(),
			Propagation: x.GetPropagationMode(), SELinuxLabel: x.GetSelinuxLabel(), RequestName: x.GetRequestName(),
		})
	}
	for _, x := range m.GetDevices() {
		t.Devices = append(t.Devices, Device{TaskPath: x.GetTaskPath(), HostPath: x.GetHostPath(), Permissions: x.GetCgroupPermissions()})
	}
	if d := m.GetDns(); d != nil {
		t.DNS = &DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
	}
	return t
}

func resourcesMessage(r Resources) *driverpb.Resources {
	m := &driverpb.Resources{
		AllocatedResources: &driverpb.AllocatedTaskResources{
			Cpu:    &driverpb.AllocatedCpuResources{CpuShares: r.CPUShares},
			Memory: &driverpb.AllocatedMemoryResources{MemoryMb: r.MemoryMB, MemoryMaxMb: r.MemoryMaxMB},
		},
		LinuxResources: &driverpb.LinuxResources{
			CpuPeriod:        r.CPUPeriod,
			CpuQuota:         r.CPUQuota,
			CpuShares:        r.LinuxShares,
			MemoryLimitBytes: r.MemoryLimit,
			OomScoreAdj:      r.OOMScoreAdj,
			CpusetCpus:       r.CPUSet,
			PercentTicks:     r.CPUFraction,
			CpusetCgroup:     r.CgroupPath,
		},
	}
	for _, p := range r.Ports {
		m.Ports = append(m.Ports, &driverpb.PortMapping{Label: p.Label, Value: p.Value, To: p.To, HostIp: p.HostIP})
	}
	return m
}

func resourcesOf(m *driverpb.Resources) Resources {
	a, l := m.GetAllocatedResources(), m.GetLinuxResources()
	r := Resources{
		CPUShares:   a.GetCpu().GetCpuShares(),
		MemoryMB:    a.GetMemory().GetMemoryMb(),
		MemoryMaxMB: a.GetMemory().GetMemoryMaxMb(),
		MemoryLimit: l.GetMemoryLimitBytes(),
		CPUSet:      l.GetCpusetCpus(),
		CPUFraction: l.GetPercentTicks(),
		CgroupPath:  l.GetCpusetCgroup(),
		LinuxShares: l.GetCpuShares(),
		CPUPeriod:   l.GetCpuPeriod(),
		CPUQuota:    l.GetCpuQuota(),
		OOMScoreAdj: l.GetOomScoreAdj(),
	}
	for _, p := range m.GetPorts() {
		r.Ports = append(r.Ports, Port{Label: p.GetLabel(), Value: p.GetValue(), To: p.GetTo(), HostIP: p.GetHostIp()})
	}
	return r
}

func isolationMessage(n *NetworkIsolation) *driverpb.NetworkIsolationSpec {
	if n == nil {
		return nil
	}
	m := &driverpb.NetworkIsolationSpec{
		Mode:   driverpb.NetworkIsolationSpec_NetworkIsolationMode(n.Mode),
		Path:   n.Path,
		Labels: n.Labels,
	}
	if n.Hosts != nil {
		m.HostsConfig = &driverpb.HostsConfig{Hostname: n.Hosts.Hostname, Address: n.Hosts.Address}
	}
	return m
}

func isolationOf(m *driverpb.NetworkIsolationSpec) *NetworkIsolation {
	if m == nil {
		return nil
	}
	n := &NetworkIsolation{Mode: NetworkMode(m.GetMode()), Path: m.GetPath(), Labels: m.GetLabels()}
	if h := m.GetHostsConfig(); h != nil {
		n.Hosts = &Hosts{Hostname: h.GetHostname(), Address: h.GetAddress()}
	}
	return n
}

func handleMessage(h *Handle) *driverpb.TaskHandle {
	if h == nil {
		return nil
	}
	return &driverpb.TaskHandle{
		Version:     h.Version,
		Config:      taskMessage(h.Config),
		State:       driverpb.TaskState(h.State),
		DriverState: h.DriverState,
	}
}

func handleOf(m *driverpb.TaskHandle) *Handle {
	if m == nil {
		return nil
	}
	return &Handle{
		Version:     m.GetVersion(),
		Config:      taskOf(m.GetConfig()),
		State:       State(m.GetState()),
		DriverState: m.GetDriverState(),
	}
}

func overrideMessage(n *NetworkOverride) *driverpb.NetworkOverride {
	if n == nil {
		return nil
	}
	return &driverpb.NetworkOverride{PortMap: n.Ports, Addr: n.Addr, AutoAdvertise: n.AutoAdvertise}
}

func overrideOf(m *driverpb.NetworkOverride) *NetworkOverride {
	if m == nil {
		return nil
	}
	return &NetworkOverride{Ports: m.GetPortMap(), Addr: m.GetAddr(), AutoAdvertise: m.GetAutoAdvertise()}
}
