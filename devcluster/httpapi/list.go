package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr"
)

// list is a list reply in the making: it is filtered by ?prefix and ?filter,
// turned around by ?reverse, and cut by ?per_page and ?next_token.
type list[T any] struct {
	rows []T
	// id is what ?prefix looks at, and what page tokens are.
	id func(T) string
	// stub is what the reply has of a row.
	stub func(T) any
}

func (l list[T]) result(r *http.Request, index uint64) result {
	q := r.URL.Query()
	rows := slices.Clone(l.rows)
	if prefix := q.Get("prefix"); prefix != "" {
		rows = slices.DeleteFunc(rows, func(row T) bool { return !strings.HasPrefix(l.id(row), prefix) })
	}
	if expr := q.Get("filter"); expr != "" {
		matches, err := bexpr.CreateEvaluator(expr)
		if err != nil {
			return result{index: index, err: badRequest("failed to read filter expression: %v", err)}
		}
		kept := rows[:0]
		for _, row := range rows {
			ok, err := matches.Evaluate(row)
			if err != nil {
				return result{index: index, err: badRequest("failed to evaluate filter expression: %v", err)}
			}
			if ok {
				kept = append(kept, row)
			}
		}
		rows = kept
	}
	if flag(r, "reverse") {
		slices.Reverse(rows)
	}
	rows, next, err := page(rows, l.id, q.Get("per_page"), q.Get("next_token"))
	stubs := make([]any, 0, len(rows))
	for _, row := range rows {
		stubs = append(stubs, l.stub(row))
	}
	return result{value: stubs, index: index, err: err, next: next}
}

func page[T any](rows []T, id func(T) string, perPage, token string) ([]T, string, error) {
	if token != "" {
		i := slices.IndexFunc(rows, func(row T) bool { return id(row) == token })
		if i < 0 {
			return nil, "", nil
		}
		rows = rows[i:]
	}
	if perPage == "" {
		return rows, "", nil
	}
	n, err := strconv.Atoi(perPage)
	if err != nil || n < 0 {
		return nil, "", badRequest("Invalid per_page")
	}
	if n == 0 || n >= len(rows) {
		return rows, "", nil
	}
	return rows[:n], id(rows[n]), nil
}
