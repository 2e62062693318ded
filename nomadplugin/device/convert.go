package device

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/drover-ml/drover/nomadplugin/internal/attribute"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/devicepb"
	"github.com/drover-ml/drover/nomadplugin/internal/pb/structspb"
	"github.com/drover-ml/drover/nomadplugin/internal/wire"
)

// ValidateGroups reports what an agent would refuse in a fingerprint. An
// agent drops a plugin, with all its devices and until its own restart, for
// one such fault.
func ValidateGroups(groups []Group) error {
	_, err := groupMessages(groups)
	return err
}

func groupMessages(groups []Group) ([]*devicepb.DeviceGroup, error) {
	names := make(map[string]bool, len(groups))
	ids := make(map[string]bool)
	out := make([]*devicepb.DeviceGroup, 0, len(groups))
	for i, g := range groups {
		name := g.Vendor + "/" + g.Type + "/" + g.Name
		if g.Vendor == "" || g.Type == "" || g.Name == "" {
			return nil, fmt.Errorf("device group %d (%s): vendor, type and name must not be empty", i, name)
		}
		if names[name] {
			return nil, fmt.Errorf("device group %s is there twice", name)
		}
		names[name] = true
		m := &devicepb.DeviceGroup{Vendor: g.Vendor, DeviceType: g.Type, DeviceName: g.Name}
		for _, d := range g.Devices {
			if d.ID == "" {
				return nil, fmt.Errorf("device group %s: a device has no ID", name)
			}
			if ids[d.ID] {
				return nil, fmt.Errorf("device group %s: device %q is there twice", name, d.ID)
			}
			ids[d.ID] = true
			m.Devices = append(m.Devices, deviceMessage(d))
		}
		var err error
		if m.Attributes, err = attribute.Messages(g.Attributes); err != nil {
			return nil, fmt.Errorf("device group %s: %w", name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func deviceMessage(d Device) *devicepb.DetectedDevice {
	m := &devicepb.DetectedDevice{ID: d.ID, Healthy: d.Healthy, HealthDescription: d.HealthDescription}
	if d.PCIBusID != "" {
		m.HwLocality = &devicepb.DeviceLocality{PciBusId: d.PCIBusID}
	}
	return m
}

// groupsOf decodes a fingerprint and refuses what an agent would.
func groupsOf(ms []*devicepb.DeviceGroup) ([]Group, error) {
	out := make([]Group, 0, len(ms))
	for _, m := range ms {
		g := Group{Vendor: m.GetVendor(), Type: m.GetDeviceType(), Name: m.GetDeviceName()}
		for _, d := range m.GetDevices() {
			g.Devices = append(g.Devices, Device{
				ID:                d.GetID(),
				Healthy:           d.GetHealthy(),
				HealthDescription: d.GetHealthDescription(),
				PCIBusID:          d.GetHwLocality().GetPciBusId(),
			})
		}
		var err error
		if g.Attributes, err = attribute.Attributes(m.GetAttributes()); err != nil {
			return nil, fmt.Errorf("device group %s/%s/%s: %w", g.Vendor, g.Type, g.Name, err)
		}
		out = append(out, g)
	}
	return out, ValidateGroups(out)
}

func reservationMessage(r *Reservation) (*devicepb.ContainerReservation, error) {
	m := &devicepb.ContainerReservation{Envs: r.Env}
	for _, mt := range r.Mounts {
		m.Mounts = append(m.Mounts, &devicepb.Mount{TaskPath: mt.TaskPath, HostPath: mt.HostPath, ReadOnly: mt.ReadOnly})
	}
	for _, n := range r.Devices {
		if strings.Trim(n.Permissions, "rwm") != "" {
			return nil, fmt.Errorf("device %s: permissions %q, want a subset of rwm", n.HostPath, n.Permissions)
		}
		m.Devices = append(m.Devices, &devicepb.DeviceSpec{TaskPath: n.TaskPath, HostPath: n.HostPath, Permissions: n.Permissions})
	}
	return m, nil
}

func reservationOf(m *devicepb.ContainerReservation) *Reservation {
	r := &Reservation{Env: m.GetEnvs()}
	for _, mt := range m.GetMounts() {
		r.Mounts = append(r.Mounts, Mount{TaskPath: mt.GetTaskPath(), HostPath: mt.GetHostPath(), ReadOnly: mt.GetReadOnly()})
	}
	for _, n := range m.GetDevices() {
		r.Devices = append(r.Devices, Node{TaskPath: n.GetTaskPath(), HostPath: n.GetHostPath(), Permissions: n.GetPermissions()})
	}
	return r
}

func statsMessages(groups []GroupStats, now time.Time) ([]*devicepb.DeviceGroupStats, error) {
	out := make([]*devicepb.DeviceGroupStats, 0, len(groups))
	for _, g := range groups {
		m := &devicepb.DeviceGroupStats{
			Vendor: g.Vendor, Type: g.Type, Name: g.Name,
			InstanceStats: make(map[string]*devicepb.DeviceStats, len(g.Instances)),
		}
		for id, s := range g.Instances {
			d, err := instanceMessage(s, now)
			if err != nil {
				return nil, fmt.Errorf("statistics of device %q: %w", id, err)
			}
			m.InstanceStats[id] = d
		}
		out = append(out, m)
	}
	return out, nil
}

func instanceMessage(s InstanceStats, now time.Time) (*devicepb.DeviceStats, error) {
	at := s.Time
	if at.IsZero() {
		at = now
	}
	d := &devicepb.DeviceStats{Timestamp: wire.Timestamp(at), Stats: &structspb.StatObject{}}
	var err error
	if s.Summary != nil {
		if d.Summary, err = statMessage(*s.Summary); err != nil {
			return nil, fmt.Errorf("summary: %w", err)
		}
	}
	if d.Stats.Attributes, err = statMap(s.Stats); err != nil {
		return nil, err
	}
	d.Stats.Nested = make(map[string]*structspb.StatObject, len(s.Nested))
	for name, stats := range s.Nested {
		o := &structspb.StatObject{}
		if o.Attributes, err = statMap(stats); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d.Stats.Nested[name] = o
	}
	return d, nil
}

func statMap(stats map[string]Stat) (map[string]*structspb.StatValue, error) {
	out := make(map[string]*structspb.StatValue, len(stats))
	for name, s := range stats {
		m, err := statMessage(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = m
	}
	return out, nil
}

func statMessage(s Stat) (*structspb.StatValue, error) {
	m := &structspb.StatValue{Unit: s.Unit, Desc: s.Description}
	n := 0
	if s.Int != nil {
		n++
		m.IntNumeratorVal = wrapperspb.Int64(*s.Int)
		if s.IntDenominator != nil {
			m.IntDenominatorVal = wrapperspb.Int64(*s.IntDenominator)
		}
	}
	if s.Float != nil {
		n++
		m.FloatNumeratorVal = wrapperspb.Double(*s.Float)
		if s.FloatDenominator != nil {
			m.FloatDenominatorVal = wrapperspb.Double(*s.FloatDenominator)
		}
	}
	if s.String != nil {
		n++
		m.StringVal = wrapperspb.String(*s.String)
	}
	if s.Bool != nil {
		n++
		m.BoolVal = wrapperspb.Bool(*s.Bool)
	}
	if n != 1 {
		return nil, fmt.Errorf("statistic has %d values, want exactly one", n)
	}
	if s.IntDenominator != nil && s.Int == nil || s.FloatDenominator != nil && s.Float == nil {
		return nil, errors.New("statistic has a denominator without its numerator")
	}
	return m, nil
}

func statsOf(ms []*devicepb.DeviceGroupStats) []GroupStats {
	out := make([]GroupStats, 0, len(ms))
	for _, m := range ms {
		g := GroupStats{
			Vendor: m.GetVendor(), Type: m.GetType(), Name: m.GetName(),
			Instances: make(map[string]InstanceStats, len(m.GetInstanceStats())),
		}
		for id, d := range m.GetInstanceStats() {
			s := InstanceStats{Time: wire.Time(d.GetTimestamp()), Stats: statMapOf(d.GetStats().GetAttributes())}
			if d.GetSummary() != nil {
				summary := statOf(d.GetSummary())
				s.Summary = &summary
			}
			if nested := d.GetStats().GetNested(); len(nested) > 0 {
				s.Nested = make(map[string]map[string]Stat, len(nested))
				for name, o := range nested {
					s.Nested[name] = statMapOf(o.GetAttributes())
				}
			}
			g.Instances[id] = s
		}
		out = append(out, g)
	}
	return out
}

func statMapOf(ms map[string]*structspb.StatValue) map[string]Stat {
	out := make(map[string]Stat, len(ms))
	for name, m := range ms {
		out[name] = statOf(m)
	}
	return out
}

func statOf(m *structspb.StatValue) Stat {
	s := Stat{Unit: m.GetUnit(), Description: m.GetDesc()}
	if v := m.GetIntNumeratorVal(); v != nil {
		s.Int = &v.Value
	}
	if v := m.GetIntDenominatorVal(); v != nil {
		s.IntDenominator = &v.Value
	}
	if v := m.GetFloatNumeratorVal(); v != nil {
		s.Float = &v.Value
	}
	if v := m.GetFloatDenominatorVal(); v != nil {
		s.FloatDenominator = &v.Value
	}
	if v := m.GetStringVal(); v != nil {
		s.String = &v.Value
	}
	if v := m.GetBoolVal(); v != nil {
		s.Bool = &v.Value
	}
	return s
}
