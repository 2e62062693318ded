package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/placement"
	"github.com/drover-ml/drover/orchestrator/trace"
	"github.com/drover-ml/drover/orchestrator/workspace"
)

// Config is a replay.
type Config struct {
	Nodes []placement.Node
	Jobs  []trace.Job
	// Definitions are the workspaces with their quotas; nil: [Shared].
	Definitions *workspace.Definitions
	// Policy is the placement policy, one of [Policies]; "": the default.
	Policy string
	// Seed decides in which order nodes that are equally good are taken.
	Seed uint64
	// Load is how many times as fast as in the trace jobs come; zero: 1.
	Load float64
	// Start is when the first job comes, for quotas with a schedule; zero:
	// [DefaultStart].
	Start time.Time
	// Grace is how long a victim takes until it is gone; zero: [DefaultGrace].
	Grace time.Duration
	// Prices of a GPU-hour, by model; nil: there is no cost in the report.
	Prices map[string]float64
	// Progress, if not nil, is called now and then.
	Progress func(Progress)
}

// Progress is how far a replay is.
type Progress struct {
	Done, Of int // jobs
	At       time.Duration
	Waiting  int
}

// DefaultGrace is the grace of a [Config] that has none.
const DefaultGrace = 30 * time.Second

// DefaultStart is a Monday at midnight, UTC.
var DefaultStart = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// MinLoad and MaxLoad are the least and greatest load of a replay.
const (
	MinLoad = 0.1
	MaxLoad = 100_000
)

// MaxPrice is the greatest price of a GPU-hour.
const MaxPrice = 1e6

// MaxSpan is how much virtual time a replay takes at most.
const MaxSpan = 200 * 365 * 24 * time.Hour

// MaxWorkspaces is how many a trace has at most.
const MaxWorkspaces = 1000

// complete checks c and fills in what is left out.
func (c *Config) complete() error {
	if len(c.Nodes) == 0 || len(c.Jobs) == 0 {
		return errors.New("a replay needs nodes and jobs")
	}
	if c.Load == 0 {
		c.Load = 1
	}
	if !(c.Load >= MinLoad && c.Load <= MaxLoad) {
		return fmt.Errorf("a load of %v is out of range: %v to %v", c.Load, MinLoad, MaxLoad)
	}
	if c.Grace < 0 {
		return fmt.Errorf("a grace of %s is negative", c.Grace)
	}
	c.Policy = cmp.Or(c.Policy, placement.DefaultPolicy)
	if !slices.Contains(Policies(), c.Policy) {
		return fmt.Errorf("no placement policy for a replay is named %q; there are %s", c.Policy, strings.Join(Policies(), ", "))
	}
	if c.Start.IsZero() {
		c.Start = DefaultStart
	}
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	if c.Definitions == nil {
		d := Shared(c.Nodes, c.Jobs)
		c.Definitions = &d
	}
	c.Nodes = slices.Clone(c.Nodes)
	random := rand.New(rand.NewPCG(c.Seed, 0x94d049bb133111eb))
	random.Shuffle(len(c.Nodes), func(i, j int) { c.Nodes[i], c.Nodes[j] = c.Nodes[j], c.Nodes[i] })
	return nil
}

// Policies are the placement policies of replays, sorted: those that give the same
// answer to the same question.
func Policies() []string {
	return slices.DeleteFunc(placement.Policies(), func(name string) bool { return name == "random" })
}

// checkPrices reports whether there is a price of each model, or none at all.
func (r *replay) checkPrices() error {
	if r.Prices == nil {
		return nil
	}
	for _, m := range slices.Sorted(maps.Keys(r.Prices)) {
		if !slices.Contains(r.models, m) {
			return fmt.Errorf("a price for GPUs of model %q, which no node has; there are %s", m, strings.Join(r.models, ", "))
		}
		if p := r.Prices[m]; !(p >= 0 && p <= MaxPrice) {
			return fmt.Errorf("a price of %v for GPUs of model %q; prices are 0 to %v", p, m, MaxPrice)
		}
	}
	for _, m := range r.models {
		if _, ok := r.Prices[m]; !ok {
			return fmt.Errorf("no price for GPUs of model %q; say what an hour of each model costs, or of none", m)
		}
	}
	return nil
}
