package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/gpustatus"
)

func TestStatusFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil).indifferent(t)
		ctx, cancel := context.WithCancel(t.Context())
		published := b.watch(ctx)
		<-published
		synctest.Wait()
		path := b.node.statusPath()
		read := func(when string, want ...string) gpustatus.Status {
			t.Helper()
			synctest.Wait()
			s, err := gpustatus.Read(path)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			var got []string
			for _, d := range s.Devices {
				got = append(got, d.ID+" "+d.Reason+" "+string(d.Action))
			}
			if strings.Join(got, "; ") != strings.Join(want, "; ") {
				t.Errorf("%s: status %q, want %q", when, got, want)
			}
			return s
		}
		read("at the start")

		b.node.put("test", gpu.Overlay{Faults: map[gpu.ID]gpu.Fault{"GPU-1": {Reason: "ECC", Action: gpustatus.Move}}})
		since := read("a fault", "GPU-1 ECC move").Devices[0].Since
		if g := <-published; described(g) != "GPU-0 ok, GPU-1 ECC; running work moves away" {
			t.Errorf("published %s", described(g))
		}

		time.Sleep(time.Hour)
		b.src.set(boards("GPU-1"), nil)
		time.Sleep(time.Minute)
		s := read("another", "GPU-0 the driver no longer lists this GPU end", "GPU-1 ECC move")
		if d, _ := s.Find("GPU-1"); !d.Since.Equal(since) {
			t.Errorf("the first fault is since %v, was since %v", d.Since, since)
		}
		cancel()
		if err := b.Close(); err != nil {
			t.Error(err)
		}

		// The plugin starts anew: a fault that is still there has been there
		// since it began.
		time.Sleep(time.Hour)
		broken := boards("GPU-0", "GPU-1")
		broken.Boards[1].Fault = "ECC"
		b.src.set(broken, nil)
		ctx, cancel = context.WithCancel(t.Context())
		<-b.indifferent(t).watch(ctx)
		if d := read("restarted", "GPU-1 ECC move").Devices[0]; !d.Since.Equal(since) {
			t.Errorf("it is unhealthy since %v, was since %v", d.Since, since)
		}
		cancel()
		_ = b.Close()
		synctest.Wait()
	})
}

func TestStateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(dir); !errors.Is(err, errStateInUse) {
		t.Errorf("a second holder: %v", err)
	}
	first.Close()
	again, err := lockState(dir)
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	again.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(file); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("a file in its place: %v", err)
	}
}

// TestWithoutStateFolder: GPUs are offered all the same, and the log says what
// does not work.
func TestWithoutStateFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.settings.stateDir = "/dev/null/x"
		ctx, cancel := context.WithCancel(t.Context())
		if g := <-b.watch(ctx); described(g) != "GPU-0 ok, GPU-1 ok" {
			t.Errorf("published %s", described(g))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		_ = b.Close()
		synctest.Wait()
		if n := strings.Count(b.log.String(), "tasks do not hear of failing GPUs"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, b.log)
		}
	})
}
