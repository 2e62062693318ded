package workspace

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/drover-ml/drover/orchestrator/pipeline"
	"github.com/drover-ml/drover/orchestrator/queue"
)

// Problem is something wrong with definitions.
type Problem struct {
	// Path is the field that it is about, as in workspaces[2].quotas.h100.nominal.
	Path    string
	Summary string
	Detail  string
	// Warning is set for what may be meant.
	Warning bool
}

func (p Problem) String() string { return p.Path + ": " + p.Summary + ": " + p.Detail }

const (
	// maxDepth is how many levels of cohorts there may be; the queue's limit has
	// room for a workspace below them.
	maxDepth    = 60
	maxWeight   = 1_000_000
	maxPriority = 1_000_000
	maxDuration = Duration(10 * 365 * 24 * time.Hour)
	// maxCron bounds a window that begins by cron.
	maxCron = Duration(31 * 24 * time.Hour)

	maxCronText, maxDescription = 200, 1000

	// How many there may be. The tags of the types say all of this, too.
	maxFlavors    = 1000 // and priority classes
	maxWorkspaces = 10_000
	maxSchedules  = 100
	maxPools      = 100
)

// naming is how things of a kind are named.
type naming struct {
	pattern *regexp.Regexp
	words   string
}

var (
	names      = naming{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`), "1 to 63 letters, digits, _ and -, of which the first is a letter or digit"}
	flavors    = naming{regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`), "1 to 63 small letters, digits, ., _ and -, of which the first is a letter or digit"}
	namespaces = naming{regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`), "1 to 128 letters, digits and -"}
	pools      = naming{regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`), "1 to 128 letters, digits, _ and -"}
)

// Check is all that is wrong with d. Definitions with a problem that is no
// warning must not be used.
func (d Definitions) Check() []Problem {
	c := &checker{
		Definitions: d, flavors: map[string]bool{string(CPU): true, string(Memory): true},
		cohorts: map[string]string{}, classes: map[string]bool{},
	}
	for _, f := range d.Flavors {
		c.flavors[f.Name] = true
	}
	for _, p := range d.PriorityClasses {
		c.classes[p.Name] = true
	}
	for _, x := range d.Cohorts {
		c.cohorts[x.Name] = x.Parent
	}
	c.sizes()
	if wrong(c.problems) {
		return c.problems
	}
	c.policy()
	c.checkFlavors()
	c.priorityClasses()
	c.checkCohorts()
	c.workspaces()
	return c.problems
}

// sizes checks how many there are of everything: what follows may take long.
func (c *checker) sizes() {
	count := func(path string, n, most int) {
		if n > most {
			c.add(path, "Too many", "There are %d; at most %d may be.", n, most)
		}
	}
	count("flavors", len(c.Flavors), maxFlavors)
	count("priority_classes", len(c.PriorityClasses), maxFlavors)
	count("cohorts", len(c.Cohorts), maxWorkspaces)
	count("workspaces", len(c.Workspaces), maxWorkspaces)
	for i, x := range c.Cohorts {
		count(fmt.Sprintf("cohorts[%d].schedules", i), len(x.Schedules), maxSchedules)
	}
	for i, w := range c.Workspaces {
		count(fmt.Sprintf("workspaces[%d].schedules", i), len(w.Schedules), maxSchedules)
		count(fmt.Sprintf("workspaces[%d].node_pools", i), len(w.NodePools), maxPools)
		count(fmt.Sprintf("workspaces[%d].priority_classes", i), len(w.PriorityClasses), maxFlavors)
	}
}

// wrong reports whether there is more than warnings.
func wrong(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

type checker struct {
	Definitions
	flavors  map[string]bool
	cohorts  map[string]string // with their parents
	classes  map[string]bool
	problems []Problem

	suggested int
}

func (c *checker) add(path, summary, format string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, Summary: summary, Detail: fmt.Sprintf(format, args...)})
}

func (c *checker) warn(path, summary, format string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, Summary: summary, Detail: fmt.Sprintf(format, args...), Warning: true})
}

// maxSuggestions bounds the work on suggestions where everything is wrong.
const maxSuggestions = 100

// suggest is what somebody may have meant who wrote name, for the end of a
// message.
func suggest[V any](c *checker, name string, known map[string]V) string {
	if c.suggested++; c.suggested > maxSuggestions {
		return ""
	}
	return pipeline.Suggest(name, slices.Collect(maps.Keys(known)))
}

// name checks a name, and that it was not used before. seen has where each was.
func (c *checker) name(path, what, name string, n naming, seen map[string]string) {
	if !n.pattern.MatchString(name) {
		c.add(path, "Invalid name", "%.80q is no name of a %s: those have %s.", name, what, n.words)
		return
	}
	if other, twice := seen[name]; twice {
		c.add(path, "Duplicate "+what, "There is %s named %q already. Rename one of them, or take it out.", other, name)
		return
	}
	seen[name] = "a " + what
}

func (c *checker) policy() {
	p := c.Policy
	for _, f := range []struct {
		name string
		d    Duration
	}{
		{"run_time", p.RunTime}, {"half_life", p.HalfLife}, {"aging", p.Aging}, {"patience", p.Patience},
		{"min_run_time", p.MinRunTime}, {"preemption_delay", p.PreemptionDelay},
	} {
		c.duration("policy."+f.name, f.d, maxDuration)
	}
	c.between("policy.max_evictions", p.MaxEvictions, 0, 1000)
}

func (c *checker) duration(path string, d, most Duration) {
	if d < 0 || d > most {
		c.add(path, "Out of range", "It must be from 0s to %s, not %s.", most, d)
	}
}

func (c *checker) between(path string, n, least, most int) {
	if n < least || n > most {
		c.add(path, "Out of range", "It must be from %d to %d, not %d.", least, most, n)
	}
}

func (c *checker) checkFlavors() {
	seen := map[string]string{string(CPU): "a built-in flavor", string(Memory): "a built-in flavor"}
	for i, f := range c.Flavors {
		path := fmt.Sprintf("flavors[%d]", i)
		c.name(path+".name", "flavor", f.Name, flavors, seen)
		for _, pattern := range []struct{ name, text string }{{"model", f.Model}, {"vendor", f.Vendor}, {"type", f.Type}} {
			if len(pattern.text) > 128 || strings.ContainsFunc(pattern.text, func(r rune) bool { return r < ' ' }) {
				c.add(path+"."+pattern.name, "Invalid "+pattern.name, "It has at most 128 bytes, and no control characters.")
			}
		}
		if f.MemoryMinMiB < 0 || f.MemoryMaxMiB < 0 || f.MemoryMaxMiB > 0 && f.MemoryMinMiB > f.MemoryMaxMiB {
			c.add(path+".memory_min_mib", "Impossible bounds", "No device has at least %d MiB and at most %d MiB.", f.MemoryMinMiB, f.MemoryMaxMiB)
		}
	}
}

func (c *checker) priorityClasses() {
	seen := map[string]string{}
	first := ""
	for i, p := range c.PriorityClasses {
		path := fmt.Sprintf("priority_classes[%d]", i)
		c.name(path+".name", "priority class", p.Name, names, seen)
		c.between(path+".value", p.Value, -maxPriority, maxPriority)
		if utf8.RuneCountInString(p.Description) > maxDescription {
			c.add(path+".description", "Too long", "It has at most %d characters.", maxDescription)
		}
		if p.Default && first != "" {
			c.add(path+".default", "Two defaults", "The default is %q already. One class at most is.", first)
		} else if p.Default {
			first = p.Name
		}
	}
}

func (c *checker) checkCohorts() {
	seen := map[string]string{}
	told := map[string]bool{} // of cohorts in a cycle that is reported
	for i, x := range c.Cohorts {
		path := fmt.Sprintf("cohorts[%d]", i)
		c.name(path+".name", "cohort", x.Name, names, seen)
		c.between(path+".weight", x.Weight, 0, maxWeight)
		c.parent(path+".parent", x, told)
		c.quotas(path+".quotas", x.Quotas, x.Parent != "", "The cohort has no parent")
		c.schedules(path+".schedules", x.Schedules, x.Parent != "", "The cohort has no parent")
	}
}

// parent checks the way from a cohort to the top.
func (c *checker) parent(path string, x Cohort, told map[string]bool) {
	if x.Parent == "" {
		return
	}
	if _, ok := c.cohorts[x.Parent]; !ok {
		c.add(path, "Unknown cohort", "There is no cohort %q.%s", x.Parent, suggest(c, x.Parent, c.cohorts))
		return
	}
	way := []string{x.Name}
	for at := x.Parent; at != ""; at = c.cohorts[at] {
		if at == x.Name {
			if !told[at] {
				c.add(path, "Cycle of cohorts", "%s: give one of them another parent.", strings.Join(append(way, at), " → "))
			}
			for _, name := range way {
				told[name] = true
			}
			return
		}
		if way = append(way, at); len(way) > maxDepth {
			if !told[at] { // else it leads into a cycle
				c.add(path, "Too many levels", "Cohorts nest %d levels deep at most.", maxDepth)
			}
			return
		}
	}
}

func (c *checker) workspaces() {
	seen, taken := map[string]string{}, map[string]string{}
	for name := range c.cohorts {
		seen[name] = "a cohort"
	}
	for i, w := range c.Workspaces {
		path := fmt.Sprintf("workspaces[%d]", i)
		c.name(path+".name", "workspace", w.Name, names, seen)
		c.between(path+".weight", w.Weight, 0, maxWeight)
		c.place(path, w, taken)
		if _, ok := c.cohorts[w.Cohort]; !ok && w.Cohort != "" {
			c.add(path+".cohort", "Unknown cohort", "There is no cohort %q.%s", w.Cohort, suggest(c, w.Cohort, c.cohorts))
		}
		for j, class := range w.PriorityClasses {
			at := fmt.Sprintf("%s.priority_classes[%d]", path, j)
			if !c.classes[class] {
				c.add(at, "Unknown priority class", "There is no priority class %q.%s", class, suggest(c, class, c.classes))
			} else if slices.Index(w.PriorityClasses, class) < j {
				c.add(at, "Duplicate priority class", "%q is in the list already.", class)
			}
		}
		c.quotas(path+".quotas", w.Quotas, w.Cohort != "", "The workspace is in no cohort")
		c.schedules(path+".schedules", w.Schedules, w.Cohort != "", "The workspace is in no cohort")
		c.serving(path, w)
		c.byTheHour(path, w)
		if w.Budget != nil {
			c.amount(path+".budget.gpu_hours", w.Budget.GPUHours)
			if !slices.Contains(periods, string(w.Budget.Per)) {
				c.add(path+".budget.per", "Unknown period", "A budget is per %s, not per %.40q.", strings.Join(periods, ", "), string(w.Budget.Per))
			}
		}
	}
}

// place checks where in Nomad a workspace is.
func (c *checker) place(path string, w Workspace, taken map[string]string) {
	if w.Namespace != "" {
		at := path + ".namespace"
		if !namespaces.pattern.MatchString(w.Namespace) {
			c.add(at, "Invalid namespace", "%.80q is no namespace of Nomad's: those have %s.", w.Namespace, namespaces.words)
		} else if other, twice := taken[w.Namespace]; twice {
			c.add(at, "Shared namespace", "Workspace %q has the namespace %q already; work in it must be one workspace's.", other, w.Namespace)
		} else {
			taken[w.Namespace] = w.Name
		}
	}
	for j, pool := range w.NodePools {
		at := fmt.Sprintf("%s.node_pools[%d]", path, j)
		if !pools.pattern.MatchString(pool) {
			c.add(at, "Invalid node pool", "%.80q is no node pool of Nomad's: those have %s.", pool, pools.words)
		} else if slices.Index(w.NodePools, pool) < j {
			c.add(at, "Duplicate node pool", "%q is in the list already.", pool)
		}
	}
}

func (c *checker) amount(path string, a Amount) bool {
	if a < 0 || queue.Amount(a) > queue.MaxAmount {
		c.add(path, "Out of range", "It must be from 0 to %s, not %s.", queue.MaxAmount, a)
		return false
	}
	return true
}

func (c *checker) flavor(path string, f queue.Flavor) {
	if !c.flavors[string(f)] {
		c.add(path, "Unknown flavor", "There is no flavor %q. Declare it with a flavor block.%s", string(f), suggest(c, string(f), c.flavors))
	}
}

// quotas checks quotas; lends says whether there is anyone to borrow from.
func (c *checker) quotas(path string, quotas Quotas, lends bool, why string) {
	for _, f := range slices.Sorted(maps.Keys(quotas)) {
		q, at := quotas[f], path+"."+string(f)
		c.flavor(at, f)
		c.amount(at+".nominal", q.Nominal)
		for _, limit := range []struct {
			name string
			of   *Amount
		}{{"borrow", q.Borrow}, {"lend", q.Lend}} {
			if limit.of == nil {
				continue
			}
			if c.amount(at+"."+limit.name, *limit.of) && !lends {
				c.warn(at+"."+limit.name, "No effect", "%s, so there is nobody to borrow from or lend to.", why)
			}
		}
	}
}

// serving checks that what is for endpoints fits into the quota, at all times.
func (c *checker) serving(path string, w Workspace) {
	for _, f := range slices.Sorted(maps.Keys(w.Serving)) {
		s, at := w.Serving[f], path+".serving."+string(f)
		c.flavor(at, f)
		if !c.amount(at+".floor", s.Floor) || !c.amount(at+".headroom", s.Headroom) {
			continue
		}
		fits := func(where string, q Quota) {
			if s.Floor+s.Headroom > q.Nominal {
				c.add(at, "More than the quota", "The floor of %s and the headroom of %s are part of the nominal quota, which is %s%s. Raise it, or lower them.",
					s.Floor, s.Headroom, q.Nominal, where)
			}
		}
		fits("", w.Quotas[f])
		for _, sch := range w.Schedules {
			if q, ok := sch.Quotas[f]; ok {
				fits(fmt.Sprintf(" in the schedule %q", sch.Name), q)
			}
		}
	}
}

func (c *checker) schedules(path string, schedules []Schedule, lends bool, why string) {
	seen := map[string]string{}
	for i, s := range schedules {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.name(at+".name", "schedule", s.Name, names, seen)
		if _, err := location(s.Timezone); err != nil {
			c.add(at+".timezone", "Unknown time zone", "%s.", sentence(err))
		}
		if s.Cron != "" {
			c.byCron(at, s)
		} else {
			c.byDay(at, s)
		}
		if len(s.Quotas) == 0 {
			c.add(at, "No quota", "A schedule has a quota block for each flavor whose quota it changes.")
		}
		c.quotas(at+".quotas", s.Quotas, lends, why)
	}
}

// byTheHour warns of cpu and memory that a workspace has at times only: without
// any, nothing can run.
func (c *checker) byTheHour(path string, w Workspace) {
	for i, s := range w.Schedules {
		for _, f := range plain {
			_, at := s.Quotas[f]
			if _, always := w.Quotas[f]; at && !always {
				c.warn(fmt.Sprintf("%s.schedules[%d].quotas.%s", path, i, f), "Nothing at other times",
					"The workspace has no quota of %s itself, so it has none while the schedule %q does not hold, and nothing can start. Give it one.", f, s.Name)
			}
		}
	}
}

func (c *checker) byCron(at string, s Schedule) {
	if len(s.Days) > 0 || s.From != "" || s.To != "" {
		c.add(at+".cron", "Two kinds of schedule", "Give either cron and duration, or days, from and to.")
	}
	if s.Duration <= 0 || s.Duration > maxCron {
		c.add(at+".duration", "Out of range", "A schedule with cron holds for more than 0s and at most %s, not %s.", maxCron, s.Duration)
	}
	if len(s.Cron) > maxCronText {
		c.add(at+".cron", "Too long", "It has at most %d bytes.", maxCronText)
	} else if _, err := parseCron(s.Cron); err != nil {
		c.add(at+".cron", "Invalid cron expression", "%s.", sentence(err))
	}
}

func (c *checker) byDay(at string, s Schedule) {
	if len(s.Days) == 0 && s.From == "" && s.To == "" {
		c.add(at, "No time", "Say when it holds: with days, from and to, or with cron and duration.")
	}
	if s.Duration != 0 {
		c.add(at+".duration", "Two kinds of schedule", "A duration goes with cron; with days, from and to say how long.")
	}
	for j, day := range s.Days {
		if !slices.Contains(weekdays, day) {
			c.add(fmt.Sprintf("%s.days[%d]", at, j), "Unknown day", "%.40q is no day. Write mon, tue, wed, thu, fri, sat or sun.", day)
		} else if slices.Index(s.Days, day) < j {
			c.add(fmt.Sprintf("%s.days[%d]", at, j), "Duplicate day", "%q is in the list already.", day)
		}
	}
	for _, t := range []struct{ name, text string }{{"from", s.From}, {"to", s.To}} {
		if _, err := minuteOf(t.text); err != nil && t.text != "" {
			c.add(at+"."+t.name, "Invalid time of day", "%s.", sentence(err))
		}
	}
}

// sentence makes an error's text the beginning of a message.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}
