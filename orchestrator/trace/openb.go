// Package trace reads records of what clusters had and were asked for: nodes, tasks
// to place one after the other, and jobs that come and go ([ReadJobs]).
//
// Nodes and tasks have the format of the openb trace, published with "Beware of
// Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
// Descent" (USENIX ATC 2023): CSV with a header, plain or gzipped. Columns are
// found by their names, in any order; others are passed over. Nodes have
//
//	sn,cpu_milli,memory_mib,gpu,model
//
// and tasks
//
//	name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec
//
// of which gpu_spec, the accepted models with | between them, may be missing.
// What is malformed is refused with its file, line and column.
package trace

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-ml/drover/orchestrator/placement"
)

// Limits of a file.
const (
	MaxRows  = 2_000_000
	MaxBytes = 1 << 30 // unpacked
	maxField = 4096
)

// Error is a file that is refused. Line and Column count from 1; Column is that
// of the byte where the field starts. Line 0 is the file as a whole.
type Error struct {
	File         string
	Line, Column int
	Err          error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReadNodes reads nodes; file is what errors call it.
func ReadNodes(file string, r io.Reader) ([]placement.Node, error) {
	var nodes []placement.Node
	names := map[string]bool{}
	err := read(file, r, []string{"sn", "cpu_milli", "memory_mib", "gpu", "model"}, 5, func(row *row) {
		n := placement.Node{
			Name: row.name("sn"), CPUMilli: row.number("cpu_milli"), MemoryMiB: row.number("memory_mib"),
			GPUs: int(row.number("gpu")), Model: strings.Clone(row.text("model")),
		}
		if names[n.Name] {
			row.fail("sn", fmt.Errorf("a second node named %q", n.Name))
		}
		names[n.Name] = true
		if err := n.Check(); err != nil {
			row.fail("sn", fmt.Errorf("node %q: %w", n.Name, err))
		}
		nodes = append(nodes, n)
	})
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// ReadTasks reads tasks; file is what errors call it.
func ReadTasks(file string, r io.Reader) ([]placement.Task, error) {
	var tasks []placement.Task
	err := read(file, r, []string{"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"}, 5, func(row *row) {
		t := placement.Task{
			Name: row.name("name"), CPUMilli: row.number("cpu_milli"), MemoryMiB: row.number("memory_mib"),
			GPUs: int(row.number("num_gpu")), ShareMilli: int(row.number("gpu_milli")),
		}
		if models := row.text("gpu_spec"); models != "" {
			t.Models = strings.Split(strings.Clone(models), "|")
		}
		if err := t.Check(); err != nil {
			row.fail("num_gpu", fmt.Errorf("task %q: %w", t.Name, err))
		}
		tasks = append(tasks, t)
	})
	if err != nil {
		return nil, err
	}
	return tasks, nil
}

// row is a row whose first problem is kept.
type row struct {
	file   string
	csv    *csv.Reader
	fields []string
	at     map[string]int // the column of each name
	err    error
}

func (r *row) fail(column string, err error) {
	if r.err == nil {
		line, col := r.csv.FieldPos(r.at[column])
		r.err = &Error{File: r.file, Line: line, Column: col, Err: err}
	}
}

// text is a field, "" if the file has no such column.
func (r *row) text(column string) string {
	i, ok := r.at[column]
	if !ok {
		return ""
	}
	if len(r.fields[i]) > maxField {
		r.fail(column, fmt.Errorf("%s is longer than %d bytes", column, maxField))
		return ""
	}
	return r.fields[i]
}

func (r *row) name(column string) string {
	s := r.text(column)
	if s == "" {
		r.fail(column, fmt.Errorf("%s is empty", column))
	}
	return strings.Clone(s)
}

// number is a whole number from 0 up to what placement takes.
func (r *row) number(column string) int64 {
	s := r.text(column)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > placement.MaxAmount {
		r.fail(column, fmt.Errorf("%s is %.40q, not a whole number from 0 to %d", column, s, int64(placement.MaxAmount)))
		return 0
	}
	return n
}

// format is the columns that a file may have, of which the first required must be
// there, and what is called for each row. Others are refused if it is closed.
type format struct {
	columns  []string
	required int
	closed   bool
	each     func(*row)
}

// read calls each for each row below a header that has at least the first
// required of columns.
func read(file string, from io.Reader, columns []string, required int, each func(*row)) error {
	return readAs(file, from, func([]string) format { return format{columns, required, false, each} })
}

// readAs reads a file whose format is told by its header.
func readAs(file string, from io.Reader, as func(header []string) format) error {
	fail := func(err error) error { return &Error{File: file, Err: err} }
	text, err := unpack(from)
	if err != nil {
		return fail(err)
	}
	limited := &io.LimitedReader{R: text, N: MaxBytes + 1}
	r := &row{file: file, csv: csv.NewReader(limited), at: map[string]int{}}
	r.csv.ReuseRecord = true
	if r.fields, err = r.csv.Read(); errors.Is(err, io.EOF) {
		return fail(errors.New("it is empty; the first line must name the columns"))
	} else if err != nil {
		return refused(file, err)
	}
	r.fields[0] = strings.TrimPrefix(r.fields[0], "\ufeff")
	f := as(r.fields)
	for i, name := range r.fields {
		if f.closed && !slices.Contains(f.columns, name) {
			line, col := r.csv.FieldPos(i)
			return &Error{File: file, Line: line, Column: col, Err: fmt.Errorf("no column is named %.40q; there are %s", name, strings.Join(f.columns, ", "))}
		}
		for _, c := range f.columns {
			if c == name {
				_, twice := r.at[c]
				if r.at[c] = i; twice {
					r.fail(c, fmt.Errorf("a second column named %q", c))
					return r.err
				}
			}
		}
	}
	for _, c := range f.columns[:f.required] {
		if _, ok := r.at[c]; !ok {
			return &Error{File: file, Line: 1, Column: 1, Err: fmt.Errorf("no column is named %q", c)}
		}
	}
	for rows := 0; ; rows++ {
		if r.fields, err = r.csv.Read(); errors.Is(err, io.EOF) {
			if limited.N <= 0 {
				return fail(fmt.Errorf("it has more than %d bytes", MaxBytes))
			}
			if rows == 0 {
				return fail(errors.New("it has no rows"))
			}
			return nil
		} else if err != nil {
			return refused(file, err)
		}
		if rows == MaxRows {
			return fail(fmt.Errorf("it has more than %d rows", MaxRows))
		}
		if f.each(r); r.err != nil {
			return r.err
		}
	}
}

// refused is what a CSV reader or what is below it says.
func refused(file string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return &Error{File: file, Line: parse.Line, Column: parse.Column, Err: parse.Err}
	}
	return &Error{File: file, Err: err}
}

// unpack takes the gzip away, if there is one.
func unpack(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return gzip.NewReader(b)
	}
	return b, nil
}
