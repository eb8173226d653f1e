package dcs

import (
	"bytes"
	"context"
	"errors"
	"slices"
)

// publication is a key that the session has published. Under the session's mu.
type publication struct {
	key       string
	value     []byte   // as it was last written
	modified  Revision // of the last write
	known     bool     // value and modified are what the store had last
	displaced bool     // another session has taken the key over

	// A first Publish that nobody could settle: it may have landed unless the
	// key is still at saw.
	unsure bool
	saw    Revision
}

// Publish writes a member key bound to the session's lease: it goes when the
// session does. Published again with the value it has, it is not rewritten, and
// nothing is sent.
//
// The session's first Publish of a key takes it over from whatever lease it is
// bound to (a restart under the same name) and returns that lease's id; the
// session that held it learns that at its next renewal and never writes it
// back. Later ones write only what is still this session's own (P19): once the
// key was taken over or deleted a state event tells, and Publish is
// ErrConflict, while the session and its Holds go on.
//
// ErrAmbiguous says that the value may have been written or may still be; that
// is settled in the background, and a Publish that follows waits for it.
func (s *Session) Publish(ctx context.Context, key string, value []byte) (displaced LeaseID, err error) {
	const op = "Publish"
	if err := CheckKey(key); err != nil {
		return "", renamed(op, key, err)
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	c, err := s.claim(ctx, key)
	if err != nil {
		return "", s.failure(op, key, err)
	}
	value = slices.Clone(value)
	for n := 0; ; n++ {
		var cond *Cond
		if cond, displaced, err = s.mayPublish(ctx, c, value); err != nil || cond == nil {
			break
		}
		var rev Revision
		rev, err = s.store.Commit(ctx, Txn{If: []Cond{*cond}, Then: []Write{PutLeased(key, value, c.lease.ID())}})
		if err == nil {
			s.published(key, value, rev)
			break
		}
		if errors.Is(err, ErrAmbiguous) {
			s.settlePublish(c, value, cond.Is, err)
			return displaced, s.failure(op, key, err)
		}
		if errors.Is(err, ErrLost) {
			s.leaseLost(c.lease, err) // P14
		}
		if !errors.Is(err, ErrConflict) {
			break
		}
		s.forget(key) // what was known or read is out of date: read again
		if pause(ctx, n) != nil {
			break
		}
	}
	s.unclaim(c)
	if err != nil || s.Err() != nil {
		return displaced, s.failure(op, key, err)
	}
	return displaced, nil
}

// mayPublish returns the condition under which key may be written now (P19),
// nil if the value is there already, or why it may not be written at all.
func (s *Session) mayPublish(ctx context.Context, c *claim, value []byte) (*Cond, LeaseID, error) {
	var p publication
	s.mu.Lock()
	err := s.free(c.key)
	before := s.pubs[c.key]
	if before != nil {
		p = *before
	}
	s.mu.Unlock()
	first := before == nil // P19
	at := func(r Revision) *Cond { cond := ModifiedAt(c.key, r); return &cond }
	switch {
	case err != nil:
		return nil, "", err
	case p.displaced:
		return nil, "", &Error{Kind: ErrConflict, Err: errDisplaced}
	case p.known && bytes.Equal(p.value, value):
		return nil, "", nil
	case p.known:
		return at(p.modified), "", nil
	}
	e, err := s.store.Get(ctx, c.key)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, "", err
	}
	own := err == nil && s.owns(e.Lease)
	switch {
	case own && e.Lease == c.lease.ID() && bytes.Equal(e.Value, value):
		s.published(c.key, value, e.Modified)
		return nil, "", nil
	case own:
		return at(e.Modified), "", nil
	case first, p.unsure && e.Modified == p.saw:
		return at(e.Modified), e.Lease, nil
	}
	s.mu.Lock()
	s.displace(before, foreign(c.key, e, err == nil))
	s.unlock()
	refused := &Error{Kind: ErrConflict, Err: errDisplaced}
	if err == nil {
		refused.Current = &e
	}
	return nil, "", refused
}

var errDisplaced = errors.New("another session took this key over, or it was deleted: this one publishes it no more")

// owns reports whether the lease is, or was, this session's.
func (s *Session) owns(lease LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mine[lease]
}

// published records what the store has now. A key that was written under the
// condition on its last write is this session's whatever its Created: that
// holds on stores, too, where a takeover keeps it (Caps.Rebind).
func (s *Session) published(key string, value []byte, rev Revision) {
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

// settlePublish settles an unclear Publish in the background. saw is what its
// condition was.
func (s *Session) settlePublish(c *claim, value []byte, saw Revision, err error) {
	s.forget(c.key)
	s.handOver(c, func() {
		rev, how := s.settle(err)
		switch how {
		case landed:
			s.published(c.key, value, rev)
		case fenced, hopeless:
			s.mu.Lock()
			if s.pubs[c.key] == nil {
				s.pubs[c.key] = &publication{key: c.key, unsure: true, saw: saw}
			}
			s.stuck = s.stuck || how == hopeless
			s.mu.Unlock()
		}
	})
}

// displace takes note that p is another session's now, on the store's word: it
// is never written again (P19). Called under mu.
func (s *Session) displace(p *publication, reason error) {
	if p == nil || p.displaced {
		return
	}
	p.displaced = true
	s.announce(StateEvent{Key: p.key, From: s.state, To: Lost, Displaced: true, Reason: &Error{Op: "Publish", Key: p.key, Kind: ErrConflict, Err: reason}})
	s.later(func() { s.log.Warn("published key was taken over", "key", p.key, "reason", reason) })
}
