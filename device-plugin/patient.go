package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/drover-ml/drover/device-plugin/gpu"
	"github.com/drover-ml/drover/internal/topology"
)

// patient wraps a source whose calls may hang, as those into a driver do when
// a GPU is dying: a call that takes longer than limit answers with an error,
// and goes on in the background. Until it returns, further calls wait for it
// rather than pile up behind it.
type patient struct {
	gpu.Source
	limit     time.Duration
	inventory flight[gpu.Inventory]
	sample    flight[readings[gpu.Sample]]
	vitals    flight[readings[gpu.Vitals]]
	wiring    flight[topology.Graph]
	processes flight[[]gpu.Process]
	closing   flight[struct{}]
}

// closePatience is below the two seconds that an agent gives a plugin to end.
const closePatience = time.Second

func (p *patient) Inventory(ctx context.Context) (gpu.Inventory, error) {
	return p.inventory.wait(ctx, p.limit, p.Source.Inventory)
}

func (p *patient) Sample(ctx context.Context, ids []gpu.ID) (map[gpu.ID]gpu.Sample, error) {
	return readEach(ctx, &p.sample, p.limit, ids, p.Source.Sample)
}

func (p *patient) Close() error {
	_, err := p.closing.wait(context.Background(), closePatience, func(context.Context) (struct{}, error) {
		return struct{}{}, p.Source.Close()
	})
	return err
}

// readings are what was read of the devices that were asked for.
type readings[T any] struct {
	asked []gpu.ID
	of    map[gpu.ID]T
}

// readEach reads devices, all of them in one call. A call under way that is
// about others is waited for, and not taken for the answer.
func readEach[T any](
	ctx context.Context, f *flight[readings[T]], limit time.Duration, ids []gpu.ID,
	read func(context.Context, []gpu.ID) (map[gpu.ID]T, error),
) (map[gpu.ID]T, error) {
	for {
		r, err := f.wait(ctx, limit, func(ctx context.Context) (readings[T], error) {
			of, err := read(ctx, ids)
			return readings[T]{ids, of}, err
		})
		if err != nil {
			return nil, err
		}
		if slices.Equal(r.asked, ids) {
			return r.of, nil
		}
	}
}

// flight is a call of which at most one is under way.
type flight[T any] struct {
	mu      sync.Mutex
	current *answer[T]
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func (f *flight[T]) wait(ctx context.Context, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	f.mu.Lock()
	a := f.current
	if a == nil {
		a = &answer[T]{done: make(chan struct{})}
		f.current = a
		go func() {
			defer func() {
				if r := recover(); r != nil {
					a.err = fmt.Errorf("reading the GPUs panicked: %v", r)
				}
				f.mu.Lock()
				f.current = nil
				f.mu.Unlock()
				close(a.done)
			}()
			a.value, a.err = call(context.WithoutCancel(ctx))
		}()
	}
	f.mu.Unlock()

	timer := time.NewTimer(limit)
	defer timer.Stop()
	var none T
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-timer.C:
		return none, fmt.Errorf("the GPU driver has not answered for %s", limit)
	}
}
