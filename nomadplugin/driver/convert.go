package driver

import (
	"fmt"
	"time"

	"github.com/drover-ml/drover/nomadplugin/internal/attribute"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/driverpb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

func capabilitiesMessage(c Capabilities) *driverpb.DriverCapabilities {
	m := &driverpb.DriverCapabilities{
		SendSignals:          c.SendSignals,
		Exec:                 c.Exec,
		FsIsolation:          driverpb.DriverCapabilities_FSIsolation(c.FSIsolation),
		MustCreateNetwork:    c.MustCreateNetwork,
		DisableLogCollection: c.DisableLogCollection,
		DynamicWorkloadUsers: c.DynamicWorkloadUsers,
	}
	if c.NoMounts {
		m.MountConfigs = driverpb.DriverCapabilities_NO_MOUNTS
	}
	for _, n := range c.NetworkModes {
		m.NetworkIsolationModes = append(m.NetworkIsolationModes, driverpb.NetworkIsolationSpec_NetworkIsolationMode(n))
	}
	return m
}

func capabilitiesOf(m *driverpb.DriverCapabilities) Capabilities {
	c := Capabilities{
		SendSignals:          m.GetSendSignals(),
		Exec:                 m.GetExec(),
		FSIsolation:          FSIsolation(m.GetFsIsolation()),
		MustCreateNetwork:    m.GetMustCreateNetwork(),
		NoMounts:             m.GetMountConfigs() == driverpb.DriverCapabilities_NO_MOUNTS,
		DisableLogCollection: m.GetDisableLogCollection(),
		DynamicWorkloadUsers: m.GetDynamicWorkloadUsers(),
	}
	for _, n := range m.GetNetworkIsolationModes() {
		c.NetworkModes = append(c.NetworkModes, NetworkMode(n))
	}
	return c
}

func fingerprintMessage(f Fingerprint) (*driverpb.FingerprintResponse, error) {
	attrs, err := attribute.Messages(f.Attributes)
	if err != nil {
		return nil, err
	}
	return &driverpb.FingerprintResponse{
		Attributes:        attrs,
		Health:            driverpb.FingerprintResponse_HealthState(f.Health),
		HealthDescription: f.Description,
	}, nil
}

// fingerprintOf decodes a fingerprint. A plugin's own error is an unhealthy
// driver, as agents see it.
func fingerprintOf(m *driverpb.FingerprintResponse) (Fingerprint, error) {
	attrs, err := attribute.Attributes(m.GetAttributes())
	if err != nil {
		return Fingerprint{}, err
	}
	f := Fingerprint{Attributes: attrs, Health: Health(m.GetHealth()), Description: m.GetHealthDescription()}
	if e := m.GetErr(); e != "" {
		f.Health, f.Description = HealthUnhealthy, e
	}
	return f, nil
}

func exitMessage(r *ExitResult) *driverpb.ExitResult {
	if r == nil {
		return nil
	}
	return &driverpb.ExitResult{ExitCode: int32(r.ExitCode), Signal: int32(r.Signal), OomKilled: r.OOMKilled}
}

func exitOf(m *driverpb.ExitResult) *ExitResult {
	if m == nil {
		return nil
	}
	return &ExitResult{ExitCode: int(m.GetExitCode()), Signal: int(m.GetSignal()), OOMKilled: m.GetOomKilled()}
}

func statusMessage(id string, s *TaskStatus) *driverpb.InspectTaskResponse {
	exit := exitMessage(s.Exit)
	if exit == nil {
		exit = &driverpb.ExitResult{} // agents read it unasked
	}
	if s.ID != "" {
		id = s.ID
	}
	return &driverpb.InspectTaskResponse{
		Task: &driverpb.TaskStatus{
			Id: id, Name: s.Name, State: driverpb.TaskState(s.State),
			StartedAt: wire.Timestamp(s.StartedAt), CompletedAt: wire.Timestamp(s.CompletedAt),
			Result: exit,
		},
		Driver:          &driverpb.TaskDriverStatus{Attributes: s.Attributes},
		NetworkOverride: overrideMessage(s.Network),
	}
}

func statusOf(m *driverpb.InspectTaskResponse) *TaskStatus {
	t := m.GetTask()
	s := &TaskStatus{
		ID: t.GetId(), Name: t.GetName(), State: State(t.GetState()),
		StartedAt: wire.Time(t.GetStartedAt()), CompletedAt: wire.Time(t.GetCompletedAt()),
		Attributes: m.GetDriver().GetAttributes(),
		Network:    overrideOf(m.GetNetworkOverride()),
	}
	if s.State == StateExited {
		s.Exit = exitOf(t.GetResult())
	}
	return s
}

func statsMessage(id string, s TaskStats, now time.Time) *driverpb.TaskStats {
	if s.ID == "" {
		s.ID = id
	}
	if s.Time.IsZero() {
		s.Time = now
	}
	m := &driverpb.TaskStats{Id: s.ID, Timestamp: wire.Timestamp(s.Time), AggResourceUsage: usageMessage(s.Total)}
	if s.Processes != nil {
		m.ResourceUsageByPid = make(map[string]*driverpb.TaskResourceUsage, len(s.Processes))
		for pid, u := range s.Processes {
			m.ResourceUsageByPid[pid] = usageMessage(u)
		}
	}
	return m
}

// statsOf decodes a reading and refuses what would crash an agent.
func statsOf(m *driverpb.TaskStats) (TaskStats, error) {
	if m.GetTimestamp() == nil || m.GetAggResourceUsage() == nil {
		return TaskStats{}, fmt.Errorf("plugin sent a reading without time or total, which crashes a Nomad agent")
	}
	s := TaskStats{ID: m.GetId(), Time: wire.Time(m.GetTimestamp()), Total: usageOf(m.GetAggResourceUsage())}
	if by := m.GetResourceUsageByPid(); by != nil {
		s.Processes = make(map[string]Usage, len(by))
		for pid, u := range by {
			s.Processes[pid] = usageOf(u)
		}
	}
	return s, nil
}

func usageMessage(u Usage) *driverpb.TaskResourceUsage {
	c, r := &driverpb.CPUUsage{}, &driverpb.MemoryUsage{}
	cpu := func(f driverpb.CPUUsage_Fields, dst *float64, v *float64) {
		if v != nil {
			*dst = *v
			c.MeasuredFields = append(c.MeasuredFields, f)
		}
	}
	count := func(f driverpb.CPUUsage_Fields, dst *uint64, v *uint64) {
		if v != nil {
			*dst = *v
			c.MeasuredFields = append(c.MeasuredFields, f)
		}
	}
	mem := func(f driverpb.MemoryUsage_Fields, dst *uint64, v *uint64) {
		if v != nil {
			*dst = *v
			r.MeasuredFields = append(r.MeasuredFields, f)
		}
	}
	cpu(driverpb.CPUUsage_SYSTEM_MODE, &c.SystemMode, u.CPU.SystemMode)
	cpu(driverpb.CPUUsage_USER_MODE, &c.UserMode, u.CPU.UserMode)
	cpu(driverpb.CPUUsage_TOTAL_TICKS, &c.TotalTicks, u.CPU.TotalTicks)
	cpu(driverpb.CPUUsage_PERCENT, &c.Percent, u.CPU.Percent)
	count(driverpb.CPUUsage_THROTTLED_PERIODS, &c.ThrottledPeriods, u.CPU.ThrottledPeriods)
	count(driverpb.CPUUsage_THROTTLED_TIME, &c.ThrottledTime, u.CPU.ThrottledTime)
	mem(driverpb.MemoryUsage_RSS, &r.Rss, u.Memory.RSS)
	mem(driverpb.MemoryUsage_CACHE, &r.Cache, u.Memory.Cache)
	mem(driverpb.MemoryUsage_MAX_USAGE, &r.MaxUsage, u.Memory.MaxUsage)
	mem(driverpb.MemoryUsage_KERNEL_USAGE, &r.KernelUsage, u.Memory.KernelUsage)
	mem(driverpb.MemoryUsage_KERNEL_MAX_USAGE, &r.KernelMaxUsage, u.Memory.KernelMaxUsage)
	mem(driverpb.MemoryUsage_USAGE, &r.Usage, u.Memory.Usage)
	mem(driverpb.MemoryUsage_SWAP, &r.Swap, u.Memory.Swap)
	return &driverpb.TaskResourceUsage{Cpu: c, Memory: r}
}

func usageOf(m *driverpb.TaskResourceUsage) Usage {
	var u Usage
	c, r := m.GetCpu(), m.GetMemory()
	for _, f := range c.GetMeasuredFields() {
		switch f {
		case driverpb.CPUUsage_SYSTEM_MODE:
			u.CPU.SystemMode = &c.SystemMode
		case driverpb.CPUUsage_USER_MODE:
			u.CPU.UserMode = &c.UserMode
		case driverpb.CPUUsage_TOTAL_TICKS:
			u.CPU.TotalTicks = &c.TotalTicks
		case driverpb.CPUUsage_PERCENT:
			u.CPU.Percent = &c.Percent
		case driverpb.CPUUsage_THROTTLED_PERIODS:
			u.CPU.ThrottledPeriods = &c.ThrottledPeriods
		case driverpb.CPUUsage_THROTTLED_TIME:
			u.CPU.ThrottledTime = &c.ThrottledTime
		}
	}
	for _, f := range r.GetMeasuredFields() {
		switch f {
		case driverpb.MemoryUsage_RSS:
			u.Memory.RSS = &r.Rss
		case driverpb.MemoryUsage_CACHE:
			u.Memory.Cache = &r.Cache
		case driverpb.MemoryUsage_MAX_USAGE:
			u.Memory.MaxUsage = &r.MaxUsage
		case driverpb.MemoryUsage_KERNEL_USAGE:
			u.Memory.KernelUsage = &r.KernelUsage
		case driverpb.MemoryUsage_KERNEL_MAX_USAGE:
			u.Memory.KernelMaxUsage = &r.KernelMaxUsage
		case driverpb.MemoryUsage_USAGE:
			u.Memory.Usage = &r.Usage
		case driverpb.MemoryUsage_SWAP:
			u.Memory.Swap = &r.Swap
		}
	}
	return u
}

func eventMessage(e TaskEvent, now time.Time) *driverpb.DriverTaskEvent {
	if e.Time.IsZero() {
		e.Time = now
	}
	return &driverpb.DriverTaskEvent{
		TaskId: e.TaskID, AllocId: e.AllocID, TaskName: e.Task,
		Timestamp: wire.Timestamp(e.Time), Message: e.Message, Annotations: e.Annotations,
	}
}

func eventOf(m *driverpb.DriverTaskEvent) TaskEvent {
	return TaskEvent{
		TaskID: m.GetTaskId(), AllocID: m.GetAllocId(), Task: m.GetTaskName(),
		Time: wire.Time(m.GetTimestamp()), Message: m.GetMessage(), Annotations: m.GetAnnotations(),
	}
}
