package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/nomadplugin/base"
	"github.com/drover-ml/drover/nomadplugin/device"
	"github.com/drover-ml/drover/nomadplugin/host"
	"github.com/drover-ml/drover/nomadplugin/schema"
)

const (
	// gpuPreset is a node of eight boards of seven slices.
	gpuPreset  = "dgx-a100-80gb/all-1g.10gb"
	gpuDevices = 56
	gpuSettle  = 10 * time.Second
	gpuRounds  = 5
	gpuRound   = 20 * time.Second
	// The bounds: the share of one core, and the memory.
	gpuCPUPercent = 1.0
	gpuMiB        = 40.0
)

// benchGPU measures what the device plugin costs a node while an agent takes
// its statistics every second, alone and with Prometheus asking every 5 s.
func benchGPU(ctx context.Context) ([]row, error) {
	var rows []row
	for _, scraped := range []bool{false, true} {
		name := "statistics every 1 s"
		if scraped {
			name += ", metrics every 5 s"
		}
		more, err := gpuCost(ctx, name, scraped)
		rows = append(rows, more...)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", name, err)
		}
	}
	return rows, nil
}

func gpuCost(ctx context.Context, name string, scraped bool) ([]row, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	dir, err := os.MkdirTemp("", "bench-gpu")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	config := map[string]any{"simulate": gpuPreset, "simulate_node": "bench", "state_dir": dir}
	if scraped {
		if config["metrics_address"], err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	p, err := startGPUPlugin(ctx, config)
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	failed := make(chan error, 3)
	ready := make(chan int, 1)
	go func() {
		failed <- p.Device().Fingerprint(ctx, func(groups []device.Group) error {
			n := 0
			for _, g := range groups {
				n += len(g.Devices)
			}
			select {
			case ready <- n:
			default:
			}
			return nil
		})
	}()
	select {
	case n := <-ready:
		if n != gpuDevices {
			return nil, fmt.Errorf("the plugin offers %d devices, not %d", n, gpuDevices)
		}
	case err := <-failed:
		return nil, fmt.Errorf("the plugin offers nothing: %w", err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	go func() {
		failed <- p.Device().Stats(ctx, time.Second, func([]device.GroupStats) error { return nil })
	}()
	if scraped {
		go func() { failed <- scrape(ctx, "http://"+config["metrics_address"].(string)+"/metrics") }()
	}
	return gpuRows(ctx, name, p.PID(), failed)
}

// gpuRows watches the plugin for a while.
func gpuRows(ctx context.Context, name string, pid int, failed <-chan error) ([]row, error) {
	var percents, sizes []float64
	if err := wait(ctx, gpuSettle, failed); err != nil {
		return nil, err
	}
	for range gpuRounds {
		before, _, err := processUse(pid)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if err := wait(ctx, gpuRound, failed); err != nil {
			return nil, err
		}
		after, mib, err := processUse(pid)
		if err != nil {
			return nil, err
		}
		percents = append(percents, 100*float64(after-before)/float64(time.Since(start)))
		sizes = append(sizes, mib)
	}
	cpu, memory := spread(name, "nomad-device-gpu", "% of a core", percents), spread(name, "nomad-device-gpu", "MiB resident", sizes)
	cpu.Note = fmt.Sprintf("%.2f x the bound of %.0f %%", cpu.Max/gpuCPUPercent, gpuCPUPercent)
	memory.Note = fmt.Sprintf("%.2f x the bound of %.0f MiB", memory.Max/gpuMiB, gpuMiB)
	return []row{cpu, memory}, nil
}

func wait(ctx context.Context, d time.Duration, failed <-chan error) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-failed:
		return fmt.Errorf("the plugin's stream ended: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func startGPUPlugin(ctx context.Context, config map[string]any) (*host.Process, error) {
	path, err := filepath.Abs(filepath.Join("bin", "nomad-device-gpu"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: run `make build` first", err)
	}
	p, err := host.Launch(ctx, host.Config{Path: path})
	if err != nil {
		return nil, err
	}
	spec, err := p.ConfigSchema(ctx)
	if err == nil {
		var packed []byte
		if packed, err = schema.Encode(spec, config); err == nil {
			err = p.SetConfig(ctx, base.Config{MsgPack: packed, APIVersion: base.APIVersion})
		}
	}
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func scrape(ctx context.Context, url string) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
}

// ticksPerSecond is of the times in /proc, on all of Linux.
const ticksPerSecond = 100

// processUse is the time that a process has used, and its resident memory now.
func processUse(pid int) (used time.Duration, mib float64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var numbers [3]int64
	for i, at := range []int{11, 12, 21} { // utime, stime, rss
		if numbers[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
		}
	}
	used = time.Duration(numbers[0]+numbers[1]) * (time.Second / ticksPerSecond)
	return used, float64(numbers[2]*int64(os.Getpagesize())) / (1 << 20), nil
}
