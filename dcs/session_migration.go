package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// considerMove starts a move to a fresh lease (P20) if renewals keep failing, the
// store can move keys, and less than half of the time from a renewal to its deadline
// is left. This is late enough that a store which comes back is not met by a Grant of
// every session. It is soon enough because, by the rule of Timing, a renewal that
// uses up its budget leaves as much time again. Grant and Commit then show whether
// commits work while renewals do not. A move of which a part has been applied goes
// on even when renewals are confirmed again. No move begins while an attempt is
// unsettled, nor on a store that could not settle the move itself. considerMove
// reports whether a move is under way. Called under mu.
func (s *Session) considerMove() bool {
	span := s.lease.granted.TTL - Margin(s.lease.granted.TTL)
	if !s.split && s.remaining() > span/2 {
		return false
	}
	_, settles := s.store.b.(Settler)
	switch {
	case s.moving != nil:
		return true
	case !s.store.caps.Rebind, s.unsettleable, len(s.claims) > 0:
		return false
	case !settles && len(s.keysToCheck()) > 0:
		return false
	}
	done := make(chan struct{})
	s.moving = done
	s.work.Go(func() {
		landed := s.move()
		s.mu.Lock()
		s.moving = nil
		again := s.split
		s.mu.Unlock()
		close(done)
		if again {
			s.continueMove(landed)
		}
	})
	return true
}

// continueMove starts the next move of a split session. It waits less if the last
// move has brought a key to the spare lease.
func (s *Session) continueMove(landed bool) {
	n := 0
	if !landed {
		n = moveBackoff
	}
	for pause(s.life, n) == nil {
		s.mu.Lock()
		over := s.err != nil || !s.split || s.unsettleable || s.considerMove()
		s.mu.Unlock()
		if over {
			return
		}
		n = 1 // let claims go first
	}
}

// moveBackoff is the number of failures whose back-off is also used after a move
// that has moved no key.
const moveBackoff = 6

// move binds all keys of the session to a fresh lease. If it fails before any key has
// moved, it changes nothing. It reports whether any key has moved.
func (s *Session) move() bool {
	ctx, cancel := context.WithTimeout(s.life, s.attemptTime())
	defer cancel()
	var spare *leaseState
	s.mu.Lock()
	if s.split {
		spare = s.spare
	}
	s.mu.Unlock()
	level := slog.LevelDebug
	if spare == nil {
		level = slog.LevelWarn // log once for each move
		var err error
		if spare, err = s.grantSpare(ctx); err != nil {
			s.log.Debug("no lease was granted to move the keys to", "reason", err)
			return false
		}
	}
	landed, err := s.moveTo(ctx, spare)
	switch {
	case err == nil:
	case s.isSplit():
		s.log.Log(ctx, level, "lease migration is incomplete; renewing both leases and trying again", "from", s.Lease(), "to", spare.ID(), "reason", err)
	default:
		s.log.Warn("lease migration failed; keeping the current lease", "reason", err)
		s.revokeSpare(spare)
	}
	return landed
}

// grantSpare grants a lease that fits the session's Timing.
func (s *Session) grantSpare(ctx context.Context) (*leaseState, error) {
	lease, r, err := s.store.Grant(ctx, s.timing.TTL)
	if err != nil {
		return nil, err
	}
	t := &leaseState{Lease: lease, granted: r, until: Deadline(r.From, r.TTL)} // P3
	s.mu.Lock()
	s.ownLeases[lease.ID()] = true
	s.leases[lease.ID()] = lease
	over := s.err
	s.mu.Unlock()
	if over == nil {
		if over = s.timing.CheckGrant(r.TTL); over == nil {
			return t, nil
		}
	}
	// The session has ended, and its revoking may have missed this lease, or the
	// lease is too short.
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timing.RetryTimeout)
	defer cancel()
	_ = s.revoke(free, lease)
	return nil, over
}

// moveTo binds all keys to spare, in as many Txns as the store's limits require
// (P20). An error reports that the move is not complete. No key is on spare then,
// unless the session is split. landed reports that any key has moved.
func (s *Session) moveTo(ctx context.Context, spare *leaseState) (landed bool, err error) {
	for {
		p, err := s.planMove(ctx, spare)
		if err == nil {
			// P20: both leases are renewed from the first sending on.
			err = s.useSpare(spare)
		}
		if err == nil {
			var n int
			n, err = s.moveParts(ctx, p.parts, spare)
			landed = landed || n > 0
		}
		switch {
		case errors.Is(err, errMoveUnsettled):
			return landed, nil // both leases are renewed until the end
		case err == nil && p.complete:
			s.finishMove(spare)
			return landed, nil
		case err == nil: // read again to find keys that were left behind
		case errors.Is(err, ErrLost) && s.isSplit():
			s.spareLost(err) // P14
			return landed, err
		default:
			s.dropSpare()
			if !errors.Is(err, ErrConflict) {
				return landed, err
			}
			if err := pause(ctx, 0); err != nil {
				return landed, err
			}
		}
	}
}

var (
	errRenewedMeanwhile = errors.New("the current lease was renewed and lasts longer than the fresh one")
	errMoveUnsettled    = errors.New("the outcome of the lease migration is unknown, or the session ended first")
)

// useSpare sets the deadline to the earlier one of both leases (P20). The deadline
// must not move back for that. If the old lease was renewed while the move was
// prepared, the session is promised more time than the fresh lease has, and useSpare
// returns an error.
func (s *Session) useSpare(t *leaseState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == t {
		return nil
	}
	if at := s.until.Load(); at != nil && t.until.Before(*at) {
		return errRenewedMeanwhile
	}
	s.spare = t
	return nil
}

// dropSpare forgets the spare lease, unless a part of the keys is bound to it (P20).
func (s *Session) dropSpare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.split {
		s.spare = nil
	}
}

// isSplit reports whether a part of the keys has moved to the spare lease.
func (s *Session) isSplit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.split
}

// spareLost ends the session because the lease to which keys were moving is gone.
func (s *Session) spareLost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spareLostLocked(err)
}

// spareLostLocked is spareLost. The deadline is the earlier one of both leases, and
// that is now (P20). Called under mu.
func (s *Session) spareLostLocked(err error) {
	s.endLocked(&Error{Op: "Renew", Kind: ErrExpired, Err: fmt.Errorf("the fresh lease ended before the migration to it was settled: %w", opaque(err))})
}

// movePlan lists the remaining steps of a move.
type movePlan struct {
	parts    []Txn
	complete bool // afterwards every key is on the spare lease
}

// planMove reads every key of the session and returns the Txns that move the keys
// which are not on spare yet. Their conditions are on Modified, so that a Txn applies
// only to the incarnation and the value that were read.
func (s *Session) planMove(ctx context.Context, spare *leaseState) (movePlan, error) {
	s.mu.Lock()
	checked := s.keysToCheck()
	s.mu.Unlock()
	slices.SortFunc(checked, func(a, b checkedKey) int { return strings.Compare(a.key, b.key) })
	read, err := s.readKeys(ctx, checked)
	if err != nil {
		return movePlan{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkKeys(checked, read) // the reading began after the Holds did (P5)
	var b txnParts
	there := 0
	for _, a := range checked {
		own := a.pub != nil && !a.pub.displaced || a.hold != nil && s.holds[a.key] == a.hold
		e, _ := read.Entry(a.key)
		switch {
		case !own:
		case e.Lease == spare.ID():
			there++
		default:
			b.add(ModifiedAt(e.Key, e.Modified), PutLeased(e.Key, e.Value, spare.ID()), s.store.caps) // P18, P20
		}
	}
	s.split = s.split || there > 0
	return movePlan{b.txns, len(b.txns) == 0 || len(b.txns) == 1 && there == 0}, nil
}

// fewReads is the largest number of keys that are read one by one. If there are
// more, one request reads the tree below the longest path common to all.
const fewReads = 16

// readKeys reads the keys of checked, which are sorted, linearizably.
func (s *Session) readKeys(ctx context.Context, checked []checkedKey) (Renewal, error) {
	if len(checked) > fewReads {
		prefix := parent(checked[0].key)
		for last := checked[len(checked)-1].key; !Under(prefix, last); {
			prefix = parent(prefix)
		}
		snap, err := s.store.Snapshot(ctx, prefix)
		return Renewal{Entries: snap.Entries}, err
	}
	var r Renewal
	for _, a := range checked {
		e, err := s.store.Get(ctx, a.key)
		switch {
		case err == nil:
			r.Entries = append(r.Entries, e)
		case !errors.Is(err, ErrNotFound):
			return r, err
		}
	}
	return r, nil
}

// parent returns the path above key, empty at the top.
func parent(key string) string { return key[:max(strings.LastIndexByte(key, '/'), 0)] }

// partsAtOnce is the number of parts of a move that are under way at once. All parts
// must be committed before the deadline.
const partsAtOnce = 8

// moveParts commits the parts of a move and returns the number of applied ones. Each
// part is settled then, unless the error is errMoveUnsettled (P20).
func (s *Session) moveParts(ctx context.Context, parts []Txn, spare *leaseState) (landed int, failed error) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the results
	running := make(chan struct{}, partsAtOnce)
	for _, t := range parts {
		running <- struct{}{}
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			err := s.movePart(ctx, t, spare)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				landed++
			} else if failed == nil || errors.Is(err, errMoveUnsettled) {
				failed = err
			}
			<-running
		})
	}
	wg.Wait()
	if landed > 0 && len(parts) > 1 {
		s.mu.Lock()
		s.split = true
		s.mu.Unlock()
	}
	return landed, failed
}

// movePart commits one part of a move, and settles it if the outcome is ambiguous.
func (s *Session) movePart(ctx context.Context, t Txn, spare *leaseState) error {
	_, err := s.store.Commit(ctx, t)
	if !errors.Is(err, ErrAmbiguous) {
		return err
	}
	switch s.settleMove(t, spare, err) {
	case unsupported, interrupted:
		return errMoveUnsettled
	case landed:
		return nil
	default:
		return fmt.Errorf("the migration was ambiguous and has been undone: %w", opaque(err))
	}
}

// settleMove settles an ambiguous move. No other write of the session begins before
// (P20).
func (s *Session) settleMove(t Txn, spare *leaseState, err error) settleResult {
	_, how := s.settle(err)
	for n := 0; how == fenced; n++ {
		how = s.readMove(t, spare)
		if how == fenced && pause(s.life, n) != nil {
			return interrupted
		}
	}
	if how == unsupported {
		s.mu.Lock()
		s.unsettleable = true
		s.mu.Unlock()
	}
	return how
}

// readMove determines the outcome of a move that cannot be applied any more. Any of
// its keys that still exists shows it.
func (s *Session) readMove(t Txn, spare *leaseState) settleResult {
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

// finishMove makes spare the lease of the session and revokes the old one.
func (s *Session) finishMove(spare *leaseState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	old := s.lease
	s.lease, s.spare, s.split = spare, nil, false
	if !s.advance() {
		s.expireLocked()
		return
	}
	s.failed, s.failures = nil, 0
	s.setState(Held, nil)
	s.noteChange()
	s.log.Info("lease migration completed", "from", old.ID(), "to", spare.ID())
	s.renewNow()
	s.work.Go(func() { _ = s.revoke(s.life, old) })
}

// revokeSpare revokes a spare lease to which no key was moved.
func (s *Session) revokeSpare(spare *leaseState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawn(func() { _ = s.revoke(s.life, spare) })
}

// owns reports whether this session has or had the lease.
func (s *Session) owns(lease LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ownLeases[lease]
}
