package metrics

import (
	"bytes"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/drover-ml/drover/internal/version"
)

// collection is how reading one kind of thing goes.
type collection struct {
	succeeded, failed int64
	last, lastSuccess time.Time
	took              time.Duration // the last one
	failing           bool
}

// collected records a reading that has just ended. It reports whether it
// succeeded.
func (e *Exporter) collected(name string, started time.Time, err error) bool {
	now := e.config.Now()
	c := e.collections[name]
	c.last, c.took, c.failing = now, max(now.Sub(started), 0), err != nil
	if err == nil {
		c.lastSuccess = now
		c.succeeded++
	} else {
		c.failed++
	}
	e.collections[name] = c
	return err == nil
}

// writeCollections writes how the plugin's own readings go.
func (p *page) writeCollections(t *text) {
	names := slices.Sorted(maps.Keys(p.collections))
	for _, f := range []field[collection]{
		{"drover_gpu_collection_success", gauge, "Whether the last reading succeeded.",
			func(c collection) (float64, bool) { return yes(!c.failing), true }},
		{"drover_gpu_collection_age_seconds", gauge, "Time since a reading succeeded.",
			func(c collection) (float64, bool) { return p.now.Sub(c.lastSuccess).Seconds(), c.succeeded > 0 }},
		{"drover_gpu_collection_duration_seconds", gauge, "How long the last reading took.",
			func(c collection) (float64, bool) { return c.took.Seconds(), true }},
		{"drover_gpu_collections_total", counter, "Readings, failed ones included.",
			func(c collection) (float64, bool) { return float64(c.succeeded + c.failed), true }},
		{"drover_gpu_collection_errors_total", counter, "Readings that failed.",
			func(c collection) (float64, bool) { return float64(c.failed), true }},
	} {
		t.family(f.name, f.kind, f.help)
		for _, name := range names {
			if v, ok := f.read(p.collections[name]); ok {
				t.series()
				t.label("collection", name)
				t.value(v)
			}
		}
	}
}

// writeSelf writes what the plugin's process takes.
func writeSelf(t *text) {
	t.family("drover_gpu_plugin_info", gauge, "The plugin's version.")
	t.series()
	t.label("version", version.Version)
	t.label("goversion", runtime.Version())
	t.value(1)
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		t.family("process_cpu_seconds_total", counter, "CPU time that the plugin has used.")
		t.series()
		t.value((time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Seconds())
	}
	if pages, ok := residentPages(); ok {
		t.family("process_resident_memory_bytes", gauge, "Memory that the plugin holds.")
		t.series()
		t.value(float64(pages * int64(os.Getpagesize())))
	}
}

// residentPages is the second number in statm.
func residentPages() (int64, bool) {
	b, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(b)
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return n, err == nil
}
