package dcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// publisher publishes the member keys of a Session. It records how it left each key,
// which decides the condition under which the key may be written next (P19). The
// Session claims a key before a write (P17) and settles an ambiguous one.
type publisher struct {
	store       *Store
	owns        func(LeaseID) bool             // reports whether the Session has or had the lease; called under mu
	onDisplaced func(key string, reason error) // called under mu, once for each loss

	mu   *sync.Mutex // the Session's
	pubs map[string]*publication
}

// publication is a key that the publisher has written. Guarded by the publisher's mu.
type publication struct {
	key       string
	value     []byte   // as it was last written
	modified  Revision // of the last write
	known     bool     // value and modified are the store's last known state
	displaced bool     // another session has taken the key over, or it was deleted

	// unsettled marks a first Publish that could not be settled. It may have been
	// applied unless the key is still at revision seenAt.
	unsettled bool
	seenAt    Revision
}

// Publish writes a member key that is bound to the session's lease, so that it is
// removed when the session ends. [CheckMemberKey] must accept the key. If the key
// has been published with the same value already, Publish sends nothing.
//
// The session's first Publish of a key takes it over from the lease to which it is
// bound, for example after a restart under the same name, and returns the id of
// that lease. The session that published the key before detects that at its next
// renewal and must not write the key while it exists. Later calls write only a key
// that is still this session's own, or one that is absent (P19). If another session
// has taken the key over, a state event reports it and Publish returns ErrConflict
// with that session's entry. This session and its Holds go on.
//
// ErrAmbiguous reports that the value may have been written or may still be, also
// if the session has ended meanwhile (see [Session.Err]). The session settles the
// write in the background, and a later Publish waits for that. ErrUnavailable
// reports that nothing was written.
func (s *Session) Publish(ctx context.Context, key string, value []byte) (displaced LeaseID, err error) {
	const op = "Publish"
	if err := CheckMemberKey(key); err != nil {
		return "", withOp(op, key, err)
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	c, err := s.claim(ctx, key)
	if err != nil {
		return "", s.failure(op, key, err)
	}
	if over := s.Err(); over != nil {
		s.unclaim(c)
		return "", withOp(op, key, over)
	}
	value = slices.Clone(value)
	displaced, written, err := s.publisher.publish(ctx, key, c.lease.ID(), value)
	switch {
	case written != nil && errors.Is(err, ErrAmbiguous):
		s.settlePublish(c, value, written.Is, err)
	case written != nil && errors.Is(err, ErrLost):
		s.leaseLost(c.lease, err) // P14
		s.unclaim(c)
	default:
		s.unclaim(c)
	}
	if err != nil {
		return displaced, writeFailure(op, key, err, s.Err())
	}
	return displaced, nil
}

// settlePublish settles an ambiguous Publish in the background and ends its claim
// then. seen is the revision of its condition.
func (s *Session) settlePublish(c *claim, value []byte, seen Revision, err error) {
	s.handOver(c, func() {
		rev, how := s.settle(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.publisher.settled(c.key, value, seen, rev, how)
		s.migration.unsettleable = s.migration.unsettleable || how == unsupported
	})
}

// reportDisplaced reports the loss of a published key, which does not end the session
// (P19). Called under mu.
func (s *Session) reportDisplaced(key string, reason error) {
	s.noteChange()
	s.queueEvent(StateEvent{Key: key, From: s.state, To: Lost, Displaced: true, Reason: &Error{Op: "Publish", Key: key, Kind: ErrConflict, Err: reason}})
	s.log.Warn("published key was taken over or deleted", "key", key, "reason", reason)
}

// publish writes value to key, bound to lease, and tries again when another writer
// comes first. written is the condition of the write that returned err, or nil if err
// is not that of a write. The caller must hold the claim on key.
func (p *publisher) publish(ctx context.Context, key string, lease LeaseID, value []byte) (displaced LeaseID, written *Cond, err error) {
	for n := 0; ; n++ {
		cond, displaced, err := p.condition(ctx, key, lease, value)
		if err != nil || cond == nil {
			return displaced, nil, err
		}
		rev, err := p.store.Commit(ctx, Txn{If: []Cond{*cond}, Then: []Write{PutLeased(key, value, lease)}})
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.record(key, value, rev)
			return displaced, cond, nil
		}
		if errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrConflict) {
			p.forget(key) // the next Publish reads the key before it writes
		}
		if !errors.Is(err, ErrConflict) {
			return displaced, cond, err
		}
		if over := pause(ctx, n); over != nil {
			return "", nil, &Error{Kind: ErrUnavailable, Err: fmt.Errorf("nothing was written: other writers changed the key before each of %d attempts: %w", n+1, over)}
		}
	}
}

// condition returns the condition under which key may be written now (P19). It
// returns nil if key has the value already, and an error if it must not be written.
// displaced is the lease from which the write takes the key over.
func (p *publisher) condition(ctx context.Context, key string, lease LeaseID, value []byte) (cond *Cond, displaced LeaseID, err error) {
	var last publication
	p.mu.Lock()
	before := p.pubs[key]
	if before != nil {
		last = *before
	}
	p.mu.Unlock()
	first := before == nil // P19
	at := func(r Revision) *Cond { cond := ModifiedAt(key, r); return &cond }
	switch {
	case last.known && !last.displaced && bytes.Equal(last.value, value):
		return nil, "", nil
	case last.known && !last.displaced:
		return at(last.modified), "", nil
	}
	e, err := p.store.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return at(0), "", nil // P19: an absent key may be published again
	}
	if err != nil {
		return nil, "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.owns(e.Lease)
	switch {
	case own && e.Lease == lease && bytes.Equal(e.Value, value):
		p.record(key, value, e.Modified)
		return nil, "", nil
	case own:
		return at(e.Modified), "", nil
	case first, last.unsettled && e.Modified == last.seenAt:
		return at(e.Modified), e.Lease, nil
	}
	p.displace(before, foreignKeyError(key, e, true))
	return nil, "", &Error{Kind: ErrConflict, Current: &e, Err: errDisplaced}
}

var errDisplaced = errors.New("another session has taken the member key over: publish it again once the key is absent")

// record records the state of the key in the store. A key that was written under the
// condition on its last write belongs to this session. Its Created proves nothing,
// because some stores keep Created in a takeover (Caps.Rebind). Called under mu.
func (p *publisher) record(key string, value []byte, rev Revision) {
	p.pubs[key] = &publication{key: key, value: value, modified: rev, known: true}
}

// forget makes the next Publish read the key before it writes.
func (p *publisher) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pub := p.pubs[key]; pub != nil {
		pub.known = false
	}
}

// settled records the outcome of an ambiguous Publish. seen is the revision of its
// condition, rev that of the write if it was applied. Called under mu.
func (p *publisher) settled(key string, value []byte, seen, rev Revision, how settleResult) {
	switch how {
	case landed:
		p.record(key, value, rev)
	case fenced, unsupported:
		if p.pubs[key] == nil {
			p.pubs[key] = &publication{key: key, unsettled: true, seenAt: seen}
		}
	case refused, interrupted:
	}
}

// appendChecked appends the keys that a renewal must check to list. Called under mu.
func (p *publisher) appendChecked(list []checkedKey) []checkedKey {
	for key, pub := range p.pubs {
		if !pub.displaced && !pub.unsettled {
			list = append(list, checkedKey{key: key, pub: pub})
		}
	}
	return list
}

// check compares pub with the entry of its key, which was read after pub was listed by
// appendChecked. Called under mu.
func (p *publisher) check(pub *publication, e Entry, found bool) {
	if p.pubs[pub.key] != pub {
		return // P5: it was written again meanwhile
	}
	if !found || !p.owns(e.Lease) {
		p.displace(pub, foreignKeyError(pub.key, e, found))
	}
}

// displace records that pub is not this session's any more, on the word of the store.
// The key is written again only if it is absent (P19). Called under mu.
func (p *publisher) displace(pub *publication, reason error) {
	if pub == nil || pub.displaced {
		return
	}
	pub.displaced = true
	p.onDisplaced(pub.key, reason)
}

// displacedKeys returns the keys that were taken over or deleted, sorted. Called under
// mu.
func (p *publisher) displacedKeys() []string {
	var keys []string
	for key, pub := range p.pubs {
		if pub.displaced {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
