package pipeline

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strconv"
)

// gridSize is how many values p has in a grid, at least maxTrials+1 for more.
func (p SearchParam) gridSize() int {
	if p.Values != nil {
		return len(p.Values)
	}
	return int(min(p.Max-p.Min+1, maxTrials+1))
}

// gridValue is the i-th value of p in a grid.
func (p SearchParam) gridValue(i int) any {
	if p.Values != nil {
		return p.Values[i]
	}
	return int64(p.Min) + int64(i)
}

// points are the parameters of every trial.
func (s *Sweep) points() []map[string]any {
	if s.Method == "random" {
		return s.randomPoints()
	}
	return s.gridPoints()
}

// Size is how many trials the sweep has.
func (s *Sweep) Size() int {
	if s.Method == "random" {
		return s.Trials
	}
	size := 1
	for _, p := range s.Params {
		size = min(size*p.gridSize(), maxTrials)
	}
	if s.Trials > 0 {
		size = min(size, s.Trials)
	}
	return size
}

// gridPoints are all combinations, the last parameter changing fastest.
func (s *Sweep) gridPoints() []map[string]any {
	points := make([]map[string]any, s.Size())
	for i := range points {
		points[i] = make(map[string]any, len(s.Params))
		rest := i
		for j := len(s.Params) - 1; j >= 0; j-- {
			p := s.Params[j]
			points[i][p.Name] = p.gridValue(rest % p.gridSize())
			rest /= p.gridSize()
		}
	}
	return points
}

// randomPoints draws each parameter from a generator of its own, seeded with
// the sweep's seed and the parameter's name. So more trials leave the first
// ones as they are, and another parameter leaves the values of the rest.
func (s *Sweep) randomPoints() []map[string]any {
	points := make([]map[string]any, s.Trials)
	for i := range points {
		points[i] = make(map[string]any, len(s.Params))
	}
	for _, p := range s.Params {
		name := fnv.New64a()
		name.Write([]byte(p.Name))
		source := rand.NewPCG(uint64(s.Seed), name.Sum64())
		for i := range points {
			points[i][p.Name] = p.draw(source.Uint64())
		}
	}
	return points
}

// draw turns 64 random bits into a value of p. It does its own arithmetic:
// what math/rand makes of a source may change between releases of Go.
func (p SearchParam) draw(bits uint64) any {
	u := float64(bits>>11) / (1 << 53) // in [0, 1)
	if p.Values != nil {
		return p.Values[int(u*float64(len(p.Values)))]
	}
	low, high := p.Min, p.Max
	if p.Integer {
		high++ // max itself can be drawn
	}
	x := low + u*(high-low)
	if p.Scale == "log" {
		x = math.Exp(math.Log(low) + u*(math.Log(high)-math.Log(low)))
	}
	if p.Integer {
		return int64(max(p.Min, min(math.Floor(x), p.Max)))
	}
	return max(p.Min, min(rounded(x), p.Max))
}

// rounded keeps 12 significant digits: the last bits of Exp and Log differ
// between processors.
func rounded(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 12, 64), 64)
	if err != nil {
		return x // only beyond the largest number, where digits do not matter
	}
	return y
}
