package raftstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// joinTimeout is the time after its last question for which a leader continues with
	// a node.
	joinTimeout = 5 * time.Second
	// leastCatchUp is the lower bound of the time of a round within which a new node
	// counts as caught up. The entries that a leader appends in that time do not delay a
	// commit that needs the node's acknowledgement.
	leastCatchUp = time.Second
	// configTimeout is the time for which a change of the configuration may wait for
	// Raft's main loop.
	configTimeout = time.Second
	// settlePause is how often a leader checks whether a change is committed.
	settlePause = 5 * time.Millisecond
)

// reconfigurer changes the configuration while this node leads. By itself it replaces a lost life
// of a node by the new one. It makes all other changes on request (see changeMembers).
//
// A life with a vote is replaced in four entries. The new one is added without a vote, the
// old one loses its vote once the new one has caught up, the new one gets the vote, and the
// old one is removed. So the quorum is never larger than it was. With another dead voter, a
// cluster of three would have no quorum if the new life was lost at that moment, too. Each
// entry changes a single server, which Raft's proof covers. The next one follows from the
// present configuration alone, so that a new leader continues where the old one stopped. Of
// several lives one must get the vote.
//
// A life of a node that keeps no vote is replaced in three entries. The old one is marked
// (see isWithoutVote), the new one is added, and the old one is removed. hashicorp/raft
// reads the address of a server to which it sends without the lock under which it changes
// the address. Therefore the mark is not on the life that runs.
type reconfigurer struct {
	n    *node
	kick chan struct{}

	mu      sync.Mutex
	waiting map[string]*applicant // by the node's name
	lead    *member               // nil unless a term of this node is open
	term    context.Context       //nolint:containedctx // its end is the term's
	asked   *askedChange          // the requested change, until it has ended
}

// applicant is a node that waits for its new life to replace the old one.
type applicant struct {
	id    string
	life  disk.Life
	asked dcs.Instant
}

func newReconfigurer(n *node) *reconfigurer {
	return &reconfigurer{n: n, kick: make(chan struct{}, 1), waiting: map[string]*applicant{}}
}

// configuration is a configuration and the index of its entry.
type configuration struct {
	servers []raft.Server
	index   uint64
}

// noteConfiguration records a committed configuration. Raft itself reports neither the index
// of its latest one nor whether that is committed.
func (m *member) noteConfiguration(l *raft.Log) {
	m.applied.Store(&configuration{servers: raft.DecodeConfiguration(l.Data).Servers, index: l.Index})
}

// committed returns the newest configuration that this node knows to be committed.
// Its entry was applied here, or a snapshot has it.
func (m *member) committed() configuration {
	var c configuration
	if applied := m.applied.Load(); applied != nil {
		c = *applied
	}
	if list, err := m.snaps.List(); err == nil && len(list) > 0 && list[0].ConfigurationIndex > c.index {
		c = configuration{servers: list[0].Configuration.Servers, index: list[0].ConfigurationIndex}
	}
	return c
}

// settled returns the committed configuration, and whether it is the latest one, so that no
// change is in progress.
func (m *member) settled() (configuration, bool) {
	c := m.committed()
	return c, slices.Equal(c.servers, m.servers())
}

// settle waits until no change is in progress and returns the configuration. A change names
// its index, so that Raft refuses it if another one was made meanwhile.
func (m *member) settle(ctx context.Context) (configuration, error) {
	for {
		c, ok := m.settled()
		if ok {
			return c, nil
		}
		backoff.Sleep(ctx, settlePause)
		if ctx.Err() != nil {
			return c, errors.New("an earlier change of the configuration is not committed yet")
		}
	}
}

// lives returns the servers of a node, the oldest first.
func (c configuration) lives(id string) (own []raft.Server) {
	for _, s := range c.servers {
		if transport.NodeOf(s.ID) == id {
			own = append(own, s)
		}
	}
	return own
}

// voters returns the voters of all nodes except the node without.
func (c configuration) voters(without string) (voters []raft.Server) {
	for _, s := range c.servers {
		if s.Suffrage == raft.Voter && transport.NodeOf(s.ID) != without {
			voters = append(voters, s)
		}
	}
	return voters
}

func isVoter(s raft.Server) bool { return s.Suffrage == raft.Voter }

// isVoterToBe reports whether a new life of this server's node must become a voter. A
// recovery or a restore puts the other nodes into the first configuration of the new
// incarnation as Staging, without a vote, so that they join it by themselves.
func isVoterToBe(s raft.Server) bool { return s.Suffrage != raft.Nonvoter }

// note records the introduction of a node and adds the node's place in the configuration to
// the answer. It ignores a configuration that is not committed, because that may never be.
func (r *reconfigurer) note(peer transport.Hello, m setupMessage, answer *setupMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lead == nil || peer.Life.IsZero() {
		return
	}
	incarnation := r.n.net.Greeting().Incarnation
	if lost := m.Standing == standingLost; peer.Incarnation != incarnation && !(lost && peer.Incarnation.IsZero()) {
		return
	}
	if c, ok := r.lead.settled(); ok {
		r.answer(c.lives(peer.ID), peer, m, answer)
	}
}

// answer is the part of note that needs the configuration. The caller holds the lock.
func (r *reconfigurer) answer(lives []raft.Server, peer transport.Hello, m setupMessage, answer *setupMessage) {
	own := transport.ServerID(peer.ID, peer.Life)
	at := slices.IndexFunc(lives, func(s raft.Server) bool { return s.ID == own })
	answer.Admitted = at >= 0
	answer.Voter = answer.Admitted && isVoter(lives[at])
	answer.NonVoter = answer.Admitted && !answer.Voter && len(lives) == 1 && !r.isAsked(peer.ID)
	now := m.Standing
	switch part := now == standingMember || now == standingNonVoter || now == standingJoining && m.Added; {
	case part && !answer.Admitted && slices.ContainsFunc(lives, isVoter):
		_, answer.Replaced = transport.SplitServer(lives[len(lives)-1].ID)
	case part && !answer.Admitted:
		// A life without a vote may be the next one of this node, if the node was removed
		// and then stopped before it began that life.
		answer.Removed = true
	case len(lives) == 0:
	// A removed node may have been added again with the life that it gave up
	// meanwhile.
	case (now == standingLost || now == standingJoining || now == standingRemoved) && (!answer.Admitted || len(lives) > 1):
		r.waiting[peer.ID] = &applicant{id: peer.ID, life: peer.Life, asked: dcs.Now()}
		r.wake()
	}
}

func (r *reconfigurer) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// serve replaces lost lives while a term of this node lasts. It begins when the term is
// open, so that the configuration is committed.
func (r *reconfigurer) serve(life context.Context, term uint64) {
	m := r.n.member()
	r.begin(life, m)
	defer r.begin(nil, nil) //nolint:staticcheck // no term
	tick := time.NewTicker(leastCatchUp)
	defer tick.Stop()
	said := map[string]string{}
	for life.Err() == nil {
		r.correctAlone(life, m)
		for _, a := range append(r.list(), r.unfinished(m)...) {
			err := r.replace(life, m, a)
			if err != nil && life.Err() == nil && said[a.id] != err.Error() {
				said[a.id] = err.Error()
				r.n.log.Warn("cannot replace the lost life of a node by its new one; retrying", "node", a.id, "life", a.life, "term", term, "error", err)
			}
		}
		select {
		case <-r.kick:
		case <-tick.C:
		case <-life.Done():
		}
	}
}

// begin starts a term, or ends it if m is nil. It discards the knowledge of an earlier
// term.
func (r *reconfigurer) begin(life context.Context, m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.waiting)
	r.lead, r.term, r.asked = m, life, nil
}

// list returns copies of the applicants, without those that do not ask any more and those
// for which a caller has requested a change.
func (r *reconfigurer) list() []applicant {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.waiting, func(_ string, a *applicant) bool { return a.asked.Elapsed() > joinTimeout })
	var all []applicant
	for _, id := range sortedKeys(r.waiting) {
		if !r.isAsked(id) {
			all = append(all, *r.waiting[id])
		}
	}
	return all
}

// unfinished returns the nodes that have several lives in the configuration and do not ask.
// A new life with a vote does not ask, even if the leader that gave it the vote was stopped
// before it removed the old life. The last known life must stay.
func (r *reconfigurer) unfinished(m *member) (all []applicant) {
	c, ok := m.settled()
	if !ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range sortedKeys(membersOf(c.servers)) {
		lives := c.lives(id)
		if len(lives) == 1 || r.waiting[id] != nil || r.isAsked(id) {
			continue
		}
		_, life := transport.SplitServer(lives[len(lives)-1].ID)
		if known := r.n.lifeOf(id); slices.ContainsFunc(lives, func(s raft.Server) bool { return s.ID == transport.ServerID(id, known) }) {
			life = known
		}
		all = append(all, applicant{id: id, life: life})
	}
	return all
}

// replace takes the steps that are possible now for an applicant. A second process with an
// empty directory must not replace a running node, so the new life must answer at the
// node's address.
func (r *reconfigurer) replace(ctx context.Context, m *member, a applicant) error {
	c, err := m.settle(ctx)
	lives := c.lives(a.id)
	if err != nil || len(lives) == 0 { // the node was removed meanwhile
		return err
	}
	e := placement{id: a.id, addr: r.n.nodeAddr(a.id), life: a.life, voter: isVotersNode(lives)}
	err = r.establish(ctx, m, e)
	if errors.Is(err, errNotReady) {
		return nil // the node asks again
	}
	return err
}

// correctAlone puts this node's own address into the configuration, if it is the only node
// and so needs no other.
func (r *reconfigurer) correctAlone(ctx context.Context, m *member) {
	c, ok := m.settled()
	if !ok || len(c.servers) != 1 || c.servers[0].Address == r.ownAddr() {
		return
	}
	_ = r.change(ctx, "address of this node has changed", m.id, func() error {
		return m.raft.AddVoter(m.id, r.ownAddr(), c.index, configTimeout).Error()
	}) // repeated with the next tick
}

func (r *reconfigurer) ownAddr() raft.ServerAddress {
	return serverAddr(r.n.net.Addr(), r.n.net.Greeting().Life)
}

var (
	// errNotReady reports that Raft does not run on a node yet.
	errNotReady = errors.New("Raft does not run on the node yet")
	// errBehind reports that a node does not catch up.
	errBehind = errors.New("the node does not catch up with the log")
	// errOpen reports that the outcome of a change is unknown.
	errOpen = errors.New("a change of the configuration was proposed, and the outcome is unknown")
)

// establish changes the configuration, one entry after the other, until it has the place in
// e, and no other life of the node.
func (r *reconfigurer) establish(ctx context.Context, m *member, e placement) error {
	for {
		c, err := m.settle(ctx)
		if err != nil {
			return err
		}
		step, more := e.next(c.lives(e.id))
		if !more {
			return nil
		}
		switch step.kind {
		case stepMark, stepAdd:
			err = r.mayAdd(ctx, e)
		case stepDemote, stepVote:
			err = r.catchUp(ctx, m, e)
		case stepRemove:
			_, err = r.askNode(ctx, e)
		case stepAddress, stepVotersAddress:
		}
		if err != nil {
			return err
		}
		if err := r.change(ctx, string(step.kind), step.server, func() error { return step.make(m, c.index) }); err != nil {
			return err
		}
	}
}

// mayAdd returns an error if this life must not be added now.
func (r *reconfigurer) mayAdd(ctx context.Context, e placement) error {
	said, err := r.askNode(ctx, e)
	if err != nil {
		return err
	}
	if level := r.n.state.Level(); said.Level < level {
		return refuse("node %s understands feature level %d and the cluster is at level %d: run the release of the other nodes on it", e.id, said.Level, level)
	}
	return nil
}

// askNode asks the node, at the address in e, for its description of itself.
func (r *reconfigurer) askNode(ctx context.Context, e placement) (setupMessage, error) {
	if e.id == r.n.config.ID {
		return r.n.introduction(), nil
	}
	peer, said, err := r.n.askSetup(ctx, e.id, e.addr, r.n.introduction())
	if err == nil && peer.Life != e.life {
		err = fmt.Errorf("at %s node %s answers with life %v and not %v", e.addr, peer.ID, peer.Life, e.life)
	}
	return said, err
}

// change makes one change of the configuration and waits until it is committed, or ctx
// ends. Raft's future knows no context. It is resolved at the latest when Raft loses the
// leadership. The error wraps errOpen if the change may still be made.
func (r *reconfigurer) change(ctx context.Context, step string, id raft.ServerID, propose func() error) error {
	done := make(chan error, 1)
	go func() { done <- propose() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("%w: the change is not committed yet", errOpen)
	}
	r.n.log.Info(step, "server", string(id), "error", err)
	if errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrRaftShutdown) {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	return err
}

// catchUp returns when the node has the entries that the log had a moment ago. A node that
// is far behind would delay each commit that needs its acknowledgement.
func (r *reconfigurer) catchUp(ctx context.Context, m *member, e placement) error {
	bound := max(r.n.config.ElectionTimeout, leastCatchUp)
	heard := dcs.Now()
	for range 100 {
		begun, last := dcs.Now(), m.raft.LastIndex()
		for {
			said, err := r.askNode(ctx, e)
			if err == nil {
				heard = dcs.Now()
			}
			switch {
			case err == nil && said.Standing != standingJoining && said.Standing != standingNonVoter && said.Standing != standingMember:
				return errNotReady
			case err == nil && said.Last >= last:
			case ctx.Err() != nil || heard.Elapsed() > joinTimeout:
				return errors.Join(fmt.Errorf("%w: the node has %d of %d entries", errBehind, said.Last, last), err)
			default:
				backoff.Sleep(ctx, min(r.n.config.HeartbeatTimeout/8, 50*time.Millisecond))
				continue
			}
			break
		}
		if begun.Elapsed() <= bound {
			return nil
		}
	}
	return errBehind
}
