package dcs

import (
	"context"
	"errors"
	"fmt"
)

// considerMove starts a move to a fresh lease (P20) when renewals keep failing,
// the store can move keys, and less than half of the time from a renewal to its
// deadline is left. That is late enough for a store that comes back not to be
// met by every session's Grant, and soon enough: by Timing's rule a renewal
// that uses up its whole budget leaves as much again. Grant and Commit then
// show whether commits work while renewals do not. No move begins while an
// attempt is unsettled, nor on a store that could not settle the move itself.
// Called under mu.
func (s *Session) considerMove() {
	span := s.lease.granted.TTL - Margin(s.lease.granted.TTL)
	if s.remaining() > span/2 {
		return
	}
	keys := len(s.ask())
	_, settles := s.store.b.(Settler)
	switch {
	case !s.store.caps.Rebind, s.moving != nil, s.stuck, len(s.claims) > 0:
		return
	case keys > 0 && !settles, s.store.caps.MaxTxnOps > 0 && 2*keys > s.store.caps.MaxTxnOps:
		return
	}
	done := make(chan struct{})
	s.moving = done
	s.work.Go(func() {
		s.move()
		s.mu.Lock()
		s.moving = nil
		s.mu.Unlock()
		close(done)
	})
}

// move brings all keys of the session to a fresh lease, or leaves everything
// as it was.
func (s *Session) move() {
	ctx, cancel := context.WithTimeout(s.life, s.attemptTime())
	defer cancel()
	spare, err := s.grantSpare(ctx)
	if err != nil {
		s.log.Debug("no fresh lease to move to", "reason", err)
		return
	}
	if err := s.moveTo(ctx, spare); err != nil {
		s.log.Warn("the keys stay on their lease", "reason", err)
		s.discard(spare)
	}
}

// grantSpare grants a lease that fits the session's Timing.
func (s *Session) grantSpare(ctx context.Context) (*tenure, error) {
	lease, r, err := s.store.Grant(ctx, s.timing.TTL)
	if err != nil {
		return nil, err
	}
	t := &tenure{Lease: lease, granted: r, until: Deadline(r.From, r.TTL)} // P3
	s.mu.Lock()
	s.mine[lease.ID()] = true
	s.leases[lease.ID()] = lease
	over := s.err
	s.mu.Unlock()
	if over == nil {
		if over = s.timing.CheckGrant(r.TTL); over == nil {
			return t, nil
		}
	}
	// The session ended meanwhile, and with it perhaps the revoking, or the
	// lease is too short.
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timing.RetryTimeout)
	defer cancel()
	_ = s.revoke(free, lease)
	return nil, over
}

// moveTo writes all keys, bound to spare, in one Txn (P20). An error says that
// none was and none will be.
func (s *Session) moveTo(ctx context.Context, spare *tenure) error {
	for {
		t, err := s.moveTxn(ctx, spare)
		if err != nil {
			return err
		}
		// P20: from the sending on both leases are renewed.
		if err := s.useSpare(spare); err != nil {
			return err
		}
		if len(t.Then) == 0 {
			s.moved(spare)
			return nil
		}
		_, err = s.store.Commit(ctx, t)
		if errors.Is(err, ErrAmbiguous) {
			how := s.settleMove(t, spare, err)
			if how == hopeless || how == orphaned {
				return nil // both leases are renewed until the end
			}
			if how == landed {
				err = nil
			} else {
				err = fmt.Errorf("the move was unclear and is undone: %w", plain(err))
			}
		}
		if err == nil {
			s.moved(spare)
			return nil
		}
		s.dropSpare()
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if err := pause(ctx, 0); err != nil {
			return err
		}
	}
}

var errRenewedMeanwhile = errors.New("the old lease is renewed again, for longer than the fresh one")

// useSpare makes the deadline the earlier one of both leases (P20). It does not
// move back for that: if the old lease was renewed while the move was prepared,
// the session is promised more than the fresh lease would keep.
func (s *Session) useSpare(t *tenure) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.until.Load(); at != nil && t.until.Before(*at) {
		return errRenewedMeanwhile
	}
	s.spare = t
	return nil
}

func (s *Session) dropSpare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = nil
}

// moveTxn reads every key of the session and returns the Txn that moves them.
// Its conditions are on Modified: that is the incarnation just read, with the
// value just read.
func (s *Session) moveTxn(ctx context.Context, spare *tenure) (Txn, error) {
	s.mu.Lock()
	what := s.ask()
	s.mu.Unlock()
	var t Txn
	for _, a := range what {
		e, err := s.store.Get(ctx, a.key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return t, err
		}
		s.mu.Lock()
		read := Renewal{}
		if err == nil {
			read.Entries = []Entry{e}
		}
		s.check([]asked{a}, read) // the reading began after the Hold did (P5)
		own := a.pub != nil && !a.pub.displaced || a.hold != nil && s.holds[a.key] == a.hold
		s.mu.Unlock()
		if own {
			t.If = append(t.If, ModifiedAt(a.key, e.Modified)) // P18, P20
			t.Then = append(t.Then, PutLeased(a.key, e.Value, spare.ID()))
		}
	}
	return t, nil
}

// settleMove settles an unclear move: nothing else begins before (P20).
func (s *Session) settleMove(t Txn, spare *tenure, err error) fate {
	_, how := s.settle(err)
	for n := 0; how == fenced; n++ {
		how = s.readMove(t, spare)
		if how == fenced && pause(s.life, n) != nil {
			return orphaned
		}
	}
	if how == hopeless {
		s.mu.Lock()
		s.stuck = true
		s.mu.Unlock()
	}
	return how
}

// readMove finds out what became of a move that can not land any more: any of
// its keys that is still there tells.
func (s *Session) readMove(t Txn, spare *tenure) fate {
	ctx, cancel := s.call(s.life)
	defer cancel()
	for _, w := range t.Then {
		e, err := s.store.Get(ctx, w.Key)
		switch {
		case err == nil && e.Lease == spare.ID():
			return landed
		case err == nil && s.owns(e.Lease):
			return refused
		case err != nil && !errors.Is(err, ErrNotFound):
			return fenced
		}
	}
	return refused
}

// moved makes spare the lease of the session and revokes the old one.
func (s *Session) moved(spare *tenure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	old := s.lease
	s.lease, s.spare = spare, nil
	if !s.advance() {
		s.expireLocked()
		return
	}
	s.failed, s.failures = nil, 0
	s.setState(Held, nil)
	s.noteChange()
	s.log.Info("moved to a fresh lease", "from", old.ID(), "to", spare.ID())
	s.poke()
	s.work.Go(func() { _ = s.revoke(s.life, old) })
}

// discard revokes a spare lease that nothing was moved to.
func (s *Session) discard(spare *tenure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawn(func() { _ = s.revoke(s.life, spare) })
}
