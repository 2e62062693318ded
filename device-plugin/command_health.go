package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/device-plugin/health"
	"github.com/drover-ml/drover/device-plugin/health/monitor"
	"github.com/drover-ml/drover/internal/gpustatus"
)

const (
	// clearPatience is for how long the plugin may take to clear a device.
	clearPatience = 10 * time.Second
	// staleAfter is the age of what a running plugin wrote from which on it is
	// remarkable: it writes at least every five minutes.
	staleAfter = 15 * time.Minute
)

// healthCommand prints the health of the GPUs, explains an Xid code, or clears
// a device that was repaired.
func healthCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("health")
	config := machineFlags(flags)
	asJSON := flags.Bool("json", false, "print JSON")
	code := flags.Int("xid", 0, "explain an Xid `code` instead")
	clearID := flags.String("clear", "", "take the GPU or slice of this `ID` for repaired instead: it is checked, and returns to service if that passes")
	if err := parseFlags(flags, args, 0, stdout); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case given["xid"] && given["clear"]:
		return usagef("-xid and -clear are two questions; ask one")
	case given["xid"] && *code < 1:
		return usagef("-xid is %d; Xid codes are 1 and above", *code)
	case given["xid"]:
		return explainXID(stdout, *code, *asJSON)
	case given["clear"]:
		return clearDevice(ctx, config.StateDir, gpu.ID(*clearID), stdout)
	}
	report, err := machineHealth(ctx, config, stderr)
	if err != nil {
		return err
	}
	if *asJSON {
		return indented(stdout, report)
	}
	return printHealth(stdout, report)
}

func indented(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// machineHealth is what the plugin of the machine says. Where none runs, it is
// what one would say that was started now.
func machineHealth(ctx context.Context, config *Config, stderr io.Writer) (health.Report, error) {
	if config.Simulate == "" && pluginRuns(config.StateDir) {
		report, written, err := storedHealth(config.StateDir)
		if err != nil {
			return health.Report{}, err
		}
		if age := time.Since(written); age > staleAfter {
			fmt.Fprintf(stderr, "the plugin has written nothing for %s: see its log\n", age.Round(time.Second))
		}
		return report, nil
	}
	s, err := config.check()
	if err != nil {
		return health.Report{}, err
	}
	src := openSource(s, hclog.New(&hclog.LoggerOptions{Output: stderr}))
	m := machineOf(src)
	defer m.Close()
	tracker, err := health.NewTracker(s.health, monitor.BootID())
	if err != nil {
		return health.Report{}, err
	}
	now := time.Now()
	if config.Simulate == "" {
		fmt.Fprintln(stderr, "no plugin runs here; this is what one reading of the GPUs tells")
		if err := restore(tracker, now, config.StateDir); err != nil {
			fmt.Fprintln(stderr, err)
		}
	}
	inv, err := m.Inventory(ctx)
	switch {
	case errors.Is(err, gpu.ErrNoDriver):
		fmt.Fprintln(stderr, err)
		return tracker.Report(), nil
	case err != nil:
		tracker.ObserveFailure(now, err)
		return tracker.Report(), nil
	}
	tracker.ObserveInventory(now, inv)
	if m.vitals == nil || len(inv.Boards) == 0 {
		return tracker.Report(), nil
	}
	var boards []gpu.ID
	for _, b := range inv.Boards {
		if b.ID != "" && b.Fault == "" {
			boards = append(boards, b.ID)
		}
	}
	vitals, err := m.vitals.Vitals(ctx, boards)
	if err != nil {
		return health.Report{}, fmt.Errorf("reading the vitals of the GPUs: %w", err)
	}
	tracker.ObserveVitals(now, vitals)
	return tracker.Report(), nil
}

// pluginRuns reports whether a plugin keeps its state in a folder. One who may
// not ask it for its lock takes what it wrote for its word.
func pluginRuns(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, fs.ErrPermission)
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func storedHealth(dir string) (health.Report, time.Time, error) {
	data, err := os.ReadFile(filepath.Join(dir, monitor.FileName))
	if err != nil {
		return health.Report{}, time.Time{}, fmt.Errorf("reading what the plugin wrote: %w", err)
	}
	return health.ReadReport(data)
}

func restore(tracker *health.Tracker, now time.Time, dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, monitor.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return tracker.Restore(now, data)
}

// clearDevice asks the plugin to clear a device, and waits until it has.
func clearDevice(ctx context.Context, dir string, id gpu.ID, stdout io.Writer) error {
	report, _, err := storedHealth(dir)
	if err != nil {
		return fmt.Errorf("clearing %s: %w", id, err)
	}
	known := func(d health.DeviceReport) bool { return d.ID == id }
	if !slices.ContainsFunc(report.Devices, known) {
		return fmt.Errorf("clearing %s: no such GPU or slice is known here; nomad-device-gpu health lists them", id)
	}
	done, err := monitor.RequestClear(dir, id)
	if err != nil {
		return err
	}
	if !pluginRuns(dir) {
		_, err := fmt.Fprintf(stdout, "No plugin runs here. %s is cleared, and then checked, when one is started.\n", id)
		return err
	}
	for deadline := time.Now().Add(clearPatience); !done(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("clearing %s: the plugin has not done it within %s; it will when it can read the GPUs", id, clearPatience)
		}
		if !sleep(ctx, clearPatience/100) {
			return ctx.Err()
		}
	}
	_, err = fmt.Fprintf(stdout, "%s is cleared. It returns to service when it passes a check: nomad-device-gpu health tells.\n", id)
	return err
}

// explainedXID is what `health -xid -json` prints.
type explainedXID struct {
	Code       int               `json:"code"`
	Name       string            `json:"name"`
	Meaning    string            `json:"meaning"`
	Known      bool              `json:"known"`
	Class      health.Class      `json:"class"`
	Resolution health.Resolution `json:"resolution"`
	Severity   health.Severity   `json:"severity"`
	Action     gpustatus.Action  `json:"action,omitempty"`
	InSlice    bool              `json:"in_slice"`
}

func explainXID(w io.Writer, code int, asJSON bool) error {
	x, known := health.LookupXID(code)
	if asJSON {
		return indented(w, explainedXID{
			Code: x.Code, Name: x.Name, Meaning: x.Meaning, Known: known, Class: x.Class, Resolution: x.Resolution,
			Severity: x.Default.Severity, Action: x.Default.Action, InSlice: x.InSlice,
		})
	}
	consequence := map[health.Severity]string{
		health.Record:   "counted; the GPU stays in service",
		health.Degraded: "shown; the GPU stays in service",
		health.Unhealthy: "the GPU gets no new work until it passed a check; " + map[gpustatus.Action]string{
			gpustatus.Keep: "running work may finish",
			gpustatus.Move: "running work moves away",
			gpustatus.End:  "running work is ended",
		}[x.Default.Action],
	}[x.Default.Severity]
	scope := "the whole GPU"
	if x.InSlice {
		scope = "the MIG slice, if the event names one; otherwise the whole GPU"
	}
	label := fmt.Sprint(code)
	if !known {
		label = "unknown"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\n", x)
	fmt.Fprintf(t, "Name\t%s\n", x.Name)
	fmt.Fprintf(t, "Class\t%s\n", x.Class)
	fmt.Fprintf(t, "NVIDIA advises\t%s\n", x.Resolution)
	fmt.Fprintf(t, "Severity\t%s: %s\n", x.Default.Severity, consequence)
	fmt.Fprintf(t, "Concerns\t%s\n", scope)
	fmt.Fprintf(t, "Override\thealth { xid %q { severity = \"record\" } }\n", label)
	return t.Flush()
}

func printHealth(w io.Writer, r health.Report) error {
	if r.Failure != "" {
		fmt.Fprintf(w, "NO GPU GETS NEW WORK: %s\n", r.Failure)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "WARNING: %s\n", warning)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSTATE\tSINCE\tNEXT CHECK\tCHECKS\tXIDS\tREASON")
	for _, d := range r.Devices {
		name, next := d.Product, "-"
		if d.Profile != "" {
			name += " MIG " + d.Profile
		}
		if d.NextCheck != nil {
			next = d.NextCheck.UTC().Format(time.DateTime)
		}
		state := string(d.State)
		if d.State == health.Healthy && slices.ContainsFunc(d.Conditions, func(c health.ConditionReport) bool { return c.Severity == health.Degraded }) {
			state = string(health.Degraded)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\n",
			d.ID, name, state, d.Since.UTC().Format(time.DateTime), next, d.Attempts, d.MaxAttempts, xidCounts(d.XIDs), healthReason(d))
	}
	return t.Flush()
}

// xidCounts is "13 (2), 31": the codes that were seen, and how often.
func xidCounts(counts []health.XIDCount) string {
	if len(counts) == 0 {
		return "-"
	}
	var all []string
	for _, c := range counts {
		text := fmt.Sprint(c.Code)
		if c.Count > 1 {
			text += fmt.Sprintf(" (%d)", c.Count)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// healthReason tells why a device is out of service, or what else is wrong
// with it.
func healthReason(d health.DeviceReport) string {
	if d.Reason != "" {
		return gpustatus.Describe(d.Reason, d.Action)
	}
	var all []string
	for _, c := range d.Conditions {
		all = append(all, c.Text)
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}
