package mltask

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxGang is how many members a gang has at most.
const MaxGang = 1024

// MasterPort is the label of the port on which the members of a gang meet.
// Without such a port the driver chooses one.
const MasterPort = "master"

// Gang makes a task one of several members that start together: no member's
// command starts before all members are there.
//
// Members are tasks of their own, which find each other by records in the
// artefact store, so all of them need the same store. One that ends or is
// stopped while it waits, or waits for longer than its timeout, ends the wait
// of all. So does, once the commands run, one that fails.
type Gang struct {
	// Key names one start of the gang, such as one attempt at a step: a key
	// is never used again.
	Key string `codec:"key" json:"key"`
	// Rank is which member this is, from 0. There is one of each.
	Rank int `codec:"rank" json:"rank"`
	Size int `codec:"size" json:"size"`
	// Timeout is how long a member waits for the others, e.g. "10m", which is
	// the default. Staging comes before it.
	Timeout string `codec:"timeout" json:"timeout,omitempty"`
}

const defaultGangTimeout = 10 * time.Minute

// Wait is Timeout as a duration.
func (g *Gang) Wait() (time.Duration, error) {
	if g.Timeout == "" {
		return defaultGangTimeout, nil
	}
	d, err := time.ParseDuration(g.Timeout)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as \"10m\"", g.Timeout)
	}
	if d < time.Second {
		return 0, fmt.Errorf("%q is less than a second", g.Timeout)
	}
	return d, nil
}

// RankKey is the result key of a member of a gang whose result key is key. Rank
// 0 has the key itself: the outputs and metrics of the gang are in its record.
// The gang has succeeded when the records of all ranks are there and say so.
func RankKey(key string, rank int) string {
	if rank == 0 {
		return key
	}
	return key + "/rank-" + strconv.Itoa(rank)
}

// How the errors of members begin that a gang has brought about.
const (
	gangIncomplete = "gang: "
	gangBroken     = "gang broken: "
)

// GangIncomplete is the error of a member whose command was not started,
// because the gang did not come together.
func GangIncomplete(reason string) error { return errors.New(gangIncomplete + reason) }

// GangBroken is the error of a member that was ended because another one has
// failed.
func GangBroken(reason string) error { return errors.New(gangBroken + reason) }

// IsGangIncomplete reports whether a task's error, as its record has it or as
// Nomad shows it, is one of GangIncomplete's.
func IsGangIncomplete(text string) bool { return strings.Contains(text, gangIncomplete) }

// IsGangBroken reports whether a task's error, as its record has it or as Nomad
// shows it, is one of GangBroken's.
func IsGangBroken(text string) bool { return strings.Contains(text, gangBroken) }

func (v *validation) gang(c *Config) {
	if len(c.Gang) > 1 {
		v.add("gang", "is given %d times; once is the most", len(c.Gang))
	}
	for _, g := range c.Gang {
		v.key("gang.key", g.Key)
		if g.Size < 1 || g.Size > MaxGang {
			v.add("gang.size", "%d is not between 1 and %d", g.Size, MaxGang)
		}
		if g.Rank < 0 || g.Rank >= max(g.Size, 1) {
			v.add("gang.rank", "%d is not a rank of a gang of %d: ranks are from 0 to %d", g.Rank, g.Size, max(g.Size, 1)-1)
		}
		if _, err := g.Wait(); err != nil {
			v.add("gang.timeout", "%v", err)
		}
		for _, k := range c.Checkpoint {
			if k.Key == "" {
				v.add("checkpoint.key", "is empty; members of a gang share the checkpoints of one training, which needs a name")
			}
		}
	}
}
