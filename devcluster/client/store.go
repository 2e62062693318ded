package client

import (
	"encoding/json"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/journal"
	"github.com/drover-ml/drover/nomadplugin/driver"
	"github.com/drover-ml/drover/nomadplugin/host"
)

// The tables of a node's journal.
const (
	tableNode    = "node"
	tablePlugins = "plugins"
	tableAllocs  = "allocs"
	tableTasks   = "tasks"
)

// taskRow is what is kept of a task.
type taskRow struct {
	State api.TaskState
	// Config is the start that was asked for, from before the driver was
	// asked until the task has ended.
	Config *driver.TaskConfig `json:",omitempty"`
	// Handle is the driver's, once it has started the task.
	Handle *driver.Handle `json:",omitempty"`
	// DeviceEnv is what device plugins reserved. Like Nomad's client, nothing
	// else of a reservation is kept over a restart.
	DeviceEnv map[string]string `json:",omitempty"`
	// Prepared is set once artifacts are there.
	Prepared bool
}

// store is a node's journal and what it holds.
type store struct {
	mu      sync.Mutex
	journal *journal.Journal
	rows    map[[2]string]json.RawMessage
	compact int64
	seq     uint64

	// What was there when the node started.
	id      string
	plugins map[string]host.ReattachInfo
	allocs  map[string]*api.Allocation
}

const compactStoreAt = 8 << 20

func openStore(dir string) (*store, error) {
	s := &store{rows: map[[2]string]json.RawMessage{}, plugins: map[string]host.ReattachInfo{}, allocs: map[string]*api.Allocation{}}
	j, err := journal.Open(filepath.Join(dir, "client.journal"), func(rec journal.Record) error {
		s.seq = rec.Index
		for _, c := range rec.Changes {
			s.set(c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening the node's journal: %w", err)
	}
	s.journal, s.compact = j, compactStoreAt
	for key, value := range s.rows {
		if err := s.load(key[0], key[1], value); err != nil {
			j.Close()
			return nil, fmt.Errorf("reading the node's journal: %s %q: %w", key[0], key[1], err)
		}
	}
	return s, nil
}

func (s *store) load(table, key string, value json.RawMessage) error {
	switch table {
	case tableNode:
		return json.Unmarshal(value, &s.id)
	case tablePlugins:
		var info host.ReattachInfo
		err := json.Unmarshal(value, &info)
		s.plugins[key] = info
		return err
	case tableAllocs:
		a := new(api.Allocation)
		s.allocs[key] = a
		return json.Unmarshal(value, a)
	}
	return nil
}

func (s *store) set(c journal.Change) {
	key := [2]string{c.Table, c.Key}
	if c.Value == nil {
		delete(s.rows, key)
	} else {
		s.rows[key] = c.Value
	}
}

func (s *store) append(changes ...journal.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	if err := s.journal.Append(journal.Record{Index: s.seq, Changes: changes}); err != nil {
		return err
	}
	for _, c := range changes {
		s.set(c)
	}
	if s.journal.Size() > s.compact {
		if err := s.journal.Rewrite(s.dump()); err != nil {
			s.compact *= 2 // the old journal is whole
			return nil
		}
		s.compact = max(compactStoreAt, 4*s.journal.Size())
	}
	return nil
}

func (s *store) dump() iter.Seq[journal.Record] {
	return func(yield func(journal.Record) bool) {
		for key, value := range s.rows {
			if !yield(journal.Record{Index: s.seq, Changes: []journal.Change{{Table: key[0], Key: key[1], Value: value}}}) {
				return
			}
		}
	}
}

func (s *store) put(table, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s %q: %w", table, key, err)
	}
	return s.append(journal.Change{Table: table, Key: key, Value: value})
}

// nodeID is the ID that the node got when it was first started.
func (s *store) nodeID(fresh func() string) (string, error) {
	if s.id != "" {
		return s.id, nil
	}
	s.id = fresh()
	return s.id, s.put(tableNode, "id", s.id)
}

func (s *store) putAlloc(a *api.Allocation) error { return s.put(tableAllocs, a.ID, a) }

func taskKey(alloc, task string) string { return alloc + "/" + task }

func (s *store) putTask(alloc, task string, row taskRow) error {
	return s.put(tableTasks, taskKey(alloc, task), row)
}

// tasksOf returns what is kept of an allocation's tasks.
func (s *store) tasksOf(alloc string) map[string]taskRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := map[string]taskRow{}
	for key, value := range s.rows {
		task, ok := strings.CutPrefix(key[1], alloc+"/")
		if key[0] != tableTasks || !ok {
			continue
		}
		var row taskRow
		if err := json.Unmarshal(value, &row); err != nil {
			// It was encoded by the same type; nothing can be recovered of it.
			row = taskRow{State: api.TaskState{State: "dead", Failed: true, FinishedAt: time.Now()}}
		}
		rows[task] = row
	}
	return rows
}

// dropAlloc forgets an allocation and its tasks.
func (s *store) dropAlloc(alloc string) error {
	s.mu.Lock()
	var changes []journal.Change
	for key := range s.rows {
		if key[0] == tableAllocs && key[1] == alloc || key[0] == tableTasks && strings.HasPrefix(key[1], alloc+"/") {
			changes = append(changes, journal.Change{Table: key[0], Key: key[1]})
		}
	}
	s.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	return s.append(changes...)
}

func (s *store) close() error { return s.journal.Close() }
