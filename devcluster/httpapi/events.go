package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/devcluster/state"
)

// selection is which events a stream is to have.
type selection struct {
	namespace string
	topics    map[string][]string // topic or "*" to keys; "*" is every key
}

// parseSelection reads ?topic=Job:some-job, ?namespace and ?index. Without a
// topic a stream has them all.
func parseSelection(r *http.Request) (sel selection, after uint64, err error) {
	q := r.URL.Query()
	sel = selection{namespace: namespace(r), topics: map[string][]string{}}
	for _, t := range q["topic"] {
		topic, key, ok := strings.Cut(t, ":")
		if !ok || topic == "" {
			return sel, 0, badRequest("Invalid topic query: invalid key value pair for topic, topic: %s", t)
		}
		sel.topics[topic] = append(sel.topics[topic], key)
	}
	if len(sel.topics) == 0 {
		sel.topics["*"] = []string{"*"}
	}
	if v := q.Get("index"); v != "" {
		index, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return sel, 0, badRequest("Unable to parse index: %v", err)
		}
		after = max(index, 1) - 1
	}
	return sel, after, nil
}

func (sel selection) wants(e *state.Event) bool {
	if e.Namespace != "" && sel.namespace != "*" && e.Namespace != sel.namespace {
		return false
	}
	keys := slices.Concat(sel.topics[e.Topic], sel.topics["*"])
	return slices.ContainsFunc(keys, func(k string) bool {
		return k == "*" || k == e.Key || k != "" && slices.Contains(e.FilterKeys, k)
	})
}

// encode is a batch's line, nil if none of its events is wanted.
func (sel selection) encode(b *state.Batch) ([]byte, error) {
	wanted := state.Batch{Index: b.Index}
	for _, e := range b.Events {
		if sel.wants(&e) {
			wanted.Events = append(wanted.Events, e)
		}
	}
	if len(wanted.Events) == 0 {
		return nil, nil
	}
	return json.Marshal(&wanted)
}

// nextBatches waits for events, at most for a heartbeat. alive is false once
// the client is gone.
func (s *Server) nextBatches(r *http.Request, after uint64, heartbeat time.Duration) (batches []*state.Batch, alive bool) {
	ctx, cancel := context.WithTimeout(r.Context(), heartbeat)
	defer cancel()
	batches = s.store.Events().Next(ctx, after)
	return batches, r.Context().Err() == nil
}

// holdBack waits until a batch may be told, if events are being delayed.
func (s *Server) holdBack(r *http.Request, b *state.Batch) bool {
	wait := time.Until(b.At.Add(s.EventDelay()))
	if wait <= 0 {
		return true
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}
