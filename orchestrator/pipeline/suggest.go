package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// maxSuggestions bounds the work on suggestions in a file that has nothing
// but mistakes.
const maxSuggestions = 200

// Suggest ends a message about a name that is not known: with the likeliest of
// those that are, or with all of them if they are few. It is empty, or begins with
// a space.
func Suggest(got string, known []string) string {
	var s suggester
	return s.suggest(got, known)
}

// suggester finds what somebody may have meant.
type suggester struct{ used int }

// suggest gives " Did you mean …?" with the likeliest of known, or lists them
// if they are few, or is empty.
func (s *suggester) suggest(got string, known []string) string {
	if len(known) == 0 || s.used >= maxSuggestions {
		return ""
	}
	s.used++
	best, bestDistance := "", max(1, len(got)/3)+1
	if len(got) == 1 {
		bestDistance = 1 // every other letter is one change away
	}
	for _, name := range known {
		if d := distance(got, name, bestDistance); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf(" Did you mean %q?", best)
	}
	if len(known) <= 12 {
		list := slices.Compact(slices.Sorted(slices.Values(known)))
		return " Known here: " + strings.Join(list, ", ") + "."
	}
	return ""
}

// distance is the number of letters to insert, delete, change or swap with
// their neighbour to make b from a, regardless of case; limit if it is that
// much or more.
func distance(a, b string, limit int) int {
	x, y := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	if len(x)-len(y) >= limit || len(y)-len(x) >= limit {
		return limit
	}
	before, row := make([]int, len(y)+1), make([]int, len(y)+1)
	next := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		next[0] = i + 1
		for j := range y {
			change := row[j]
			if x[i] != y[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return min(row[len(y)], limit)
}
