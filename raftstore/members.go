package raftstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// Membership lists and changes the members of the cluster. Its methods may be
// called on any member, because the leader does the work.
//
// One change is made at a time. A second one fails with an error that matches
// [ErrChangeInProgress]. A refused change fails with dcs.ErrConflict and the reason. A
// change may be called again with the same arguments. Completed steps are not repeated.
//
// Each call ends by the deadline of its context, or after two minutes without one. If
// it ends before the leader has answered, the error is dcs.ErrAmbiguous, and the caller
// should call Members for the outcome, or repeat the call. A dcs.ErrUnavailable that is
// not ambiguous names the event for which the call waited.
type Membership struct{ b *Backend }

// Membership returns the methods that change the members of the cluster.
func (b *Backend) Membership() *Membership { return &Membership{b: b} }

// ErrChangeInProgress reports that another change of the members is in progress.
var ErrChangeInProgress = errors.New("another change of the members is in progress")

// membershipTime bounds a call without a deadline.
const membershipTime = 2 * time.Minute

// Member is one node of the replicated configuration.
type Member struct {
	ID   string
	Addr string
	// Life is the life of the node's data. While a node gets another life, both
	// are members.
	Life string
	// Voter is true if the node counts for the quorum. A node without a vote gets all
	// entries and serves calls.
	Voter bool
	// Leader is true if the node leads.
	Leader bool
	// Acked is the newest log entry that the node has acknowledged in the present
	// term, and Lag is the number of entries that it lacks. A node that is being added
	// gets its vote when Lag is close to zero. Only the leader knows both.
	Acked uint64
	Lag   uint64
	// LastContact is the time since the node last answered the leader. It is 0 for
	// the leader, and NeverContacted on any other node and before the first answer.
	LastContact time.Duration
}

// Members returns the members as the leader knows them.
func (m *Membership) Members(ctx context.Context) ([]Member, error) {
	rep, err := m.call(ctx, memberRequest{verb: verbList})
	return rep.members, err
}

// AddVoter adds the node id as a voter. The node must run and be reachable at addr, and
// its Peers must name at least one node of the cluster. The leader adds it without a
// vote, waits until it has caught up, and gives it the vote. If ctx ends before that,
// the node stays a member without a vote, and AddVoter may be called again. AddVoter
// also makes a member without a vote a voter.
func (m *Membership) AddVoter(ctx context.Context, id, addr string) error {
	return m.change(ctx, memberRequest{verb: verbAddVoter, id: id, addr: addr})
}

// AddNonVoter adds the node id as AddVoter does, and gives it no vote.
func (m *Membership) AddNonVoter(ctx context.Context, id, addr string) error {
	return m.change(ctx, memberRequest{verb: verbAddNonVoter, id: id, addr: addr})
}

// Remove removes the node id, which may be down. A leader that is removed transfers the
// leadership first. Remove refuses to remove the last voter, or one without which the
// voters that answer would be no majority. The node ends its part in Raft and its calls
// fail, so callers should release the locks held through it before.
func (m *Membership) Remove(ctx context.Context, id string) error {
	return m.change(ctx, memberRequest{verb: verbRemove, id: id})
}

// Move changes the address of the node id to addr on all nodes. The node must run there
// already, with its own data or with an empty directory. In the second case it must not
// run at its old address any more, and the new life replaces the old one.
func (m *Membership) Move(ctx context.Context, id, addr string) error {
	return m.change(ctx, memberRequest{verb: verbMove, id: id, addr: addr})
}

// Transfer moves the leadership to the voter id, or to any other voter if id is empty.
func (m *Membership) Transfer(ctx context.Context, id string) error {
	r := memberRequest{verb: verbTransfer, id: id}
	if id == "" { // a copy that arrives later must not move the leadership again
		members, err := m.Members(ctx)
		if err != nil {
			return err
		}
		for _, one := range members {
			if one.Leader {
				r.from = one.ID
			}
		}
	}
	return m.change(ctx, r)
}

func (m *Membership) change(ctx context.Context, r memberRequest) error {
	if err := m.check(r); err != nil {
		return m.b.fail(r.verb.String(), r.id, dcs.ErrInvalid, "", err)
	}
	_, err := m.call(ctx, r)
	return err
}

// check returns an error if the arguments are valid for no node.
func (m *Membership) check(r memberRequest) error {
	f := &faults{}
	if r.id == "" && r.verb != verbTransfer || r.id != "" && !transport.ValidID(r.id) {
		f.add(`ID %q: letters, digits, ".", "_" and "-", 1 to %d of them, like "node-d"`, r.id, transport.MaxNodeID)
	}
	if r.verb == verbAddVoter || r.verb == verbAddNonVoter || r.verb == verbMove {
		m.b.config.checkRemote(f, r.addr)
	}
	if f.err() == nil {
		return nil
	}
	var e *dcs.Error
	errors.As(f.err(), &e)
	return e.Err
}

// call sends a request to the leader and returns its answer.
func (m *Membership) call(ctx context.Context, c memberRequest) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, membershipTime)
	defer cancel()
	_, _ = rand.Read(c.nonce[:])
	o := m.b.node.ask(ctx, &request{op: opMembership, change: c}, nothing)
	op := c.verb.String()
	if o.err != nil {
		err := m.b.unavailable(ctx, op, c.id, o)
		if o.unclear && c.verb != verbList && errors.Is(err.Kind, dcs.ErrUnavailable) && !errors.Is(err.Kind, dcs.ErrUnauthorized) {
			err.Kind = dcs.ErrAmbiguous
		}
		return reply{}, err
	}
	switch o.reply.kind {
	case replyDone, replyMembers:
		return o.reply, nil
	case replyAbsent:
		if c.verb == verbRemove && o.unclear {
			return o.reply, nil // an earlier copy has done it
		}
		return reply{}, m.b.fail(op, c.id, dcs.ErrNotFound, o.endpoint, errors.New(o.reply.text))
	case replyBusy:
		return reply{}, m.b.fail(op, c.id, dcs.ErrConflict, o.endpoint, fmt.Errorf("%w: %s", ErrChangeInProgress, o.reply.text))
	default:
		return reply{}, m.b.fail(op, c.id, dcs.ErrConflict, o.endpoint, errors.New(o.reply.text))
	}
}

// members describes the servers of the latest configuration.
func (m *member) members() []Member {
	_, leader := m.raft.LeaderWithID()
	term := m.leading()
	var all []Member
	last := m.raft.LastIndex()
	for _, s := range m.servers() {
		id, life := transport.SplitServer(s.ID)
		one := Member{
			ID: id, Addr: transport.PlainAddr(string(s.Address)), Life: life.String(), Voter: isVoter(s),
			Leader: s.ID == leader, LastContact: NeverContacted,
		}
		switch {
		case term == 0:
		case s.ID == m.id:
			one.Acked, one.LastContact = last, 0
		default:
			if seen := m.trans.Proven(s.ID); seen.Term == term {
				one.Acked = seen.Log.Index
			}
			one.Lag = last - min(last, one.Acked)
			if since, ever := m.trans.LastContact(s.ID); ever {
				one.LastContact = since
			}
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Life, b.Life)) })
	return all
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
