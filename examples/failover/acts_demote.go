package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
)

// switchover: the leader hands over to another member.
func (s *show) switchover(ctx context.Context, r *result) error {
	p, _, err := s.leader()
	if err != nil {
		return err
	}
	old, next, err := s.moveTo(ctx, s.other(p.name))
	r.without = time.Duration(next.start - old.over())
	return err
}

// moveTo has the leader hand over to a member, and returns both leaderships. On a busy
// machine another member may come to lead meanwhile, which is asked then.
func (s *show) moveTo(ctx context.Context, to *process) (old, next leadership, err error) {
	for {
		from, t, err := s.leader()
		if err == nil && from != to {
			err = s.askOver(ctx, from, to)
		}
		if err == nil {
			next, err = s.newLeader(ctx, t.token-1, to.name)
			if err == nil && from != to {
				err = s.h.wait(ctx, func() bool { return s.h.lost[t.token] })
			}
			return s.h.ended(t.token), next, err
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return old, next, fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		}
	}
}

// askOver asks the leader to hand over, and returns when the other member leads.
func (s *show) askOver(ctx context.Context, from, to *process) error {
	status, text, err := s.c.postLong(ctx, from, "/switchover/"+to.name)
	if err == nil && status != http.StatusNoContent {
		err = errors.New(text)
	}
	return err
}

// hang: the leader is to hand over, and its database does not stop. The elector stops it
// by force, and only then another member leads.
func (s *show) hang(ctx context.Context, r *result) error {
	p, t, err := s.leader()
	if err != nil {
		return err
	}
	status, text, err := s.c.post(ctx, p, "/hang")
	if err == nil && status != http.StatusNoContent {
		err = errors.New(text)
	}
	if err != nil {
		return err
	}
	s.out.note(p.name, "is to hand over, and its database will not stop")
	at := event.Mono()
	_, next, err := s.moveTo(ctx, s.other(p.name))
	if err != nil {
		return err
	}
	old := s.h.ended(t.token)
	if old.ending != event.Fenced {
		return fmt.Errorf("the database of %s was %s and not fenced", p.name, old.ending)
	}
	r.without = time.Duration(next.start - old.end)
	s.out.note(p.name, fmt.Sprintf("was stopped by force after %s, %s before its lock could end", seconds(old.end-at), seconds(old.deadline-old.end)))
	return nil
}

// outage: no node of the store reaches another one for longer than the lease, without
// failsafe mode. The leader must have stopped by its deadline, and no member leads until the store is back.
func (s *show) outage(ctx context.Context, r *result) error {
	p, t, err := s.leader()
	if err != nil {
		return err
	}
	at := event.Mono()
	restore := s.c.cut()
	defer restore()
	s.out.note(p.name, "no node of the store reaches another one any more")
	if err := s.h.wait(ctx, func() bool { return s.h.lost[t.token] }); err != nil {
		return err
	}
	old := s.h.ended(t.token)
	s.out.note(p.name, fmt.Sprintf("stopped after %s, %s before its lock could end", seconds(old.end-at), seconds(old.deadline-old.end)))
	pause(ctx, s.o.ttl+time.Second-time.Duration(event.Mono()-at))
	if now, ok := s.h.leader(); ok {
		return fmt.Errorf("%s leads without the store", now.member)
	}
	restore()
	s.out.note(p.name, "the store is back")
	next, err := s.newLeader(ctx, t.token)
	r.without = time.Duration(next.start - old.end)
	return err
}

// seconds returns a number of nanoseconds for the timeline.
func seconds(ns int64) string { return fmt.Sprintf("%.1fs", time.Duration(ns).Seconds()) }
