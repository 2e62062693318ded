package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/nomadplugin/device"
)

// watchedSource is a changingSource that tells of events and vitals too.
type watchedSource struct {
	*changingSource
	events            chan gpu.Event
	inventory, vitals door
}

// door holds up calls into a driver while it is shut. The zero door is open.
type door struct {
	mu   sync.Mutex
	wait chan struct{} // nil while it is open
}

func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wait = make(chan struct{})
}

func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.wait)
	d.wait = nil
}

func (d *door) pass() {
	d.mu.Lock()
	wait := d.wait
	d.mu.Unlock()
	if wait != nil {
		<-wait
	}
}

func (s *watchedSource) Inventory(ctx context.Context) (gpu.Inventory, error) {
	s.inventory.pass()
	return s.changingSource.Inventory(ctx)
}

func (s *watchedSource) Watch(ctx context.Context, emit func(gpu.Event)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			if e.XID < 0 {
				return errors.New("the driver ended the event set")
			}
			emit(e)
		}
	}
}

func (s *watchedSource) Vitals(_ context.Context, boards []gpu.ID) (map[gpu.ID]gpu.Vitals, error) {
	s.vitals.pass()
	vitals := map[gpu.ID]gpu.Vitals{}
	for _, id := range boards {
		vitals[id] = gpu.Vitals{Time: time.Now()}
	}
	return vitals, nil
}

func newWatchedBench(t *testing.T, config map[string]any) (bench, *watchedSource) {
	t.Helper()
	b := newBench(t, config)
	src := &watchedSource{changingSource: b.src, events: make(chan gpu.Event)}
	b.open = func(settings) gpu.Source { return src }
	return b, src
}

// expectNow fails unless what was published last, without any time passing,
// begins with want for a device.
func expectNow(t *testing.T, published <-chan []device.Group, id, want string) {
	t.Helper()
	start := time.Now()
	synctest.Wait()
	if !time.Now().Equal(start) {
		t.Errorf("it took %s", time.Since(start))
	}
	var last []device.Group
	for {
		select {
		case last = <-published:
			continue
		default:
		}
		break
	}
	if last == nil {
		t.Fatalf("nothing is published; want %s %s", id, want)
	}
	for _, g := range last {
		for _, d := range g.Devices {
			if d.ID == id && (d.Healthy != (want == "") || !strings.HasPrefix(d.HealthDescription, want)) {
				t.Errorf("%s is published as %q, want %q", id, d.HealthDescription, want)
			}
		}
	}
}

func TestHealthIsPublishedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, src := newWatchedBench(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		published := b.watch(ctx)
		expectNow(t, published, "GPU-0", "")
		time.Sleep(time.Second)

		src.events <- gpu.Event{Board: "GPU-0", XID: 13, Time: time.Now()}
		synctest.Wait()
		if len(published) > 0 {
			t.Errorf("what an application did wrong is published: %s", described(<-published))
		}
		src.events <- gpu.Event{Board: "GPU-0", XID: 95, Time: time.Now()}
		expectNow(t, published, "GPU-0", "Xid 95")
		if _, err := b.Reserve(ctx, []string{"GPU-0"}); !errors.Is(err, gpu.ErrUnhealthyGPU) {
			t.Errorf("reserving it: %v", err)
		}

		// The plugin starts anew, as after a crash: what it knew was kept.
		cancel()
		_ = b.Close()
		synctest.Wait()
		ctx, cancel = context.WithCancel(t.Context())
		published = b.watch(ctx)
		expectNow(t, published, "GPU-0", "Xid 95")

		src.events <- gpu.Event{Board: "GPU-0", Reset: true, Time: time.Now()}
		expectNow(t, published, "GPU-0", "Xid 95")
		time.Sleep(10 * time.Minute) // held down, and checked
		expectNow(t, published, "GPU-0", "")
		cancel()
		_ = b.Close()
		synctest.Wait()
	})
}

// TestPartsFailAlone: a driver that hangs in one call, and an event stream
// that ends, keep nothing else from working.
func TestPartsFailAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, src := newWatchedBench(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		published := b.watch(ctx)
		expectNow(t, published, "GPU-1", "")

		src.events <- gpu.Event{XID: -1}
		src.inventory.shut()
		time.Sleep(time.Minute) // the look at the GPUs hangs, and events are watched again
		src.events <- gpu.Event{Board: "GPU-1", XID: 79, Time: time.Now()}
		expectNow(t, published, "GPU-1", "Xid 79")

		time.Sleep(time.Minute)
		expectNow(t, published, "GPU-0", "the GPU driver has not answered for 20s")
		src.inventory.open()
		time.Sleep(time.Minute)
		expectNow(t, published, "GPU-0", "")

		src.vitals.shut()
		time.Sleep(5 * time.Minute)
		expectNow(t, published, "GPU-0", "nobody watches the health of the GPUs")
		src.vitals.open()
		time.Sleep(time.Minute)
		expectNow(t, published, "GPU-0", "")
		cancel()
		_ = b.Close()
		synctest.Wait()
	})
}
