package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// fingerprintLimit is how long a first fingerprint may take. An agent's start
// waits for it, up to 50 seconds.
const fingerprintLimit = 10 * time.Second

// errEnough ends a stream that a check has seen enough of.
var errEnough = errors.New("seen enough")

func deviceChecks() []check {
	cs := []check{
		{name: "device/fingerprint-at-once", run: checkDeviceFingerprint,
			why: "an agent's start waits up to 50 seconds for the first set of devices; send it at once, empty if need be. Invalid groups, attributes or units end the plugin until the agent restarts"},
		{name: "device/fingerprint-stays-open", run: checkDeviceFingerprintOpen,
			why: "an agent takes an ended fingerprint stream for \"no devices, for good\" and kills the plugin"},
		{name: "device/ids-are-stable", run: checkDeviceIDs,
			why: "device IDs are what Nomad allocates: if they change over a restart, running tasks hold devices that no longer exist"},
		{name: "device/reserve", run: checkReserve,
			why: "a reply without a reservation panics the agent; bad paths or permissions fail the task"},
		{name: "device/reserve-twice", run: checkReserveTwice,
			why: "there is no release call: the same device is reserved again for the next task"},
		{name: "device/reserve-unordered", run: checkReserveUnordered, advice: true,
			why: "IDs come in no particular order; unless they are sorted, ranks and topology differ from run to run"},
		{name: "device/reserve-first", run: checkReserveFirst,
			why: "after a relaunch Reserve can come before Fingerprint; an error fails the task for good"},
		{name: "device/reserve-unknown", run: checkReserveUnknown,
			why: "a task must not start without the device it asked for"},
		{name: "device/reserve-nothing", run: checkReserveNothing,
			why: "a reply without a reservation panics the agent"},
		{name: "device/stats", run: checkDeviceStats,
			why: "without its timestamp a device's statistics are dropped; IDs that were not fingerprinted are shown nowhere"},
		{name: "device/stats-stay-open", run: checkDeviceStatsOpen,
			why: "when the stream ends, statistics stop for good"},
		{name: "device/stats-first", run: checkDeviceStatsFirst,
			why: "after a relaunch Stats can come before Fingerprint"},
		{name: "device/concurrent-calls", run: checkDeviceConcurrent,
			why: "agents call from many places at once"},
		{name: "device/killed", run: checkDeviceKilled,
			why: "an agent relaunches a plugin that died and expects it to go on"},
	}
	for i := range cs {
		cs[i].typ = base.TypeDevice
	}
	return cs
}

// firstGroups returns the first set that the plugin publishes.
func firstGroups(ctx context.Context, p *process) ([]device.Group, error) {
	ctx, cancel := within(ctx, fingerprintLimit)
	defer cancel()
	var groups []device.Group
	err := p.device.Fingerprint(ctx, func(g []device.Group) error {
		groups = g
		return errEnough
	})
	if err != errEnough {
		return nil, fmt.Errorf("waiting for the first set of devices: %w", err)
	}
	return groups, nil
}

func idsOf(groups []device.Group) []string {
	var ids []string
	for _, g := range groups {
		for _, d := range g.Devices {
			ids = append(ids, d.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// withDevices returns a configured plugin and its groups, which have devices.
func (s *session) withDevices(ctx context.Context) (*process, []device.Group, error) {
	p, err := s.ready(ctx)
	if err != nil {
		return nil, nil, err
	}
	groups, err := firstGroups(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	if len(idsOf(groups)) == 0 {
		return nil, nil, skipf("the plugin has no devices here")
	}
	return p, groups, nil
}

func checkDeviceFingerprint(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	_, err = firstGroups(ctx, p)
	return err
}

func checkDeviceFingerprintOpen(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	return hold(ctx, s.cfg.Hold, func(ctx context.Context) error {
		return p.device.Fingerprint(ctx, func([]device.Group) error { return nil })
	})
}

func checkDeviceIDs(ctx context.Context, s *session) error {
	_, first, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	_, second, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	if a, b := idsOf(first), idsOf(second); !slices.Equal(a, b) {
		return fmt.Errorf("one process has devices %q, the next %q", a, b)
	}
	return nil
}

func checkReserve(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		for _, d := range g.Devices {
			r, err := p.device.Reserve(ctx, []string{d.ID})
			if err != nil {
				return err
			}
			if err := validReservation(r); err != nil {
				return fmt.Errorf("reservation of %q: %w", d.ID, err)
			}
		}
	}
	return nil
}

func validReservation(r *device.Reservation) error {
	for _, m := range r.Mounts {
		if !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.TaskPath) {
			return fmt.Errorf("mount %+v: paths must be absolute", m)
		}
	}
	for _, n := range r.Devices {
		if !filepath.IsAbs(n.HostPath) || !filepath.IsAbs(n.TaskPath) {
			return fmt.Errorf("device file %+v: paths must be absolute", n)
		}
		if strings.Trim(n.Permissions, "rwm") != "" {
			return fmt.Errorf("device file %+v: permissions must be a subset of rwm", n)
		}
	}
	return nil
}

func checkReserveTwice(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	id := idsOf(groups)[:1]
	first, err := p.device.Reserve(ctx, id)
	if err != nil {
		return err
	}
	second, err := p.device.Reserve(ctx, id)
	if err != nil {
		return fmt.Errorf("second time: %w", err)
	}
	if !reflect.DeepEqual(first, second) {
		return fmt.Errorf("got %+v, the second time %+v", first, second)
	}
	return nil
}

// largest is the group with the most devices.
func largest(groups []device.Group) device.Group {
	return slices.MaxFunc(groups, func(a, b device.Group) int { return len(a.Devices) - len(b.Devices) })
}

func checkReserveUnordered(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	ids := idsOf([]device.Group{largest(groups)})
	if len(ids) < 2 {
		return skipf("no group has two devices")
	}
	sorted, err := p.device.Reserve(ctx, ids)
	if err != nil {
		return err
	}
	slices.Reverse(ids)
	reversed, err := p.device.Reserve(ctx, ids)
	if err != nil {
		return err
	}
	if !maps.Equal(sorted.Env, reversed.Env) {
		return fmt.Errorf("environment is %v, for the same IDs in another order %v", sorted.Env, reversed.Env)
	}
	return nil
}

func checkReserveFirst(ctx context.Context, s *session) error {
	first, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	first.kill()
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	_, err = p.device.Reserve(ctx, idsOf(groups)[:1])
	return err
}

func checkReserveUnknown(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	for _, ids := range [][]string{{"no-such-device"}, {idsOf(groups)[0], "no-such-device"}, {""}} {
		if r, err := p.device.Reserve(ctx, ids); err == nil {
			return fmt.Errorf("devices %q were reserved: %+v", ids, r)
		}
	}
	return p.alive(ctx, 0)
}

func checkReserveNothing(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	_, err = p.device.Reserve(ctx, nil)
	if err != nil && strings.Contains(err.Error(), "without a reservation") {
		return err
	}
	return p.alive(ctx, 0) // an error is as good as an empty reservation
}

func checkDeviceStats(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	statsCtx, cancel := within(ctx, s.cfg.Patience)
	defer cancel()
	readings := 0
	err = p.device.Stats(statsCtx, 100*time.Millisecond, func(stats []device.GroupStats) error {
		if len(stats) == 0 {
			return nil // keeps the reading before it
		}
		if err := validStats(groups, stats); err != nil {
			return err
		}
		if readings++; readings == 3 {
			return errEnough
		}
		return nil
	})
	switch {
	case err == errEnough:
		return nil
	case readings == 0 && statsCtx.Err() != nil:
		return skipf("the plugin sends no statistics (at 100 ms, within %v)", s.cfg.Patience)
	}
	return fmt.Errorf("after %d readings at 100 ms: %w", readings, err)
}

func validStats(groups []device.Group, stats []device.GroupStats) error {
	for _, st := range stats {
		i := slices.IndexFunc(groups, func(g device.Group) bool {
			return g.Vendor == st.Vendor && g.Type == st.Type && g.Name == st.Name
		})
		if i < 0 {
			return fmt.Errorf("statistics of group %s/%s/%s, which was not fingerprinted", st.Vendor, st.Type, st.Name)
		}
		for id, in := range st.Instances {
			if !slices.ContainsFunc(groups[i].Devices, func(d device.Device) bool { return d.ID == id }) {
				return fmt.Errorf("statistics of device %q, which was not fingerprinted", id)
			}
			if age := time.Since(in.Time); age < -time.Minute || age > time.Hour {
				return fmt.Errorf("statistics of device %q are of %v", id, in.Time)
			}
			for name, v := range in.Stats {
				if err := validStat(v); err != nil {
					return fmt.Errorf("statistic %q of device %q: %w", name, id, err)
				}
			}
			if in.Summary != nil {
				if err := validStat(*in.Summary); err != nil {
					return fmt.Errorf("summary of device %q: %w", id, err)
				}
			}
		}
	}
	return nil
}

func validStat(v device.Stat) error {
	n := 0
	for _, set := range []bool{v.Int != nil, v.Float != nil, v.String != nil, v.Bool != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("it has %d values, want one", n)
	}
	return nil
}

func checkDeviceStatsOpen(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	// Interval 0 is what an agent without telemetry settings may send.
	return hold(ctx, s.cfg.Hold, func(ctx context.Context) error {
		return p.device.Stats(ctx, 0, func([]device.GroupStats) error { return nil })
	})
}

func checkDeviceStatsFirst(ctx context.Context, s *session) error {
	p, err := s.ready(ctx)
	if err != nil {
		return err
	}
	err = hold(ctx, settle, func(ctx context.Context) error {
		return p.device.Stats(ctx, 50*time.Millisecond, func([]device.GroupStats) error { return nil })
	})
	if err != nil {
		return err
	}
	_, err = firstGroups(ctx, p)
	return err
}

func checkDeviceConcurrent(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	ids := idsOf(groups)
	g, gctx := errgroup.WithContext(ctx)
	for i := range callers {
		g.Go(func() error {
			_, err := p.device.Reserve(gctx, ids[i%len(ids):i%len(ids)+1])
			return err
		})
		g.Go(func() error {
			_, err := firstGroups(gctx, p)
			return err
		})
		g.Go(func() error {
			return hold(gctx, settle, func(ctx context.Context) error {
				return p.device.Stats(ctx, 10*time.Millisecond, func([]device.GroupStats) error { return nil })
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.alive(ctx, 0)
}

func checkDeviceKilled(ctx context.Context, s *session) error {
	p, groups, err := s.withDevices(ctx)
	if err != nil {
		return err
	}
	ended, err := s.keepFingerprinting(ctx, p)
	if err != nil {
		return err
	}
	p.kill()
	<-ended
	if err := p.outputReleased(ctx); err != nil {
		return err
	}
	next, err := s.ready(ctx)
	if err != nil {
		return fmt.Errorf("relaunched: %w", err)
	}
	again, err := firstGroups(ctx, next)
	if err != nil {
		return fmt.Errorf("relaunched: %w", err)
	}
	if a, b := idsOf(groups), idsOf(again); !slices.Equal(a, b) {
		return fmt.Errorf("had devices %q, relaunched %q", a, b)
	}
	return nil
}

// outputReleased checks that a dead process left nobody behind who holds its
// stdout or stderr.
func (p *process) outputReleased(ctx context.Context) error {
	t := time.NewTimer(exitTimeout)
	defer t.Stop()
	select {
	case <-p.outputEnded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errors.New("a child of the plugin holds its stdout or stderr: the agent takes the dead plugin for alive")
	}
}
