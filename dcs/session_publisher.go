package dcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
)

// publication is a key that the session has published. Guarded by the session's mu.
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
	displaced, err = s.publish(ctx, c, slices.Clone(value))
	if !errors.Is(err, ErrAmbiguous) {
		s.unclaim(c)
	}
	if err != nil {
		return displaced, writeFailure(op, key, err, s.Err())
	}
	return displaced, nil
}

// publish writes value to the claimed key and tries again when another writer comes
// first. The claim of an ambiguous write is handed over to its settling.
func (s *Session) publish(ctx context.Context, c *claim, value []byte) (LeaseID, error) {
	for n := 0; ; n++ {
		cond, displaced, err := s.publishCondition(ctx, c, value)
		if err != nil || cond == nil {
			return displaced, err
		}
		rev, err := s.store.Commit(ctx, Txn{If: []Cond{*cond}, Then: []Write{PutLeased(c.key, value, c.lease.ID())}})
		switch {
		case err == nil:
			s.recordPublished(c.key, value, rev)
			return displaced, nil
		case errors.Is(err, ErrAmbiguous):
			s.settlePublish(c, value, cond.Is, err)
			return displaced, err
		case errors.Is(err, ErrLost):
			s.leaseLost(c.lease, err) // P14
			return displaced, err
		case !errors.Is(err, ErrConflict):
			return displaced, err
		}
		s.forget(c.key) // the entry is out of date: read it again
		if over := pause(ctx, n); over != nil {
			return "", &Error{Kind: ErrUnavailable, Err: fmt.Errorf("nothing was written: other writers changed the key before each of %d attempts: %w", n+1, over)}
		}
	}
}

// publishCondition returns the condition under which the key may be written now
// (P19). It returns nil if the key has the value already, and an error if the key
// must not be written.
func (s *Session) publishCondition(ctx context.Context, c *claim, value []byte) (*Cond, LeaseID, error) {
	var p publication
	s.mu.Lock()
	before := s.pubs[c.key]
	if before != nil {
		p = *before
	}
	s.mu.Unlock()
	first := before == nil // P19
	at := func(r Revision) *Cond { cond := ModifiedAt(c.key, r); return &cond }
	switch {
	case p.known && !p.displaced && bytes.Equal(p.value, value):
		return nil, "", nil
	case p.known && !p.displaced:
		return at(p.modified), "", nil
	}
	e, err := s.store.Get(ctx, c.key)
	if errors.Is(err, ErrNotFound) {
		return at(0), "", nil // P19: an absent key may be published again
	}
	if err != nil {
		return nil, "", err
	}
	own := s.owns(e.Lease)
	switch {
	case own && e.Lease == c.lease.ID() && bytes.Equal(e.Value, value):
		s.recordPublished(c.key, value, e.Modified)
		return nil, "", nil
	case own:
		return at(e.Modified), "", nil
	case first, p.unsettled && e.Modified == p.seenAt:
		return at(e.Modified), e.Lease, nil
	}
	s.mu.Lock()
	s.displace(before, foreignKeyError(c.key, e, true))
	s.mu.Unlock()
	return nil, "", &Error{Kind: ErrConflict, Current: &e, Err: errDisplaced}
}

var errDisplaced = errors.New("another session has taken the member key over: publish it again once the key is absent")

// owns reports whether this session has or had the lease.
func (s *Session) owns(lease LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ownLeases[lease]
}

// recordPublished records the state of the key in the store. A key that was written
// under the condition on its last write belongs to this session. Its Created proves
// nothing, because some stores keep Created in a takeover (Caps.Rebind).
func (s *Session) recordPublished(key string, value []byte, rev Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pubs[key] = &publication{key: key, value: value, modified: rev, known: true}
}

// forget makes the next Publish read the key before it writes.
func (s *Session) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pubs[key]; p != nil {
		p.known = false
	}
}

// settlePublish settles an ambiguous Publish in the background. saw is the revision
// of its condition.
func (s *Session) settlePublish(c *claim, value []byte, saw Revision, err error) {
	s.forget(c.key)
	s.handOver(c, func() {
		rev, how := s.settle(err)
		switch how {
		case landed:
			s.recordPublished(c.key, value, rev)
		case fenced, unsupported:
			s.mu.Lock()
			if s.pubs[c.key] == nil {
				s.pubs[c.key] = &publication{key: c.key, unsettled: true, seenAt: saw}
			}
			s.unsettleable = s.unsettleable || how == unsupported
			s.mu.Unlock()
		}
	})
}

// displace records that p is not this session's any more, on the word of the store.
// The session writes it again only if it is absent (P19). Called under mu.
func (s *Session) displace(p *publication, reason error) {
	if p == nil || p.displaced {
		return
	}
	p.displaced = true
	s.noteChange()
	s.queueEvent(StateEvent{Key: p.key, From: s.state, To: Lost, Displaced: true, Reason: &Error{Op: "Publish", Key: p.key, Kind: ErrConflict, Err: reason}})
	s.log.Warn("published key was taken over or deleted", "key", p.key, "reason", reason)
}
