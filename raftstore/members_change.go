package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// changeSlice bounds the work of a leader on one copy of a request. The caller sends
	// the request again, so that a leader that hangs does not take the whole budget, and
	// the caller gets the reason of the delay.
	changeSlice = 2 * time.Second
	// changeKept is the time after its last copy for which a change stays the one in
	// progress.
	changeKept = 2 * time.Second
	// answerTime is the time before the end of a caller's budget at which a leader
	// answers.
	answerTime = 100 * time.Millisecond
)

// askedChange is a change that a caller has requested.
type askedChange struct {
	memberRequest
	working int         // copies in progress
	touched dcs.Instant // the end of the last copy
	waits   error       // why the last copy did not make the change
}

// refusal is a definite refusal of a request about the members.
type refusal struct {
	kind replyKind
	text string
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error {
	return &refusal{kind: replyRefused, text: fmt.Sprintf(format, args...)}
}

// current returns the requested change in progress, or nil. The caller holds the lock.
func (r *reconfigurer) current() *askedChange {
	if a := r.asked; a != nil && a.working == 0 && a.touched.Elapsed() > changeKept {
		r.asked = nil
	}
	return r.asked
}

// isAsked reports whether a change of that node was requested. The caller holds the lock.
func (r *reconfigurer) isAsked(id string) bool {
	a := r.current()
	return a != nil && a.id == id
}

// take makes req the change in progress. It fails if there is another one.
func (r *reconfigurer) take(req memberRequest) (release func(done bool, waits error), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.current()
	if a != nil && a.nonce != req.nonce {
		return nil, &refusal{kind: replyBusy, text: fmt.Sprintf("%v of node %s", a.verb, a.id)}
	}
	if a == nil {
		a = &askedChange{memberRequest: req}
		r.asked = a
	}
	a.working++
	return func(done bool, waits error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		a.working--
		a.touched, a.waits = dcs.Now(), waits
		if done && r.asked == a {
			r.asked = nil
		}
	}, nil
}

// waits returns why an earlier copy of req did not make the change, or nil.
func (r *reconfigurer) waits(req memberRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.current(); a != nil && a.nonce == req.nonce {
		return a.waits
	}
	return nil
}

// changeMembers executes a request about the members, if this node leads. The error is a
// *refusal if the change must not be made, wraps errOpen if a change may still be made, and
// wraps transport.ErrNotSent if the request must be repeated.
func (n *node) changeMembers(ctx context.Context, r *request, rep *reply) error {
	// P2: the decisions below depend on the configuration, which must be the cluster's.
	if err := n.lead.confirmed(ctx, r.voter, r.term); err != nil {
		if errors.Is(err, errNotLeader) {
			return err
		}
		return fmt.Errorf("%w: %w", transport.ErrNotSent, cmp.Or(n.reconfigurer.waits(r.change), err))
	}
	j := n.reconfigurer
	j.mu.Lock()
	m, term := j.lead, j.term
	j.mu.Unlock()
	if m == nil {
		return fmt.Errorf("%w: %w", transport.ErrNotSent, errSuperseded)
	}
	if r.change.verb == verbList {
		rep.members = m.members()
		return nil
	}
	release, err := j.take(r.change)
	if err != nil {
		return err
	}
	ctx, cancel := sliceOf(ctx)
	defer cancel()
	defer context.AfterFunc(term, cancel)()
	c := &change{r: j, m: m, memberRequest: r.change}
	err = c.run(ctx)
	var no *refusal
	isNo := errors.As(err, &no)
	release(err == nil || isNo, err)
	if err == nil || isNo || errors.Is(err, errOpen) || errors.Is(err, errNotLeader) {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrNotSent, err)
}

// sliceOf bounds the work on one copy of a request.
func sliceOf(ctx context.Context) (context.Context, context.CancelFunc) {
	slice := changeSlice
	if deadline, ok := ctx.Deadline(); ok {
		slice = max(min(slice, time.Until(deadline)-answerTime), 0)
	}
	return context.WithTimeout(ctx, slice)
}

// change is the work on one copy of a request.
type change struct {
	memberRequest
	r *reconfigurer
	m *member
}

func (c *change) run(ctx context.Context) error {
	switch c.verb {
	case verbAddVoter, verbAddNonVoter:
		return c.add(ctx)
	case verbRemove:
		return c.remove(ctx)
	case verbMove:
		return c.move(ctx)
	case verbTransfer:
		return c.transfer(ctx)
	case verbList:
	}
	return refuse("%v is not known to this release", c.verb)
}

// arrive asks the node at the address of the request until it answers, and returns the
// place for its life.
func (c *change) arrive(ctx context.Context) (placement, error) {
	for {
		peer, said, err := c.r.n.askSetup(ctx, c.id, c.addr, c.r.n.introduction())
		if err == nil {
			err = c.fits(peer, said)
		}
		if err == nil {
			return placement{id: c.id, addr: c.addr, life: peer.Life, voter: c.verb == verbAddVoter}, nil
		}
		backoff.Sleep(ctx, minIntroPause)
		if ctx.Err() != nil {
			return placement{}, fmt.Errorf("node %s does not answer at %s as a node that can join: %w", c.id, c.addr, err)
		}
	}
}

// fits returns an error if a node is not one of this cluster.
func (c *change) fits(peer transport.Hello, said setupMessage) error {
	own := c.r.n.net.Greeting().Incarnation
	switch {
	case peer.Life.IsZero():
		return errors.New("the node has no life")
	case peer.Incarnation == own, said.Standing == standingLost && peer.Incarnation.IsZero():
		return nil
	case peer.Incarnation.IsZero():
		return errors.New("the node has not found the cluster yet: its Peers must name a running node")
	}
	return fmt.Errorf("the node belongs to another incarnation of the cluster (%v and not %v)", peer.Incarnation, own)
}

// add makes a node a voter or a non-voter.
func (c *change) add(ctx context.Context) error {
	conf, err := c.m.settle(ctx)
	if err != nil {
		return err
	}
	lives := conf.lives(c.id)
	if at := slices.IndexFunc(lives, isVoter); at >= 0 {
		addr := transport.PlainAddr(string(lives[at].Address))
		switch {
		case c.verb == verbAddNonVoter:
			return refuse("node %s is a voter: remove it first", c.id)
		case addr != c.addr:
			return refuse("node %s is a voter at %s: use Move for another address", c.id, addr)
		case len(lives) == 1:
			return nil
		}
	}
	e, err := c.arrive(ctx)
	if err != nil {
		return err
	}
	return c.establish(ctx, e)
}

// establish calls that of joins until Raft runs on the node and the node has caught up.
func (c *change) establish(ctx context.Context, e placement) error {
	for {
		err := c.r.establish(ctx, c.m, e)
		switch {
		case err == nil, !errors.Is(err, errNotReady) && !errors.Is(err, errBehind):
			return err
		case ctx.Err() != nil:
			return err
		}
		backoff.Sleep(ctx, minIntroPause)
	}
}

// remove removes all lives of a node. The leader transfers the leadership first.
func (c *change) remove(ctx context.Context) error {
	for first := true; ; first = false {
		conf, err := c.m.settle(ctx)
		if err != nil {
			return err
		}
		lives := conf.lives(c.id)
		if len(lives) == 0 && first {
			return &refusal{kind: replyAbsent, text: fmt.Sprintf("node %s is no member", c.id)}
		}
		if len(lives) == 0 {
			return nil
		}
		if slices.ContainsFunc(lives, isVoter) {
			if err := c.mayLose(ctx, conf.voters(c.id)); err != nil {
				return err
			}
		}
		if c.id == c.r.n.config.ID {
			if err := c.handOver(ctx, ""); err != nil {
				return err
			}
			return errNotLeader
		}
		gone := lives[len(lives)-1].ID
		if err := c.r.change(ctx, "configuration change: remove a server", gone, func() error {
			return c.m.raft.RemoveServer(gone, conf.index, configTimeout).Error()
		}); err != nil {
			return err
		}
	}
}

// mayLose returns an error if the remaining voters could not elect and commit. That is so if
// there is none, or if those that answer and whose disks work are no majority of them.
func (c *change) mayLose(ctx context.Context, rest []raft.Server) error {
	if len(rest) == 0 {
		return refuse("node %s is the last voter: add another one first", c.id)
	}
	ctx, cancel := context.WithTimeout(ctx, max(askTime, c.r.n.questionTime()))
	defer cancel()
	silent := map[string]bool{}
	var others []voter
	well := 0
	for _, s := range rest {
		if s.ID == c.m.id {
			well++
			continue
		}
		silent[transport.NodeOf(s.ID)] = true
		others = append(others, voter{id: s.ID, addr: c.m.addrOf(s)})
	}
	for a := range c.m.askVoters(ctx, others, opQuestion) {
		if a.well {
			well++
			delete(silent, transport.NodeOf(a.id))
		}
	}
	if well > len(rest)/2 {
		return nil
	}
	return refuse("without node %s the cluster would have %d voters, of which %d answer, and lose its quorum: no answer from %s", c.id, len(rest), well, strings.Join(sortedKeys(silent), ", "))
}

// move changes the address of a node, or replaces a lost life by the one that answers there.
func (c *change) move(ctx context.Context) error {
	conf, err := c.m.settle(ctx)
	if err != nil {
		return err
	}
	lives := conf.lives(c.id)
	if len(lives) == 0 {
		return &refusal{kind: replyAbsent, text: fmt.Sprintf("node %s is no member", c.id)}
	}
	if c.id == c.r.n.config.ID {
		if own := c.r.n.net.Addr(); own != c.addr {
			return refuse("node %s runs and is reached at %s: start it at %s first", c.id, own, c.addr)
		}
		return c.establish(ctx, placement{id: c.id, addr: c.addr, life: c.r.n.net.Greeting().Life, voter: true})
	}
	e, err := c.arrive(ctx)
	if err != nil {
		return err
	}
	e.voter = isVotersNode(lives)
	for _, s := range lives {
		_, life := transport.SplitServer(s.ID)
		if old := transport.PlainAddr(string(s.Address)); life != e.life && old != c.addr {
			if _, err := c.r.askNode(ctx, placement{id: c.id, addr: old, life: life}); err == nil {
				return refuse("node %s still runs at %s with its data: stop it before another one takes its place", c.id, old)
			}
		}
	}
	return c.establish(ctx, e)
}

// transfer moves the leadership to a voter.
func (c *change) transfer(ctx context.Context) error {
	own := c.r.n.config.ID
	if c.id == own || c.id == "" && c.from != "" && c.from != own {
		return nil // an earlier copy has moved it
	}
	if c.id == "" {
		return c.handOver(ctx, "")
	}
	lives := c.m.committed().lives(c.id)
	switch {
	case len(lives) == 0:
		return &refusal{kind: replyAbsent, text: fmt.Sprintf("node %s is no member", c.id)}
	case !slices.ContainsFunc(lives, isVoter):
		return refuse("node %s has no vote: use AddVoter first", c.id)
	}
	return c.handOver(ctx, c.id)
}

// handOver transfers the leadership to a voter that answers, to that node if id is not
// empty.
func (c *change) handOver(ctx context.Context, id string) error {
	var others []voter
	for _, s := range c.m.committed().voters(c.r.n.config.ID) {
		if id == "" || transport.NodeOf(s.ID) == id {
			others = append(others, voter{id: s.ID, addr: c.m.addrOf(s)})
		}
	}
	if len(others) == 0 {
		return refuse("there is no other voter that can lead")
	}
	asking, cancel := context.WithTimeout(ctx, c.r.n.questionTime())
	defer cancel()
	successor, ok := <-c.m.askVoters(asking, others, opQuestion)
	if !ok {
		return errors.New("no voter that can lead answers")
	}
	moved := c.m.raft.LeadershipTransferToServer(successor.id, raft.ServerAddress(successor.addr))
	done := make(chan error, 1)
	go func() { done <- moved.Error() }() // it ends with Raft at the latest
	select {
	case err := <-done:
		c.r.n.log.Info("leadership was transferred", "to", string(successor.id), "error", err)
		if err != nil {
			return err
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leadership was not taken over yet: %w", ctx.Err())
	}
}
