package simulated

import (
	"context"
	"slices"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// Vitals reads the health of boards. Those that cannot be read are left out.
func (s *Source) Vitals(ctx context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	t, now, err := s.enter(ctx, func(b subject) bool { return slices.Contains(boards, b.id) })
	if err != nil {
		return nil, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return nil, err
	}
	on := s.occupants(t, now, views, s.processes.on())
	vitals := make(map[gpu.ID]gpu.Vitals, len(boards))
	for _, v := range views {
		if v.there() && slices.Contains(boards, v.ID) {
			vitals[v.ID] = v.vitals(s.machine, on, v.at(now))
		}
	}
	return vitals, nil
}

func (v boardView) vitals(m Machine, on occupants, now time.Time) gpu.Vitals {
	busy := v.boardLoad(on, now).busy
	sample := v.sample(on, now)
	r := gpu.Vitals{
		Time: now, TemperatureC: sample.TemperatureC, MemoryTemperatureC: sample.MemoryTemperatureC,
		SlowdownTemperatureC: positive(v.model.slowdownC), ShutdownTemperatureC: positive(v.model.shutdownC),
		Throttle: append([]gpu.ThrottleReason{}, v.throttled()...), EnergyMJ: sample.EnergyMJ,
		PowerViolation: &v.powerViolation, ThermalViolation: &v.thermalViolation,
		PCIe: v.pcie(busy), NVLinks: v.links(m, now), FabricState: v.fabric(m),
		RecoveryAction: "none",
	}
	if v.recoveryAction != "" {
		r.RecoveryAction = v.recoveryAction
	}
	if busy == 0 && !slices.Contains(r.Throttle, gpu.ThrottleIdle) {
		r.Throttle = append(r.Throttle, gpu.ThrottleIdle)
	}
	c, all := v.volatile, v.aggregate
	switch v.model.memoryErrors {
	case remapsRows:
		// Rows stay remapped; one that waits does so until the next reset.
		r.RemappedRows = &gpu.RemappedRows{
			Corrected: all.remappedCorrected, Uncorrected: all.remapped, Pending: v.remapPending, Failed: v.remapFailed,
		}
	case retiresPages:
		r.RetiredPages = &gpu.RetiredPages{SingleBit: all.retiredSingle, DoubleBit: all.retiredDouble, Pending: v.retirementPending}
	}
	if v.model.memoryErrors != withoutECC {
		dram := c.eccUncorrected - c.eccSRAM
		r.ECC = &gpu.ECC{
			VolatileCorrected: &c.eccCorrected, VolatileUncorrected: &c.eccUncorrected,
			AggregateCorrected: &all.eccCorrected, AggregateUncorrected: &all.eccUncorrected,
			SRAMUncorrected: &c.eccSRAM, DRAMUncorrected: &dram,
		}
	}
	return r
}

// pcie is the state of the link. Boards that save lanes run it slowly while
// they idle, which is no fault.
func (v boardView) pcie(busy float64) *gpu.PCIe {
	most := v.model.pciGeneration
	if most == 0 {
		return nil
	}
	generation := most
	if busy == 0 && v.model.savesLanes {
		generation = 1
	}
	lanes := int64(16)
	return &gpu.PCIe{
		Generation: orReading(v.pcieGeneration, &generation), MaxGeneration: &most,
		Width: orReading(v.pcieWidth, &lanes), MaxWidth: &lanes, Replays: &v.volatile.pcieReplays,
	}
}

// links are the board's NVLinks, with what they have carried since the board
// began anew: as much as over an average day.
func (v boardView) links(m Machine, now time.Time) []gpu.NVLink {
	var all []gpu.NVLink
	for link := range m.wiring.links(v.Index) {
		n := gpu.NVLink{Link: link, Active: !v.linkDown(link)}
		var crc, replay, recovery int64
		for i, f := range v.nvlink {
			if f.isAbout(link) {
				crc += v.nvlinkTimes[i] * f.NVLinkCRCErrors
				replay += v.nvlinkTimes[i] * f.NVLinkReplayErrors
				recovery += v.nvlinkTimes[i] * f.NVLinkRecoveryErrors
			}
		}
		n.CRCErrors, n.ReplayErrors, n.RecoveryErrors = &crc, &replay, &recovery
		carried := int64(float64(v.model.nvlinkMBps) * 0.2 * float64(now.Sub(v.loaded).Milliseconds()))
		n.TransmittedKiB, n.ReceivedKiB = &carried, &carried
		all = append(all, n)
	}
	return all
}

// fabric is the state of boards behind NVSwitches, which drivers tell from
// Hopper on.
func (v boardView) fabric(m Machine) string {
	switch {
	case v.fabricState != "":
		return v.fabricState
	case v.model.computeCapability >= 9 && m.wiring.switched(v.Index):
		return "completed"
	}
	return ""
}

// Processes lists the programs that have a board or slice open.
func (s *Source) Processes(ctx context.Context) ([]gpu.Process, error) {
	t, now, err := s.enter(ctx, anyBoard)
	if err != nil {
		return nil, err
	}
	views, err := s.boards(t, now)
	if err != nil {
		return nil, err
	}
	on := s.occupants(t, now, views, s.processes.on())
	var all []gpu.Process
	for _, v := range views {
		if !v.there() {
			continue
		}
		if !v.MIG {
			all = append(all, on.amounts(v.ID, v.model.memoryMiB, v.at(now))...)
		}
		for _, slice := range v.Slices {
			of := on.amounts(slice.ID, *slice.MemoryMiB, v.at(now))
			for i := range of {
				of[i].GPUPercent = nil // not told of slices
			}
			all = append(all, of...)
		}
	}
	return all, nil
}

func positive(v int64) *int64 {
	if v == 0 {
		return nil
	}
	return &v
}
