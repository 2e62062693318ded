package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-ml/drover/device-plugin/mig"
	"github.com/drover-ml/drover/device-plugin/mig/layout"
	"github.com/drover-ml/drover/device-plugin/mig/migtest"
	"github.com/drover-ml/drover/device-plugin/mig/reslice"
)

const layoutFile = "testdata/mig-layouts.yaml"

func TestMIGCommand(t *testing.T) {
	const a100 = "NVIDIA A100-SXM4-40GB"
	tests := []struct {
		name, golden string
		args         []string
		status       int
		stderr       string // part of what is said
	}{
		{name: "places", args: []string{"plan", "-model", a100, "-profiles", "3g.20gb,4g.20gb"}, golden: "mig-place.txt"},
		{name: "places as JSON", args: []string{"plan", "-model", a100, "-profiles", "1g.5gb, 2g.10gb, 1c.3g.20gb, 2c.3g.20gb", "-json"}, golden: "mig-place.json"},
		{name: "places beside others", args: []string{"plan", "-model", a100, "-profiles", "3g.20gb", "-occupied", "0,1,2"}, golden: "mig-place-occupied.txt"},
		{name: "no place", args: []string{"plan", "-model", a100, "-profiles", "3g.20gb", "-occupied", "0,1,5"}, status: 1,
			stderr: "3g.20gb needs slots 0-3 or 4-7; slots 0, 1 and 5 are taken"},
		{name: "no place as JSON", args: []string{"plan", "-model", a100, "-profiles", "3g.20gb,3g.20gb,1g.5gb", "-json"}, status: 1,
			golden: "mig-no-place.json", stderr: "need 9 memory slots; the board has 8"},
		{name: "unknown model", args: []string{"plan", "-model", "NVIDIA L4", "-profiles", "1g.5gb"}, status: 1,
			stderr: `"NVIDIA L4" is no model with known MIG profiles; those are NVIDIA A30, NVIDIA A100-SXM4-40GB`},
		{name: "unknown profile", args: []string{"plan", "-model", a100, "-profiles", "3g.40gb"}, status: 1,
			stderr: `has no MIG profile "3g.40gb"; it has 1g.5gb, 1g.5gb+me`},
		{name: "no profiles", args: []string{"plan", "-model", a100}, status: 2, stderr: "-model needs -profiles"},
		{name: "a slot too far", args: []string{"plan", "-model", a100, "-profiles", "1g.5gb", "-occupied", "8"}, status: 2,
			stderr: `-occupied is a list of memory slots from 0 to 7, not "8"`},
		{name: "slots of no model", args: []string{"plan", "-layout", "all-balanced", "-occupied", "1"}, status: 2, stderr: "-occupied needs -model"},

		{name: "a plan", args: []string{"plan", "-layout", "mixed", "-file", layoutFile, "-simulate", "dgx-a100"}, golden: "mig-plan.txt"},
		{name: "a plan as JSON", args: []string{"plan", "-profiles", "3g.20gb,2g.10gb", "-devices", "1", "-simulate", "2xa100-40gb/all-balanced", "-json"}, golden: "mig-plan.json"},
		{name: "a built-in name", args: []string{"plan", "-layout", "all-1g.5gb.me", "-simulate", "a100-40gb"}, golden: "mig-plan-built-in.txt"},
		{name: "as it should be", args: []string{"assert", "-layout", "all-balanced", "-simulate", "a100-40gb/all-balanced"}, golden: "mig-assert.txt"},
		{name: "not as it should be", args: []string{"assert", "-layout", "all-balanced", "-simulate", "2xa100-40gb"}, status: 1,
			stderr: "2 of 2 boards are not as all-balanced wants them"},
		{name: "boards without MIG", args: []string{"plan", "-layout", "all-balanced", "-simulate", "2xl4"}, status: 1, stderr: "no boards with a MIG mode"},
		{name: "another model's profile", args: []string{"apply", "-layout", "all-3g.40gb", "-simulate", "a100-40gb"}, status: 1,
			stderr: `board 0 (NVIDIA A100-SXM4-40GB): A100-SXM4-40GB has no MIG profile "3g.40gb"`},
		{name: "impossible", args: []string{"apply", "-profiles", "7g.40gb,1g.5gb", "-simulate", "a100-40gb"}, status: 1, stderr: "need 8 compute slices"},
		{name: "no such layout", args: []string{"plan", "-layout", "blue", "-file", layoutFile, "-simulate", "a100-40gb"}, status: 1,
			stderr: `testdata/mig-layouts.yaml has no layout "blue"; it has dgx-station, mixed, and built in are all-disabled`},
		{name: "no such file", args: []string{"plan", "-layout", "blue", "-file", "nowhere.yaml", "-simulate", "a100-40gb"}, status: 1, stderr: "nowhere.yaml: no such file"},
		{name: "no such board", args: []string{"plan", "-layout", "all-balanced", "-devices", "7", "-simulate", "a100-40gb"}, status: 1, stderr: "no board 7 with a MIG mode"},
		{name: "what board", args: []string{"plan", "-layout", "all-balanced", "-devices", "left", "-simulate", "a100-40gb"}, status: 2, stderr: `"left" is no board`},
		{name: "nothing wanted", args: []string{"apply"}, status: 2, stderr: "-layout or -profiles is missing"},
		{name: "two things wanted", args: []string{"apply", "-layout", "x", "-profiles", "y"}, status: 2, stderr: "exclude each other"},
		{name: "a time for nothing", args: []string{"apply", "-layout", "all-balanced", "-timeout", "1m"}, status: 2, stderr: "needs -wait or -evict"},
		{name: "no command", status: 2, stderr: "plan, apply or assert?"},
		{name: "unknown command", args: []string{"cut"}, status: 2, stderr: `unknown command "cut"`},
		{name: "help", args: []string{"-h"}, golden: "mig-help.txt"},
		{name: "help of apply", args: []string{"apply", "-h"}, golden: "mig-apply-help.txt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			args := tt.args
			if strings.Contains(strings.Join(args, " "), "-simulate") {
				args = append(args, "-node", "n", "-state-dir", t.TempDir())
			}
			if status := run(t.Context(), "mig", args, &stdout, &stderr); status != tt.status {
				t.Fatalf("status %d, want %d; it said %s", status, tt.status, stderr.String())
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("it said %q, want %q", stderr.String(), tt.stderr)
			}
			if tt.golden != "" {
				golden(t, filepath.Join("testdata", tt.golden), stdout.String())
			}
		})
	}
}

// TestMIGApply cuts boards with no plugin around: one that a process of this
// machine uses, and another; and then again.
func TestMIGApply(t *testing.T) {
	dir := t.TempDir()
	mig := func(args ...string) (int, string, string) {
		var stdout, stderr strings.Builder
		args = append(args, "-simulate", "2xa100-40gb", "-node", "n", "-state-dir", dir)
		status := run(t.Context(), "mig", args, &stdout, &stderr)
		return status, stdout.String(), stderr.String()
	}
	status, stdout, stderr := mig("plan", "-layout", "all-balanced", "-json")
	var report migReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || status != 0 || len(report.Boards) != 2 {
		t.Fatalf("plan: status %d, %v: %s", status, err, stderr)
	}

	user := exec.Command("sleep", "600")
	user.Env = []string{"NVIDIA_VISIBLE_DEVICES=" + report.Boards[0].ID, "PATH=" + os.Getenv("PATH")}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- user.Wait() }()
	t.Cleanup(func() { _ = user.Process.Kill() })
	status, _, stderr = mig("apply", "-layout", "all-balanced")
	if status != 1 || !strings.Contains(stderr, "in use: board 0 by 1 process (") || !strings.Contains(stderr, "nothing was changed (-wait waits for them") {
		t.Errorf("a busy board: status %d: %s", status, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "mig.json")); err == nil {
		t.Error("something is wanted although it was refused")
	}
	status, stdout, stderr = mig("apply", "-layout", "all-balanced", "-devices", "1")
	if status != 0 || !strings.Contains(stdout, "board 1: done") || strings.Contains(stdout, "board 0") {
		t.Errorf("the other board: status %d: %s%s", status, stdout, stderr)
	}

	if err := user.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if status, stdout, stderr = mig("apply", "-layout", "all-balanced", "-wait", "-timeout", "1m", "-json"); status != 0 {
		t.Fatalf("status %d: %s%s", status, stdout, stderr)
	}
	report = migReport{}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	for _, b := range report.Boards {
		if b.Phase != "done" || b.Reached != (b.Index == 1) {
			t.Errorf("%+v", b)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "mig.json"))
	if err != nil {
		t.Fatal(err)
	}
	status, _, stderr = mig("apply", "-layout", "all-balanced")
	after, _ := os.ReadFile(filepath.Join(dir, "mig.json"))
	if status != 0 || string(after) != string(before) {
		t.Errorf("applied again: status %d: %s\nfrom %s\nto %s", status, stderr, before, after)
	}
	if status, _, stderr = mig("assert", "-layout", "all-balanced"); status != 0 {
		t.Errorf("assert: %s", stderr)
	}
}

// TestMIGApplyByThePlugin leaves the work to the process that reconciles, and
// takes it over when that ends.
func TestMIGApplyByThePlugin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	machine := migtest.NewMachine("NVIDIA A100-SXM4-40GB", 2)
	pid := machine.Use(1, -1, time.Time{})
	stateDir := t.TempDir()
	dir, err := reslice.OpenDir(stateDir)
	if err != nil {
		t.Fatal(err)
	}
	release, err := dir.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := reslice.New(reslice.Config{Controller: machine, Store: dir, Limits: reslice.Limits{Settle: time.Millisecond, Poll: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	working.Go(func() { plugin.Run(ctx) })

	boards := machine.Read()
	targets, err := layout.Profiles([]string{"3g.20gb", "4g.20gb"}, boards)
	if err != nil {
		t.Fatal(err)
	}
	wanted := func(i int, c mig.Controller) *migMachine {
		plan, err := mig.NewPlan(boards[i], targets[i].Layout)
		if err != nil {
			t.Fatal(err)
		}
		return &migMachine{name: "halves", stateDir: stateDir, controller: c, boards: []migBoard{{targets[i], plan}}}
	}
	// A controller that can do nothing: the plugin does it.
	s, err := migApply{}.run(ctx, wanted(0, nil), io.Discard)
	if err != nil || s.Boards["GPU-0"].Phase != reslice.Done {
		t.Fatalf("by the plugin: %+v, %v", s, err)
	}
	if n := len(machine.Read()[0].Instances); n != 2 {
		t.Errorf("board 0 has %d instances", n)
	}

	said := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		_, err := migApply{wait: true}.run(t.Context(), wanted(1, machine), lines(said))
		ended <- err
	}()
	for line := range said {
		if strings.HasPrefix(line, "board 1: waiting: waits for 1 process") {
			break
		}
	}
	cancel() // the plugin ends in the middle of it
	working.Wait()
	if err := release(); err != nil {
		t.Fatal(err)
	}
	machine.End(pid)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := len(machine.Read()[1].Instances); n != 2 {
		t.Errorf("board 1 has %d instances", n)
	}
}

// lines delivers what is written to it.
type lines chan<- string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
