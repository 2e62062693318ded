package metrics

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// start is when every test begins.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func n(v int64) *int64 { return &v }

func i(v int) *int { return &v }

func f(v float64) *float64 { return &v }

// board is a board of a product, with what every board tells of itself.
func board(index int, product string) gpu.Board {
	return gpu.Board{
		ID: gpu.ID(fmt.Sprintf("GPU-%d", index)), Index: index, Minor: i(index), Product: product,
		PCIBusID: fmt.Sprintf("00000000:%02X:00.0", 0x1b+index),
		Specs:    gpu.Specs{MemoryMiB: n(40960), PowerW: n(400), CoresClockMHz: n(1410), MemoryClockMHz: n(1215)},
	}
}

// cut puts a board in MIG mode with slices of a profile.
func cut(b gpu.Board, profile string, slices int) gpu.Board {
	b.MIG = true
	for s := range slices {
		b.Slices = append(b.Slices, gpu.Slice{
			ID: gpu.ID(fmt.Sprintf("MIG-%d-%d", b.Index, s)), Index: s, Profile: profile, MemoryMiB: n(4864),
			GPUInstance: i(7 + s), ComputeInstance: i(0),
		})
	}
	return b
}

// sample is what any board tells of its load.
func sample() gpu.Sample {
	return gpu.Sample{
		Time: start, PowerW: n(310), GPUPercent: n(97), MemoryPercent: n(55), EncoderPercent: n(0), DecoderPercent: n(0),
		TemperatureC: n(61), MemoryUsedMiB: n(1024), MemoryTotalMiB: n(40960), MemoryReservedMiB: n(424),
		BAR1UsedMiB: n(4), BAR1TotalMiB: n(65536), SMClockMHz: n(1380), MemoryClockMHz: n(1215), VideoClockMHz: n(1200),
		EnergyMJ: n(123456789012), PCIeTxKBps: n(1500), PCIeRxKBps: n(2500), PerformanceState: n(0),
	}
}

// rig is an exporter and the clock that it goes by.
type rig struct {
	*Exporter
	now time.Time
}

func newRig(c Config) *rig {
	r := &rig{now: start}
	c.Node, c.Now = "node-1", func() time.Time { return r.now }
	r.Exporter = New(c)
	return r
}

// show gives the exporter a machine of boards.
func (r *rig) show(boards ...gpu.Board) {
	s := gpu.State{}.Next(gpu.Inventory{DriverVersion: "550.54.15", Boards: boards})
	r.Looked(r.now, nil)
	r.Devices(s.DriverVersion, s.Offer(gpu.Policy{}, gpu.Overlay{}).Devices, boards)
}

// scrape is the answer as text.
func (r *rig) scrape() string {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// families is a scrape as Prometheus understands it.
func (r *rig) families(t testing.TB) map[string]*dto.MetricFamily {
	t.Helper()
	text := r.scrape()
	families, err := ptr(expfmt.NewTextParser(model.UTF8Validation)).TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus cannot read the answer: %v\n%s", err, text)
	}
	return families
}

func ptr[T any](v T) *T { return &v }

// series maps the labels of a family's series, those given, to values.
func (r *rig) series(t testing.TB, family string, labels ...string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for _, m := range r.families(t)[family].GetMetric() {
		var key []string
		for _, name := range labels {
			at := slices.IndexFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == name })
			if at >= 0 {
				key = append(key, m.GetLabel()[at].GetValue())
			} else {
				key = append(key, "-")
			}
		}
		name := strings.Join(key, " ")
		if _, twice := values[name]; twice {
			t.Errorf("two series of %s with %s", family, name)
		}
		values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
	}
	return values
}
