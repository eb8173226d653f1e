package dcs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// migration moves the keys of a Session to a fresh lease, the spare one (P20). It is
// in one of these states:
//
//	idle       spare and moving are nil
//	moving     moving is set, and spare once the first Txn is about to be sent
//	split      a part of the keys is bound to spare, and the rest will move
//	unsettled  the outcome is unknown and stays so; spare is set until the end
//
// While spare is set, both leases are renewed, and the deadline is the earlier one.
// The Session calls consider after a failed renewal. It makes no attempt on a key
// while moving is set.
type migration struct {
	s *Session // its mu guards the fields below

	spare        *leaseState
	split        bool
	moving       chan struct{} // closed when the move that is under way ends
	unsettleable bool          // the store could not settle an ambiguous attempt, so that no move may begin
}

// consider starts a move to a fresh lease (P20) if renewals keep failing, the
// store can move keys, and less than half of the time from a renewal to its deadline
// is left. This is late enough that a store which comes back is not met by a Grant of
// every session. It is soon enough because, by the rule of Timing, a renewal that
// uses up its budget leaves as much time again. Grant and Commit then show whether
// commits work while renewals do not. A move of which a part has been applied goes
// on even when renewals are confirmed again. No move begins while an attempt is
// unsettled, nor on a store that could not settle the move itself. consider reports
// whether a move is under way. Called under mu.
func (m *migration) consider() bool {
	span := m.s.lease.granted.TTL - Margin(m.s.lease.granted.TTL)
	if !m.split && m.s.remaining() > span/2 {
		return false
	}
	_, settles := m.s.store.b.(Settler)
	switch {
	case m.moving != nil:
		return true
	case !m.s.store.caps.Rebind, m.unsettleable, len(m.s.claims) > 0:
		return false
	case !settles && len(m.s.keysToCheck()) > 0:
		return false
	}
	done := make(chan struct{})
	m.moving = done
	m.s.work.Go(func() {
		landed := m.run()
		m.s.mu.Lock()
		m.moving = nil
		again := m.split
		m.s.mu.Unlock()
		close(done)
		if again {
			m.resume(landed)
		}
	})
	return true
}

// resume starts the next move of a split session. It waits less if the last move has
// brought a key to the spare lease.
func (m *migration) resume(landed bool) {
	n := 0
	if !landed {
		n = moveBackoff
	}
	for pause(m.s.life, n) == nil {
		m.s.mu.Lock()
		over := m.s.err != nil || !m.split || m.unsettleable || m.consider()
		m.s.mu.Unlock()
		if over {
			return
		}
		n = 1 // let claims go first
	}
}

// moveBackoff is the number of failures whose back-off is also used after a move
// that has moved no key.
const moveBackoff = 6

// run binds all keys of the session to a fresh lease. If it fails before any key has
// moved, it changes nothing. It reports whether any key has moved.
func (m *migration) run() bool {
	ctx, cancel := context.WithTimeout(m.s.life, m.s.attemptTime())
	defer cancel()
	var spare *leaseState
	m.s.mu.Lock()
	if m.split {
		spare = m.spare
	}
	m.s.mu.Unlock()
	level := slog.LevelDebug
	if spare == nil {
		level = slog.LevelWarn // log once for each move
		var err error
		if spare, err = m.grantSpare(ctx); err != nil {
			m.s.log.Debug("no lease was granted to move the keys to", "reason", err)
			return false
		}
	}
	landed, err := m.moveTo(ctx, spare)
	switch {
	case err == nil:
	case m.isSplit():
		m.s.log.Log(ctx, level, "lease migration is incomplete; renewing both leases and trying again", "from", m.s.Lease(), "to", spare.ID(), "reason", err)
	default:
		m.s.log.Warn("lease migration failed; keeping the current lease", "reason", err)
		m.revokeSpare(spare)
	}
	return landed
}

// grantSpare grants a lease that fits the session's Timing.
func (m *migration) grantSpare(ctx context.Context) (*leaseState, error) {
	lease, r, err := m.s.store.Grant(ctx, m.s.timing.TTL)
	if err != nil {
		return nil, err
	}
	t := &leaseState{Lease: lease, granted: r, until: Deadline(r.From, r.TTL)} // P3
	over := m.s.addLease(lease)
	if over == nil {
		if over = m.s.timing.CheckGrant(r.TTL); over == nil {
			return t, nil
		}
	}
	// The session has ended, and its revoking may have missed this lease, or the
	// lease is too short.
	free, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.s.timing.RetryTimeout)
	defer cancel()
	_ = m.s.revoke(free, lease)
	return nil, over
}

// moveTo binds all keys to spare, in as many Txns as the store's limits require
// (P20). An error reports that the move is not complete. No key is on spare then,
// unless the session is split. landed reports that any key has moved.
func (m *migration) moveTo(ctx context.Context, spare *leaseState) (landed bool, err error) {
	for {
		p, err := m.plan(ctx, spare)
		if err == nil {
			// P20: both leases are renewed from the first sending on.
			err = m.useSpare(spare)
		}
		if err == nil {
			var n int
			n, err = m.commitParts(ctx, p.parts, spare)
			landed = landed || n > 0
		}
		switch {
		case errors.Is(err, errMoveUnsettled):
			return landed, nil // both leases are renewed until the end
		case err == nil && p.complete:
			m.finish(spare)
			return landed, nil
		case err == nil: // read again to find keys that were left behind
		case errors.Is(err, ErrLost) && m.isSplit():
			m.spareLost(err) // P14
			return landed, err
		default:
			m.dropSpare()
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

// useSpare makes both leases count: they are renewed, and the deadline is the earlier
// one (P20). The deadline must not move back for that. If the old lease was renewed while the move was
// prepared, the session is promised more time than the fresh lease has, and useSpare
// returns an error.
func (m *migration) useSpare(t *leaseState) error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.spare == t {
		return nil
	}
	if at := m.s.until.Load(); at != nil && t.until.Before(*at) {
		return errRenewedMeanwhile
	}
	m.spare = t
	return nil
}

// deadline returns the deadline that both leases prove, if that of the session's lease
// is at (P20). Called under mu.
func (m *migration) deadline(at Instant) Instant {
	if m.spare != nil && m.spare.until.Before(at) {
		return m.spare.until // the earlier one
	}
	return at
}

// dropSpare forgets the spare lease, unless a part of the keys is bound to it (P20).
func (m *migration) dropSpare() {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if !m.split {
		m.spare = nil
	}
}

// isSplit reports whether a part of the keys has moved to the spare lease.
func (m *migration) isSplit() bool {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	return m.split
}

// spareLost ends the session because the lease to which keys were moving is gone.
func (m *migration) spareLost(err error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.spareLostLocked(err)
}

// spareLostLocked is spareLost. The deadline is the earlier one of both leases, and
// that is now (P20). Called under mu.
func (m *migration) spareLostLocked(err error) {
	m.s.endLocked(&Error{Op: "Renew", Kind: ErrExpired, Err: fmt.Errorf("the fresh lease ended before the migration to it was settled: %w", opaque(err))})
}

// finish makes spare the lease of the session.
func (m *migration) finish(spare *leaseState) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.err != nil {
		return
	}
	m.spare, m.split = nil, false
	m.s.replaceLease(spare)
}

// revokeSpare revokes a spare lease to which no key was moved.
func (m *migration) revokeSpare(spare *leaseState) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.s.spawn(func() { _ = m.s.revoke(m.s.life, spare) })
}
