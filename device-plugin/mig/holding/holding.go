// Package holding finds the tasks that hold a GPU or slice without having it
// open.
//
// A driver lists the processes that have a device open. A task that was given
// a slice and still loads its data, or sits between two epochs on the CPU, is
// not among them, and must not lose its slice all the same. It is known by its
// environment: Nomad's allocation ID, and the device's UUID in
// NVIDIA_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES.
package holding

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/device-plugin/mig"
)

// Controller is a mig.Controller whose readings have, among the processes of a
// board or instance, the tasks that hold it. Processes whose environment this
// process may not read are not found.
type Controller struct {
	mig.Controller
	// Proc is where the kernel shows processes; "" is /proc.
	Proc string
}

// Boards implements mig.Controller.
func (c Controller) Boards(ctx context.Context) ([]mig.Board, error) {
	boards, err := c.Controller.Boards(ctx)
	if err != nil || len(boards) == 0 {
		return boards, err
	}
	holders, err := c.holders()
	if err != nil {
		return nil, err
	}
	for i := range boards {
		b := &boards[i]
		b.Processes = with(b.Processes, holders[b.ID])
		b.Instances = slices.Clone(b.Instances)
		for j := range b.Instances {
			in := &b.Instances[j]
			for _, id := range in.UUIDs {
				in.Processes = with(in.Processes, holders[id])
				b.Processes = with(b.Processes, holders[id])
			}
		}
	}
	return boards, nil
}

// with adds PIDs to others, without changing those.
func with(pids, more []int) []int {
	if len(more) == 0 {
		return pids
	}
	all := slices.Concat(pids, more)
	slices.Sort(all)
	return slices.Compact(all)
}

// mostEnvironment is above what the kernel allows by default for arguments and
// environment together.
const mostEnvironment = 8 << 20

// holders are the PIDs of tasks, by the devices that they hold.
func (c Controller) holders() (map[string][]int, error) {
	proc := c.Proc
	if proc == "" {
		proc = "/proc"
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("looking for tasks that hold a GPU: %w", err)
	}
	holders := make(map[string][]int)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		environment, err := read(filepath.Join(proc, entry.Name(), "environ"))
		if err != nil {
			continue // it ended, or is somebody's whom this process may not ask
		}
		for _, id := range devicesOf(environment) {
			holders[id] = append(holders[id], pid)
		}
	}
	return holders, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, mostEnvironment))
	return content, errors.Join(err, f.Close())
}

// devicesOf are the UUIDs that a task's environment names, each once. Of a
// replica ("<UUID>::0") it is the device's.
func devicesOf(environment []byte) []string {
	isTask := false
	var ids []string
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		name, value, _ := strings.Cut(string(variable), "=")
		switch name {
		case "NOMAD_ALLOC_ID":
			isTask = value != ""
		case "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES":
			for id := range strings.SplitSeq(value, ",") {
				id, _, _ = strings.Cut(strings.TrimSpace(id), "::")
				if strings.HasPrefix(id, "GPU-") || strings.HasPrefix(id, "MIG-") {
					ids = append(ids, id)
				}
			}
		}
	}
	if !isTask {
		return nil
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
