package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/logging"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// The operations between nodes.
const (
	opQuestion   byte = iota + 1 // P2: the current term; empty body
	opPropose                    // put a command into the log
	opRead                       // read a key, or a tree if it moved
	opRenew                      // confirm a lease and read keys
	opPosition                   // the entry that must be applied to be up to date
	opDisk                       // whether the disk can be relied on now; empty body
	opMembership                 // list or change the members
	opVote                       // P2: the current term, if the node is the server in the body; from clients only
)

// callVersion is the first byte of every request and reply.
const callVersion = 3

// maxRenewKeys bounds the keys that one renewal reads.
const maxRenewKeys = 1024

// request is one call to the leader. Between nodes, requests are never forwarded. A
// node that does not lead answers so, and the caller finds the leader.
type request struct {
	op byte

	// term is the term of the calling server, read after the call was made. It is an
	// answer to P2's question, given in advance. voter is that server, as its
	// connection proves it. It is not sent.
	voter raft.ServerID
	term  uint64

	key  state.Key // opPropose: identifies the waiting callers
	data []byte    // opPropose: the command

	prefix string       // opRead
	single bool         // opRead: that key alone
	since  dcs.Revision // opRead: no entries are sent unless the tree moved past it

	lease dcs.LeaseID // opRenew
	keys  []string    // opRenew, at most maxRenewKeys
	// asked is a voter that the client asks for its term itself, or "".
	asked raft.ServerID // opRenew

	change memberRequest // opMembership
}

func (r *request) encode() []byte {
	e := &codec.Encoder{B: make([]byte, 0, 96+len(r.data)+len(r.prefix))}
	e.Byte(callVersion)
	e.Uint(r.term)
	switch r.op {
	case opPropose:
		e.Bool(r.key.Cancel)
		e.Uint(r.key.Client)
		e.Uint(r.key.Seq)
		e.Raw(r.key.Nonce[:])
		e.Bytes(r.data)
	case opRead:
		e.Text(r.prefix)
		e.Bool(r.single)
		e.Uint(uint64(r.since))
	case opRenew:
		e.Text(string(r.lease))
		e.Uint(uint64(len(r.keys)))
		for _, k := range r.keys {
			e.Text(k)
		}
		e.Text(string(r.asked))
	case opMembership:
		r.change.encode(e)
	}
	return e.B
}

func decodeRequest(op byte, body []byte) (*request, error) {
	d := codec.NewDecoder(body, maxRenewKeys)
	d.Version("a request of another node", callVersion)
	r := &request{op: op, term: d.Uint()}
	switch op {
	case opPropose:
		r.key = state.Key{Cancel: d.Bool(), Client: d.Uint(), Seq: d.Uint(), Nonce: state.Nonce(d.Raw(len(state.Nonce{})))}
		r.data = d.Bytes()
	case opRead:
		r.prefix, r.single, r.since = d.Text(), d.Bool(), d.Revision()
	case opRenew:
		r.lease = d.Lease()
		for range d.List() {
			r.keys = append(r.keys, d.Text())
		}
		r.asked = raft.ServerID(d.Text())
	case opMembership:
		r.change = decodeMemberRequest(d)
	case opPosition:
	default:
		return nil, fmt.Errorf("unknown operation %d", op)
	}
	return r, d.End()
}

// replyKind is a node's verdict on a request.
type replyKind byte

const (
	// replyDone: done; the other fields have the result.
	replyDone replyKind = iota + 1
	// replyNotLeader: nothing was done; leader is the node that may lead, or "".
	replyNotLeader
	// replyNotDone: nothing was done, for the reason in text.
	replyNotDone
	// replyUnclear: the request may have been executed, or may still be.
	replyUnclear
	// replyGone: the lease is not live, as the quorum has confirmed.
	replyGone
	// replyMembers: done; members has the list.
	replyMembers
	// replyRefused: a change of the members must not be made, for the reason in text.
	// replyBusy: another change, which text names, is in progress. replyAbsent: the
	// node that the change concerns is no member.
	replyRefused
	replyBusy
	replyAbsent
)

// isFinal reports whether k answers the request, so that it need not be sent again.
func (k replyKind) isFinal() bool {
	return k == replyDone || k == replyGone || k >= replyMembers && k <= replyAbsent
}

// reply is the answer to a request.
type reply struct {
	kind   replyKind
	leader string // replyNotLeader
	text   string // replyNotDone, replyUnclear

	result   state.Result  // opPropose
	revision dcs.Revision  // opRead, opRenew, opPosition: the position of the state
	tooLarge bool          // opRead, opRenew: too large to send; read at revision or later
	moved    bool          // opRead: the tree moved past since; else entries are left out
	ttl      time.Duration // opRenew
	ifTerm   uint64        // opRenew: the reply holds only if asked is in that term; 0 means that it holds
	entries  []dcs.Entry   // opRead, opRenew
	members  []Member      // replyMembers
}

func (r *reply) encode() []byte {
	e := &codec.Encoder{B: make([]byte, 0, 64+len(r.text)+entriesSize(r.entries))}
	e.Byte(callVersion)
	e.Byte(byte(r.kind))
	e.Text(r.leader)
	e.Text(r.text)
	state.EncodeResult(e, r.result)
	e.Uint(uint64(r.revision))
	e.Bool(r.tooLarge)
	e.Bool(r.moved)
	e.Duration(r.ttl)
	e.Uint(r.ifTerm)
	e.Entries(r.entries)
	if r.kind == replyMembers {
		e.Bytes(encodeMembers(r.members))
	}
	return e.B
}

// entriesSize returns a little more than the size of the encoded entries.
func entriesSize(entries []dcs.Entry) int {
	size := 0
	for i := range entries {
		e := &entries[i]
		size += 48 + len(e.Key) + len(e.Value) + len(e.Lease)
	}
	return size
}

func decodeReply(body []byte) (reply, error) {
	d := codec.NewDecoder(body, 0)
	d.Version("a reply of another node", callVersion)
	r := reply{kind: replyKind(d.Byte()), leader: d.Text(), text: d.Text(), result: state.DecodeResult(d)}
	r.revision, r.tooLarge, r.moved = d.Revision(), d.Bool(), d.Bool()
	r.ttl, r.ifTerm, r.entries = d.Duration(), d.Uint(), d.Entries()
	if r.kind != replyMembers {
		return r, d.End()
	}
	list := d.Bytes()
	if err := d.End(); err != nil {
		return r, err
	}
	var err error
	r.members, err = decodeMembers(list)
	return r, err
}

// answer answers a call of another node.
func (n *node) answer(ctx context.Context, op byte, body []byte) []byte {
	if op == opQuestion || op == opDisk {
		m := n.member()
		if m == nil {
			return nil // no term: the answer counts for nothing
		}
		well := n.health.isResponsive()
		if op == opDisk {
			well = well && m.diskWorks(ctx)
		}
		// P2: read after the question has arrived.
		return voterState{term: m.raft.CurrentTerm(), level: state.Level, well: well}.encode()
	}
	r, err := decodeRequest(op, body)
	if err != nil {
		return (&reply{kind: replyNotDone, text: err.Error()}).encode()
	}
	r.voter = transport.Caller(ctx)
	rep := n.serve(ctx, r)
	if entriesSize(rep.entries) > transport.MaxEntryBytes {
		// The other node reads its own copy once it has applied as much.
		rep.entries, rep.tooLarge = nil, true
	}
	rep.text = logging.Clip(rep.text)
	return rep.encode()
}

// serve executes r if this node leads.
func (n *node) serve(ctx context.Context, r *request) reply {
	if err := n.state.Failed(); err != nil {
		return reply{kind: replyNotDone, text: err.Error()}
	}
	var rep reply
	var no *refusal
	err := n.do(ctx, r, &rep)
	switch {
	case err == nil && rep.members != nil:
		rep.kind = replyMembers
	case err == nil:
		rep.kind = replyDone
	case errors.As(err, &no):
		rep.kind, rep.text = no.kind, no.text
	case errors.Is(err, errNotLeader):
		rep.kind = replyNotLeader
		if leader := n.leaderAddr(); leader != n.net.Addr() { // the caller has asked this node already
			rep.leader = leader
		}
	case errors.Is(err, errGone):
		rep.kind = replyGone
	case errors.Is(err, transport.ErrNotSent):
		rep.kind, rep.text = replyNotDone, err.Error()
	default:
		rep.kind, rep.text = replyUnclear, err.Error()
	}
	return rep
}

// do executes r, or returns the reason why it does not.
func (n *node) do(ctx context.Context, r *request, rep *reply) (err error) {
	if r.op == opPropose {
		// P15: a refused command never reaches the log. A node that cannot read an
		// entry of the log would stop permanently.
		if err := n.state.CheckProposal(r.key, r.data); err != nil {
			return fmt.Errorf("%w: command refused: %w", transport.ErrNotSent, err)
		}
		rep.result, err = n.lead.submit(ctx, r.key, r.data)
		return err
	}
	if r.op == opMembership {
		return n.changeMembers(ctx, r, rep)
	}
	m := n.member()
	if m == nil {
		return errNotLeader
	}
	// An entry that is committed by now may be applied on a follower, and seen there
	// by a Wait, before it is applied here. So no read is answered without it.
	seen := dcs.Revision(m.raft.CommitIndex())
	if r.op == opRenew {
		rep.ttl, err = n.lead.renew(ctx, r.lease, r.voter, r.term)
		if err == nil && len(r.keys) > 0 {
			if err = n.await(ctx, seen); err == nil {
				rep.revision = seen
				rep.entries = n.entriesOf(r.keys)
			}
		}
		return err
	}
	if err = n.lead.confirmed(ctx, r.voter, r.term); err == nil {
		err = n.await(ctx, seen)
	}
	switch {
	case err != nil:
	default:
		n.read(r, rep)
	}
	return err
}

// read fills in the result of an opRead or opPosition, from the state as it is now,
// after the confirmation.
func (n *node) read(r *request, rep *reply) {
	switch {
	case r.op == opPosition:
		rep.revision = dcs.Revision(n.state.Applied())
	case r.single:
		rep.moved = true
		rep.revision = n.state.Tree().Revision()
		rep.entries = n.entriesOf([]string{r.prefix})
	default:
		if rep.moved = n.state.Tree().MovedSince(r.prefix, r.since); rep.moved || r.since == 0 {
			s := n.state.Tree().Snapshot(r.prefix)
			rep.revision, rep.entries, rep.moved = s.Revision, s.Entries, true
		}
	}
}

// entriesOf reads the keys that exist, sorted.
func (n *node) entriesOf(keys []string) []dcs.Entry {
	var out []dcs.Entry
	for _, k := range keys {
		if e, ok := n.state.Tree().Get(k); ok {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b dcs.Entry) int { return strings.Compare(a.Key, b.Key) })
	return slices.CompactFunc(out, func(a, b dcs.Entry) bool { return a.Key == b.Key })
}

// await blocks until this node's own state is at revision r or later.
func (n *node) await(ctx context.Context, r dcs.Revision) error {
	for n.state.Applied() < uint64(r) {
		moved := n.state.Next()
		if n.state.Applied() >= uint64(r) {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.life.Done():
			return dcs.ErrClosed
		}
	}
	return nil
}
