package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const startRuns = 50

// cookie is what a Nomad agent shows to its plugins.
const cookie = "NOMAD_PLUGIN_MAGIC_COOKIE=e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255"

// benchStart measures from exec to the handshake line, which a Nomad agent
// waits for three times a plugin. The bound is 50 ms.
func benchStart(ctx context.Context) ([]row, error) {
	var rows []row
	for _, name := range []string{"nomad-driver-ml", "nomad-device-gpu"} {
		path, err := filepath.Abs(filepath.Join("bin", name))
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w: run `make build` first", err)
		}
		var ms []float64
		for range startRuns {
			d, err := handshake(ctx, path)
			if err != nil {
				return nil, fmt.Errorf("starting %s: %w", name, err)
			}
			ms = append(ms, float64(d)/1e6)
		}
		slices.Sort(ms)
		rows = append(rows,
			spread("exec to handshake, median", name, "ms", ms),
			row{Case: "exec to handshake, p99", Subject: name, Unit: "ms", Value: quantile(ms, .99), Min: ms[0], Max: ms[len(ms)-1],
				Note: fmt.Sprintf("%.2f x the bound of 50 ms", quantile(ms, .99)/50)})
	}
	return rows, nil
}

// handshake starts a plugin as an agent does and returns how long its
// handshake line took.
func handshake(ctx context.Context, path string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), cookie, "PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000", "PLUGIN_PROTOCOL_VERSIONS=2")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	took := time.Since(start)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		return 0, fmt.Errorf("waiting for the handshake: %w", err)
	}
	if !strings.HasPrefix(line, "1|2|unix|") {
		return 0, fmt.Errorf("handshake is %q", line)
	}
	return took, nil
}
