package state

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

// keptBatches is how many transactions' events are kept at least for streams
// that resume. (A Nomad server keeps 100.)
const keptBatches = 4096

// Event is one event of Nomad's event stream.
type Event struct {
	Topic      string
	Type       string
	Key        string
	Namespace  string
	FilterKeys []string
	row        any
	deleted    bool
}

// Payload is the event's payload, as the stream has it.
func (e *Event) Payload() any {
	switch row := e.row.(type) {
	case *api.Job:
		return map[string]any{"Job": row, "Deleted": e.deleted}
	case *api.Allocation:
		bare := *row
		bare.Job = nil
		return map[string]any{"Allocation": &bare}
	case *api.VariableMetadata:
		return map[string]any{"Metadata": row, "Deleted": e.deleted}
	case *api.ServiceRegistration:
		return map[string]any{"Service": row}
	default:
		return map[string]any{e.Topic: row}
	}
}

// MarshalJSON writes the event in the stream's form, without its index, which
// is that of the Batch.
func (b *Batch) MarshalJSON() ([]byte, error) {
	type wireEvent struct {
		Topic      string
		Type       string
		Key        string
		Namespace  string
		FilterKeys []string
		Index      uint64
		Payload    any
	}
	events := make([]wireEvent, len(b.Events))
	for i := range b.Events {
		e := &b.Events[i]
		events[i] = wireEvent{e.Topic, e.Type, e.Key, e.Namespace, e.FilterKeys, b.Index, e.Payload()}
	}
	return json.Marshal(struct {
		Index  uint64
		Events []wireEvent
	}{b.Index, events})
}

// Batch is the events of one transaction.
type Batch struct {
	Index  uint64
	At     time.Time
	Events []Event
}

func (tx *Tx) emit(e Event) {
	if tx.event == "" {
		return
	}
	e.Type = tx.event
	tx.events = append(tx.events, e)
}

// Events keeps the latest events for streams to read, each at its own pace.
type Events struct {
	mu      sync.Mutex
	batches []*Batch
	changed chan struct{}
}

func newEvents() *Events { return &Events{changed: make(chan struct{})} }

// restart begins the stream after a restart with a batch without events, so
// that a reader that resumes at or before index is told where it is.
func (ev *Events) restart(index uint64) {
	ev.batches = []*Batch{{Index: index, At: time.Now()}}
}

func (ev *Events) publish(index uint64, events []Event) {
	if len(events) == 0 {
		return
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if len(ev.batches) >= 2*keptBatches {
		ev.batches = slices.Clone(ev.batches[len(ev.batches)-keptBatches:])
	}
	ev.batches = append(ev.batches, &Batch{Index: index, At: time.Now(), Events: events})
	close(ev.changed)
	ev.changed = make(chan struct{})
}

// Latest is the index of the newest batch, 0 if there is none.
func (ev *Events) Latest() uint64 {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if len(ev.batches) == 0 {
		return 0
	}
	return ev.batches[len(ev.batches)-1].Index
}

// Next waits for batches with an index larger than after, and returns those
// that there are, oldest first. It returns nil when ctx ends.
func (ev *Events) Next(ctx context.Context, after uint64) []*Batch {
	for {
		ev.mu.Lock()
		changed := ev.changed
		i, _ := slices.BinarySearchFunc(ev.batches, after, func(b *Batch, after uint64) int {
			if b.Index <= after {
				return -1
			}
			return 1
		})
		found := ev.batches[i:len(ev.batches):len(ev.batches)]
		ev.mu.Unlock()
		if len(found) > 0 {
			return found
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
