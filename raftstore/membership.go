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
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

const (
	// joinPatience is how long a leader goes on with a node that does not ask
	// any more.
	joinPatience = 5 * time.Second
	// leastCatchUp bounds from below the time of a round in which a new node
	// has caught up: what a leader appends in that time does not delay a
	// commit that needs the node's acknowledgement.
	leastCatchUp = time.Second
	// configTimeout is how long a change of the configuration may wait for
	// Raft's main loop.
	configTimeout = time.Second
)

// joins are the nodes that wait to become voters, as a leader knows them. The
// leader replaces a lost life of a node by its new one in three entries:
// RemoveServer for the old life, AddNonvoter for the new one, and AddVoter once
// it has caught up. Each is a change of a single server, which Raft's proof
// covers, and the next step follows from the present configuration alone: a new
// leader goes on where the old one stopped.
type joins struct {
	n    *node
	kick chan struct{}

	mu        sync.Mutex
	waiting   map[string]*applicant // by the node's name
	committed []raft.Server         // the configuration, while no change is under way
}

// applicant is a node that waits.
type applicant struct {
	id    string
	life  disk.Life
	ready bool // Raft runs on it
	asked dcs.Instant

	admitted, voter bool // see setupMessage
}

func newJoins(n *node) *joins {
	return &joins{n: n, kick: make(chan struct{}, 1), waiting: map[string]*applicant{}}
}

// note takes down what a node says of itself and adds to the answer how far it
// is.
func (j *joins) note(peer transport.Hello, m setupMessage, answer *setupMessage) {
	j.mu.Lock()
	defer j.mu.Unlock()
	own := j.n.net.Greeting()
	if m.Standing == standingMember && peer.Incarnation == own.Incarnation {
		answer.Replaced = j.replacement(peer)
		return
	}
	lost := m.Standing == standingLost
	if !lost && m.Standing != standingJoining || j.n.config.peerAddr(peer.ID) == "" || peer.Life.IsZero() ||
		peer.Incarnation != own.Incarnation && !(lost && peer.Incarnation.IsZero()) {
		return
	}
	a := j.waiting[peer.ID]
	if a == nil || a.life != peer.Life {
		a = &applicant{id: peer.ID, life: peer.Life}
		j.waiting[peer.ID] = a
	}
	a.ready, a.asked = !lost, dcs.Now()
	answer.Admitted, answer.Voter = a.admitted, a.voter
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

// replacement returns the life that the committed configuration has of a node
// that believes to be a member with another one. The caller holds the lock.
func (j *joins) replacement(peer transport.Hello) (other disk.Life) {
	for _, s := range j.committed {
		node, life := transport.SplitServer(s.ID)
		if node == peer.ID && life == peer.Life {
			return disk.Life{}
		}
		if node == peer.ID {
			other = life
		}
	}
	return other
}

// serve changes the configuration for as long as a term of this node lasts. It
// begins when the term is open, so that the configuration is committed.
func (j *joins) serve(life context.Context, term uint64) {
	m := j.n.member()
	j.begin(m)
	defer j.end()
	tick := time.NewTicker(leastCatchUp)
	defer tick.Stop()
	for life.Err() == nil {
		for _, a := range j.list() {
			if err := j.advance(life, m, a); err != nil && life.Err() == nil {
				j.n.log.Warn("a node could not be made a voter; it is tried again", "node", a.id, "life", a.life, "term", term, "error", err)
			}
		}
		select {
		case <-j.kick:
		case <-tick.C:
		case <-life.Done():
		}
	}
}

func (j *joins) begin(m *member) {
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.waiting) // what an earlier term found out counts for nothing
	j.committed = m.servers()
}

func (j *joins) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.waiting)
	j.committed = nil
}

// list returns copies of those who wait, and forgets who does not ask any more.
func (j *joins) list() []applicant {
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.waiting, func(_ string, a *applicant) bool { return a.asked.Elapsed() > joinPatience })
	var all []applicant
	for _, id := range slices.Sorted(maps.Keys(j.waiting)) {
		all = append(all, *j.waiting[id])
	}
	return all
}

// set notes how far a node is, if it still has that life.
func (j *joins) set(a applicant, f func(*applicant)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now := j.waiting[a.id]; now != nil && now.life == a.life {
		f(now)
	}
}

// advance takes the steps that are possible now for a node that waits.
func (j *joins) advance(life context.Context, m *member, a applicant) error {
	own := transport.ServerID(a.id, a.life)
	suffrage, present := raft.Nonvoter, false
	var others []raft.ServerID
	for _, s := range m.servers() {
		switch node, _ := transport.SplitServer(s.ID); {
		case s.ID == own:
			suffrage, present = s.Suffrage, true
		case node == a.id:
			others = append(others, s.ID)
		}
	}
	if present && suffrage == raft.Voter && len(others) == 0 {
		j.set(a, func(a *applicant) { a.admitted, a.voter = true, true })
		return nil
	}
	// A second process with an empty directory must not replace a node that
	// lives: at the node's address the new life must answer.
	if _, err := j.look(life, a); err != nil {
		return err
	}
	for _, id := range others {
		if err := j.change(life, m, "a life that is lost is removed", id, func() raft.IndexFuture {
			return m.raft.RemoveServer(id, 0, configTimeout)
		}); err != nil {
			return err
		}
	}
	j.set(a, func(a *applicant) { a.admitted = true })
	if !a.ready {
		return nil
	}
	addr := raft.ServerAddress(j.n.nodeAddr(a.id))
	if !present {
		if err := j.change(life, m, "a new life is added without a vote", own, func() raft.IndexFuture {
			return m.raft.AddNonvoter(own, addr, 0, configTimeout)
		}); err != nil {
			return err
		}
	}
	if err := j.catchUp(life, m, a); err != nil {
		return err
	}
	if err := j.change(life, m, "the new life is given its vote", own, func() raft.IndexFuture {
		return m.raft.AddVoter(own, addr, 0, configTimeout)
	}); err != nil {
		return err
	}
	j.set(a, func(a *applicant) { a.voter = true })
	return nil
}

// look asks the node that waits, at its address in Peers, how it stands.
func (j *joins) look(ctx context.Context, a applicant) (setupMessage, error) {
	peer, said, err := j.n.askSetup(ctx, j.n.nodeAddr(a.id), j.n.introduction())
	if err == nil && (peer.ID != a.id || peer.Life != a.life) {
		err = fmt.Errorf("at %s node %s with life %v answers", j.n.nodeAddr(a.id), peer.ID, peer.Life)
	}
	return said, err
}

// change makes one change of the configuration and waits until it is committed
// or the term is over. Raft's future knows no context. It is resolved at the
// latest when Raft loses the lead.
func (j *joins) change(life context.Context, m *member, what string, id raft.ServerID, propose func() raft.IndexFuture) error {
	j.mu.Lock()
	j.committed = nil
	j.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- propose().Error() }()
	var err error
	select {
	case err = <-done:
	case <-life.Done():
		return errSuperseded
	}
	j.n.log.Info(what, "server", string(id), "error", err)
	if err == nil {
		j.mu.Lock()
		j.committed = m.servers()
		j.mu.Unlock()
	}
	return err
}

// errBehind says that a node does not catch up.
var errBehind = errors.New("the node does not catch up with the log")

// catchUp returns when the node has what the log held a moment ago. A node that
// is far behind would delay each commit that needs its acknowledgement.
func (j *joins) catchUp(life context.Context, m *member, a applicant) error {
	bound := max(j.n.config.ElectionTimeout, leastCatchUp)
	heard := dcs.Now()
	for range 100 {
		begun, last := dcs.Now(), m.raft.LastIndex()
		for {
			said, err := j.look(life, a)
			if err == nil {
				heard = dcs.Now()
			}
			if err == nil && said.Last >= last {
				break
			}
			if life.Err() != nil || heard.Elapsed() > joinPatience {
				return errors.Join(errBehind, err)
			}
			pause(life, min(j.n.config.HeartbeatTimeout/8, 50*time.Millisecond))
		}
		if begun.Elapsed() <= bound {
			return nil
		}
	}
	return errBehind
}
