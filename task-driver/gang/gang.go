// Package gang brings the members of a gang together before any of their
// commands starts, by records in the artefact store, below "gangs/<key>".
//
// Every member stores a record of itself, and looks for the verdict, which is
// created once and never changed. So all members read the same one: either each
// starts, or none does. Rank 0 makes it a start once all ranks are there. That a
// record is there does not tell that its writer still is, so rank 0 calls the
// roll first: it stores a call, which each member answers in its own record. A
// call that is not answered by all for a while is followed by another one, so
// that answers are never old.
//
// A member that has waited for as long as it may, or is told to leave, makes
// the verdict a failure, unless there is one. What is left open is what no
// protocol can close: a member may die after it has answered the last call, as
// it may die a moment after its command has started. For that there is Break, by
// which a member that has failed tells the others.
//
// A member does not start on a verdict that it could not read. No clocks are
// compared.
package gang

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/internal/artifact"
	"github.com/drover-ml/drover/internal/mltask"
)

// Gang is a member's view of its gang. It is for one goroutine, but for Break
// and Broken, which may be used beside Meet and each other.
type Gang struct {
	Key  string
	Self Member // without Answer
	// Timeout is how long Meet waits.
	Timeout time.Duration
	// Open opens the artefact store.
	Open func() (*artifact.Store, error)

	store *artifact.Store // open while Meet runs, unless it failed last
	roll  roll
}

// roll is what rank 0 knows of the others.
type roll struct {
	members []*Member // by rank; those that are there or, once there is a call, that have answered it
	call    string
	called  time.Time
}

const (
	pollInterval = 100 * time.Millisecond
	// callLimit is how old an answer may be when the gang starts.
	callLimit = 5 * time.Second
	// decideLimit bounds how long a member takes to decide that nobody starts.
	decideLimit = 15 * time.Second
	// breakInterval is how often a running member looks for the failure of
	// another one.
	breakInterval = 5 * time.Second
)

// Meet joins the gang and returns its members by rank, once all are there. An
// error says why this member must not start; it is one of
// mltask.GangIncomplete's. If ctx ends, its cause says why the member leaves.
func (g *Gang) Meet(ctx context.Context) ([]Member, error) {
	defer g.drop()
	deadline := time.NewTimer(g.Timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for expired := false; ; {
		v, err := g.round(ctx)
		switch {
		case err != nil:
			g.drop()
		case v != nil && ctx.Err() == nil:
			return g.follow(*v)
		}
		if expired {
			return g.expire()
		}
		select {
		case <-ctx.Done():
			return nil, g.Leave(context.Cause(ctx))
		case <-deadline.C:
			expired = true
		case <-tick.C:
		}
	}
}

// round does what is to be done at present. It returns the verdict if there is
// one.
func (g *Gang) round(ctx context.Context) (*verdict, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	var v verdict
	if found, err := g.get(ctx, "verdict", &v); err != nil || found {
		return &v, err
	}
	var c call
	if _, err := g.get(ctx, "call", &c); err != nil {
		return nil, err
	}
	if c.ID != g.Self.Answer || g.Self.Version == 0 {
		self := g.Self
		self.Version, self.Answer = Version, c.ID
		if err := g.store.PutRecord(ctx, g.key(rankKey(self.Rank)), self); err != nil {
			return nil, err
		}
		g.Self = self
	}
	if g.Self.Rank != 0 {
		return nil, nil
	}
	return g.callRoll(ctx)
}

// callRoll is rank 0's part of a round.
func (g *Gang) callRoll(ctx context.Context) (*verdict, error) {
	if g.roll.members == nil {
		g.roll.members = make([]*Member, g.Self.Size)
	}
	complete := true
	for rank := range g.roll.members {
		if g.roll.members[rank] != nil {
			continue
		}
		m, err := g.member(ctx, rank)
		switch {
		case err != nil:
			return nil, err
		case m == nil || g.roll.call != "" && m.Answer != g.roll.call:
			complete = false
		default:
			g.roll.members[rank] = m
		}
	}
	if complete && g.roll.call != "" {
		return g.decide(ctx, start(g.roll.members))
	}
	if complete || g.roll.call != "" && time.Since(g.roll.called) > callLimit {
		next := call{Version: Version, ID: rand.Text()}
		if err := g.store.PutRecord(ctx, g.key("call"), next); err != nil {
			return nil, err
		}
		g.roll = roll{call: next.ID, called: time.Now()}
	}
	return nil, nil
}

// start is the verdict on a gang that is complete.
func start(members []*Member) verdict {
	v := verdict{Version: Version, Time: time.Now().UTC()}
	master := members[0]
	for _, m := range members {
		switch {
		case m.Size != master.Size:
			v.Failure = fmt.Sprintf("rank %d is of a gang of %d, and rank 0 of one of %d", m.Rank, m.Size, master.Size)
		case stepText(m.ResumedFrom) != stepText(master.ResumedFrom):
			v.Failure = fmt.Sprintf("its members would not go on from the same step: rank 0 %s, rank %d %s", stepText(master.ResumedFrom), m.Rank, stepText(m.ResumedFrom))
		case m.Machine != master.Machine && master.Address == loopback:
			v.Failure = fmt.Sprintf("rank %d on node %s cannot reach rank 0 on node %s, which has no address: give the job a port with the label %q", m.Rank, m.NodeName, master.NodeName, mltask.MasterPort)
		}
		if v.Failure != "" {
			v.Members = nil
			return v
		}
		v.Members = append(v.Members, *m)
	}
	return v
}

func stepText(step *int64) string {
	if step == nil {
		return "from the beginning"
	}
	return fmt.Sprintf("from step %d", *step)
}

// expire decides that nobody starts, since somebody is missing.
func (g *Gang) expire() ([]Member, error) {
	ctx, cancel := context.WithTimeout(context.Background(), decideLimit)
	defer cancel()
	reason, err := g.missing(ctx)
	if err != nil {
		return nil, mltask.GangIncomplete(fmt.Sprintf("after %s the artifact store can't be read, so it is not known who is there: %v", g.Timeout, err))
	}
	return g.fail(ctx, reason)
}

// Leave makes the others not start, because this member does not, or tells them
// of it if they have. It returns the reason, as Meet does.
func (g *Gang) Leave(cause error) error {
	defer g.drop()
	ctx, cancel := context.WithTimeout(context.Background(), decideLimit)
	defer cancel()
	reason := fmt.Sprintf("rank %d left while it waited: %v", g.Self.Rank, cause)
	if _, err := g.fail(ctx, reason); err == nil { // the others have started
		return errors.Join(mltask.GangIncomplete(reason), g.Break(ctx, reason))
	}
	return mltask.GangIncomplete(reason)
}

// fail makes the verdict a failure, or follows the one that there is.
func (g *Gang) fail(ctx context.Context, reason string) ([]Member, error) {
	for {
		err := g.open()
		if err == nil {
			var v *verdict
			if v, err = g.decide(ctx, verdict{Version: Version, Time: time.Now().UTC(), Failure: reason}); err == nil {
				return g.follow(*v)
			}
			g.drop()
		}
		select {
		case <-ctx.Done():
			return nil, mltask.GangIncomplete(fmt.Sprintf("%s, which the others could not be told: %v", reason, err))
		case <-time.After(pollInterval):
		}
	}
}

// decide creates the verdict, or returns the one that there is.
func (g *Gang) decide(ctx context.Context, v verdict) (*verdict, error) {
	err := g.store.CreateRecord(ctx, g.key("verdict"), v)
	if err == nil {
		return &v, nil
	}
	if !errors.Is(err, artifact.ErrExists) {
		return nil, err
	}
	var standing verdict
	if err := g.store.GetRecord(ctx, g.key("verdict"), &standing); err != nil {
		return nil, err
	}
	return &standing, nil
}

// follow does what a verdict says.
func (g *Gang) follow(v verdict) ([]Member, error) {
	switch {
	case v.Version != Version:
		return nil, mltask.GangIncomplete(fmt.Sprintf("its verdict has version %d, this driver knows version %d: use one version on all nodes", v.Version, Version))
	case v.Failure != "":
		return nil, mltask.GangIncomplete(v.Failure)
	case g.Self.Rank >= len(v.Members):
		return nil, mltask.GangIncomplete(fmt.Sprintf("it has started with %d members, without rank %d", len(v.Members), g.Self.Rank))
	case v.Members[g.Self.Rank].TaskID != g.Self.TaskID:
		reason := fmt.Sprintf("rank %d was started again, after the gang had started", g.Self.Rank)
		ctx, cancel := context.WithTimeout(context.Background(), decideLimit)
		defer cancel()
		return nil, errors.Join(mltask.GangIncomplete(reason+": its members start together, under a new key"), g.Break(ctx, reason))
	}
	return v.Members, nil
}

// missing says who is not there.
func (g *Gang) missing(ctx context.Context) (string, error) {
	if err := g.open(); err != nil {
		return "", err
	}
	var c call
	if _, err := g.get(ctx, "call", &c); err != nil {
		return "", err
	}
	var absent, silent []int
	for rank := range g.Self.Size {
		m, err := g.member(ctx, rank)
		switch {
		case err != nil:
			return "", err
		case m == nil:
			absent = append(absent, rank)
		case m.Answer != c.ID:
			silent = append(silent, rank)
		}
	}
	if len(absent) > 0 {
		verb := "was"
		if len(absent) > 1 {
			verb = "were"
		}
		return fmt.Sprintf("%d of %d members were there within %s: %s %s missing", g.Self.Size-len(absent), g.Self.Size, g.Timeout, ranks(absent), verb), nil
	}
	if len(silent) == 0 { // rank 0 has seen none of it
		silent = []int{0}
	}
	return fmt.Sprintf("%d of %d members were there after %s: %s had come, and answered no more", g.Self.Size-len(silent), g.Self.Size, g.Timeout, ranks(silent)), nil
}

// ranks lists some ranks.
func ranks(list []int) string {
	const most = 8
	names := make([]string, 0, most)
	for _, rank := range list[:min(most, len(list))] {
		names = append(names, strconv.Itoa(rank))
	}
	if len(list) > most {
		names = append(names, fmt.Sprintf("%d more", len(list)-most))
	}
	if len(names) <= 1 {
		return "rank " + strings.Join(names, "")
	}
	last := len(names) - 1
	return "ranks " + strings.Join(names[:last], ", ") + " and " + names[last]
}

// Break tells the other members that this one has failed.
func (g *Gang) Break(ctx context.Context, reason string) error {
	store, err := g.Open()
	if err != nil {
		return err
	}
	defer store.Close()
	err = store.CreateRecord(ctx, g.key("broken"), broken{
		Version: Version, Time: time.Now().UTC(), Rank: g.Self.Rank, AllocID: g.Self.AllocID, Reason: reason,
	})
	if errors.Is(err, artifact.ErrExists) {
		return nil
	}
	return err
}

// Broken returns the reason once another member has failed, or ctx's error. A
// store that can't be read is asked again.
func (g *Gang) Broken(ctx context.Context) (string, error) {
	tick := time.NewTicker(breakInterval)
	defer tick.Stop()
	// Opening a store sweeps it, which is too much to do every few seconds.
	look := Gang{Key: g.Key, Open: g.Open}
	defer look.drop()
	for {
		b, err := look.readBroken(ctx)
		switch {
		case err != nil:
			look.drop()
		case b != nil && b.Rank != g.Self.Rank:
			return b.Reason, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

func (g *Gang) readBroken(ctx context.Context) (*broken, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	var b broken
	if found, err := g.get(ctx, "broken", &b); err != nil || !found {
		return nil, err
	}
	return &b, nil
}

// member reads what a rank has stored of itself, nil if it has not.
func (g *Gang) member(ctx context.Context, rank int) (*Member, error) {
	var m Member
	found, err := g.get(ctx, rankKey(rank), &m)
	switch {
	case err != nil || !found:
		return nil, err
	case m.Version != Version:
		return nil, fmt.Errorf("the record of rank %d has version %d, this driver knows version %d: use one version on all nodes", rank, m.Version, Version)
	case m.Rank != rank:
		return nil, fmt.Errorf("the record of rank %d is one of rank %d", rank, m.Rank)
	}
	return &m, nil
}

// get reads a record of the gang, if there is one.
func (g *Gang) get(ctx context.Context, name string, v any) (found bool, err error) {
	err = g.store.GetRecord(ctx, g.key(name), v)
	if errors.Is(err, artifact.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// open opens the store unless it is open.
func (g *Gang) open() (err error) {
	if g.store == nil {
		g.store, err = g.Open()
	}
	return err
}

// drop closes the store, so that the next use opens it anew.
func (g *Gang) drop() {
	if g.store != nil {
		g.store.Close()
		g.store = nil
	}
}

func (g *Gang) key(name string) string { return "gangs/" + g.Key + "/" + name }

func rankKey(rank int) string { return "rank-" + strconv.Itoa(rank) }

// Environment is how a command is told where its gang meets, as torchrun and
// others read it.
func Environment(members []Member) map[string]string {
	return map[string]string{"MASTER_ADDR": members[0].Address, "MASTER_PORT": strconv.Itoa(members[0].Port)}
}

// Hosts are the nodes of the members, each once, in the order of ranks.
func Hosts(members []Member) []string {
	var names []string
	for _, m := range members {
		if !slices.Contains(names, m.NodeName) {
			names = append(names, m.NodeName)
		}
	}
	return names
}
