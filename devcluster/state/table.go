package state

import (
	"encoding/json"
	"fmt"

	"github.com/drover-ml/drover/devcluster/journal"
)

// table holds the rows of one kind, by key. Rows are immutable: a change
// replaces the pointer.
type table[T any] struct {
	name    string
	rows    map[string]*T
	changed uint64 // the index of the last change
	groups  []*grouping[T]
	// encode and decode make the journal's form; nil is plain JSON.
	encode func(*T) ([]byte, error)
	decode func([]byte) (*T, error)
}

// grouping is a secondary index: rows by a value that many may share.
type grouping[T any] struct {
	of   func(*T) string
	rows map[string]map[string]*T
}

func newTable[T any](name string) *table[T] {
	return &table[T]{name: name, rows: map[string]*T{}}
}

func (t *table[T]) groupBy(of func(*T) string) *grouping[T] {
	g := &grouping[T]{of: of, rows: map[string]map[string]*T{}}
	t.groups = append(t.groups, g)
	return g
}

func (t *table[T]) put(key string, row *T) {
	if old, ok := t.rows[key]; ok {
		for _, g := range t.groups {
			g.remove(key, old)
		}
	}
	if row == nil {
		delete(t.rows, key)
		return
	}
	t.rows[key] = row
	for _, g := range t.groups {
		g.add(key, row)
	}
}

func (g *grouping[T]) add(key string, row *T) {
	value := g.of(row)
	if g.rows[value] == nil {
		g.rows[value] = map[string]*T{}
	}
	g.rows[value][key] = row
}

func (g *grouping[T]) remove(key string, row *T) {
	value := g.of(row)
	delete(g.rows[value], key)
	if len(g.rows[value]) == 0 {
		delete(g.rows, value)
	}
}

func (t *table[T]) marshal(row *T) ([]byte, error) {
	if t.encode != nil {
		return t.encode(row)
	}
	return json.Marshal(row)
}

func (t *table[T]) replay(index uint64, c journal.Change) error {
	t.changed = index
	if c.Value == nil {
		t.put(c.Key, nil)
		return nil
	}
	row := new(T)
	var err error
	if t.decode != nil {
		row, err = t.decode(c.Value)
	} else {
		err = json.Unmarshal(c.Value, row)
	}
	if err != nil {
		return fmt.Errorf("decoding %s %q: %w", t.name, c.Key, err)
	}
	t.put(c.Key, row)
	return nil
}

func (t *table[T]) lastChange() uint64 { return t.changed }

func (t *table[T]) dump(yield func(journal.Record) bool) bool {
	const perRecord = 256
	rec := journal.Record{Index: t.changed}
	for key, row := range t.rows {
		value, err := t.marshal(row)
		if err != nil {
			// Every row was marshalled once to get here.
			panic(fmt.Sprintf("state: row of %s cannot be encoded again: %v", t.name, err))
		}
		rec.Changes = append(rec.Changes, journal.Change{Table: t.name, Key: key, Value: value})
		if len(rec.Changes) == perRecord {
			if !yield(rec) {
				return false
			}
			rec.Changes = nil
		}
	}
	return yield(rec)
}

// anyTable is a table of any row type, as the store handles all alike.
type anyTable interface {
	lastChange() uint64
	replay(index uint64, c journal.Change) error
	dump(yield func(journal.Record) bool) bool
}
