package simulate

import "time"

// curve is what a replay was like over time, as means over equal steps. Where time
// gets longer than expected, steps do.
type curve struct {
	step   time.Duration
	points []point
	// shares are the workspaces' dominant shares in what is added next.
	shares []float64
}

// point is a step: amounts times milliseconds.
type point struct {
	ms              float64 // that passed
	gpu, fragmented float64 // thousandths that are held, and that are of no use
	waiting         float64 // jobs
	shares          []float64
}

// maxPoints is how many steps a curve has at most, and half as many at least
// where time lasts as long as expected.
const maxPoints = 480

func newCurve(expected time.Duration, workspaces int) curve {
	step := (expected/maxPoints + time.Second).Truncate(time.Second)
	return curve{step: step, shares: make([]float64, workspaces)}
}

// add is what holds between two times since the beginning, the later of which was
// never reached before: amounts, without times.
func (c *curve) add(from, to time.Duration, what point) {
	for to > c.step*maxPoints {
		c.widen()
	}
	for from < to {
		i := int(from / c.step)
		if i == len(c.points) {
			c.points = append(c.points, point{shares: make([]float64, len(c.shares))})
		}
		until := min(to, c.step*time.Duration(i+1))
		ms := float64((until - from).Milliseconds())
		p := &c.points[i]
		p.ms += ms
		p.gpu += what.gpu * ms
		p.fragmented += what.fragmented * ms
		p.waiting += what.waiting * ms
		for w, s := range c.shares {
			p.shares[w] += s * ms
		}
		from = until
	}
}

// widen makes steps twice as long.
func (c *curve) widen() {
	c.step *= 2
	for i := 0; i < len(c.points); i += 2 {
		p := c.points[i]
		if i+1 < len(c.points) {
			q := c.points[i+1]
			p.ms, p.gpu, p.fragmented, p.waiting = p.ms+q.ms, p.gpu+q.gpu, p.fragmented+q.fragmented, p.waiting+q.waiting
			for w := range p.shares {
				p.shares[w] += q.shares[w]
			}
		}
		c.points[i/2] = p
	}
	c.points = c.points[:(len(c.points)+1)/2]
}
