package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// beyondLease is how much longer than the TTL an outage in failsafe mode lasts.
const beyondLease = 500 * time.Millisecond

// failsafe: no node of the store reaches another one for longer than the lease, in
// failsafe mode. The leader stays primary because all members accept it, and takes
// the lock again when the store is back.
//
// It comes before the outage without failsafe mode, during which the acceptances run
// out. Until then no other member would take the lock (P23).
func (s *show) failsafe(ctx context.Context, r *result) error {
	for {
		if err := s.failsafeMode(ctx, true); err != nil {
			return err
		}
		_, t, err := s.leader()
		if err != nil {
			return err
		}
		goesOn, err := s.outlast(ctx)
		if err != nil {
			return err
		}
		if goesOn {
			return s.failsafeMode(ctx, false)
		}
		// The members of a busy machine do not all answer in time.
		old := s.h.ended(t.token)
		s.out.note(old.member, "stopped in time, because not all members answered: once more")
		next, err := s.newLeader(ctx, t.token)
		if err != nil {
			return err
		}
		r.without = max(r.without, time.Duration(next.start-old.over()))
	}
}

// failsafeMode sets the mode, and waits until the leader's list of members has all of
// them, or nobody.
func (s *show) failsafeMode(ctx context.Context, on bool) error {
	want := 0
	if on {
		want = len(s.c.all())
	}
	for ctx.Err() == nil {
		p, _, err := s.leader()
		if err == nil {
			_, _, err = s.c.post(ctx, p, fmt.Sprintf("/failsafe-mode/%v", on))
		}
		var list map[string]string
		if err == nil && s.c.get(ctx, p, "/failsafe", &list) == nil && len(list) == want {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return fmt.Errorf("the failsafe list does not have %d members: %w", want, context.Cause(ctx))
}

// outlast cuts the nodes off from each other for longer than the lease. It reports
// whether the leader was primary all the time and has taken the lock again.
func (s *show) outlast(ctx context.Context) (goesOn bool, err error) {
	p, t, err := s.leader()
	if err != nil {
		return false, err
	}
	at := event.Mono()
	restore := s.c.cut()
	defer restore()
	s.out.note(p.name, "no node of the store reaches another one any more")
	stopped := func() bool { return s.h.lost[t.token] }
	limit, cancel := context.WithTimeout(ctx, s.o.ttl+beyondLease)
	err = s.h.wait(limit, stopped)
	cancel()
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return false, err
	}
	if err := s.primaryByAcceptance(ctx, p, t.token, at); err != nil {
		return false, err
	}
	restore()
	s.out.note(p.name, "the store is back")
	err = s.h.wait(ctx, func() bool {
		goesOn = len(s.h.byToken(t.token).raised) > len(t.raised)
		return goesOn || stopped()
	})
	return goesOn, err
}

// primaryByAcceptance returns an error unless p is primary by its own check of health,
// and by the history, in an outage that has lasted for longer than the lease. A leader
// that has stopped meanwhile is none.
func (s *show) primaryByAcceptance(ctx context.Context, p *process, token uint64, since int64) error {
	var state json.RawMessage
	err := s.c.get(ctx, p, "/primary", &state)
	now, lead := event.Mono(), s.h.ended(token)
	switch {
	case lead.end != 0:
		return nil
	case err != nil:
		return fmt.Errorf("%s does not report that it is primary: %w", p.name, err)
	case lead.deadline <= now:
		return fmt.Errorf("%s is primary %s after its deadline", p.name, seconds(now-lead.deadline))
	}
	s.out.note(p.name, fmt.Sprintf("is primary after %s without the store, and all members accept it for %s more", seconds(now-since), seconds(lead.deadline-now)))
	return nil
}
