package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/examples/internal/event"
	"github.com/holdfast-dcs/holdfast/raftstore"
)

// show plays the acts.
type show struct {
	o       options
	c       *cluster
	h       *history
	w       *writer
	out     *timeline
	results []*result
	missing int // acknowledged writes that were not there at the end
}

// result is the outcome of one act.
type result struct {
	act           string
	from, to      int64 // CLOCK_MONOTONIC
	without       time.Duration
	staleAccepted int
	writes        int
	pause         time.Duration
	lost          int
	tokens        []uint64
	overlaps      int
}

// play runs the whole demonstration. broken says that a guarantee did not hold.
func play(ctx context.Context, o options) (broken bool, err error) {
	s := &show{o: o, h: newHistory()}
	s.out = newTimeline(o.json, s.h)
	defer s.out.close()
	began := event.Mono()
	s.c, err = newCluster(ctx, o, s.onEvent, s.h.fail)
	if err != nil {
		return false, err
	}
	defer s.c.close()
	s.w = newWriter(s.c)
	s.out.watch(s.c, s.w)
	writing, stop := context.WithCancel(ctx)
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.w.run(writing)
	}()
	for _, act := range o.acts {
		if err = s.play(ctx, act, began); err != nil {
			break
		}
	}
	stop()
	<-written
	if err != nil {
		return false, err
	}
	if err := s.verify(ctx); err != nil {
		return false, err
	}
	s.c.end()
	if err := s.c.clear(ctx); err != nil {
		return false, fmt.Errorf("cannot remove the keys of the run from the store: %w", err)
	}
	return s.report(), nil
}

func (s *show) onEvent(e event.Event) {
	s.h.add(e)
	s.out.event(e)
}

// actLimit bounds one act: far more than it may take.
func (s *show) actLimit() time.Duration { return 20*time.Second + 6*s.o.ttl }

func (s *show) play(ctx context.Context, act string, began int64) error {
	limit, cancel := context.WithTimeoutCause(ctx, s.actLimit(),
		fmt.Errorf("act %s did not end within %v", act, s.actLimit()))
	defer cancel()
	r := &result{act: act, from: event.Mono()}
	if act == "election" {
		r.from = began
	} else {
		s.settle(limit)
	}
	s.out.act(act)
	var err error
	switch act {
	case "election":
		err = s.election(limit, r)
	case "switchover":
		err = s.switchover(limit, r)
	case "hang":
		err = s.hang(limit, r)
	case "kill":
		err = s.kill(limit, r)
	case "freeze":
		err = s.freeze(limit, r)
	case "failsafe":
		err = s.failsafe(limit, r)
	case "outage":
		err = s.outage(limit, r)
	case "store-leader":
		err = s.storeLeader(limit, r)
	case "disk-lost":
		err = s.diskLost(limit, r)
	case "replace":
		err = s.replace(limit, r)
	}
	if err != nil {
		return fmt.Errorf("act %s: %w", act, err)
	}
	if err := s.writes(limit, 20); err != nil {
		return fmt.Errorf("act %s: the client did not get on: %w", act, err)
	}
	r.to = event.Mono()
	s.results = append(s.results, r)
	return nil
}

// settle gives every act the same start: three members, a leader that has been
// renewed, and a client that gets on.
func (s *show) settle(ctx context.Context) { pause(ctx, s.o.ttl/3) }

// writes waits for n further acknowledgements.
func (s *show) writes(ctx context.Context, n int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for want := s.w.count() + n; s.w.count() < want; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// newLeader waits for a leadership with a larger token, of one of the members named if
// there are any, and returns it.
func (s *show) newLeader(ctx context.Context, after uint64, of ...string) (leadership, error) {
	var found leadership
	err := s.h.wait(ctx, func() bool {
		for _, t := range s.h.leaderships {
			if t.token > after && (len(of) == 0 || slices.Contains(of, t.member)) {
				found = *t
				return true
			}
		}
		return false
	})
	return found, err
}

// follows waits until the member has said, after a moment, which leader it follows.
func (s *show) follows(ctx context.Context, member string, after int64) error {
	return s.h.wait(ctx, func() bool { return s.h.following[member] > after })
}

var errNoLeader = errors.New("nobody leads")

func (s *show) leader() (*process, leadership, error) {
	t, ok := s.h.leader()
	if !ok {
		return nil, t, errNoLeader
	}
	return s.c.member(t.member), t, nil
}

// other returns a member that is none of those named.
func (s *show) other(not ...string) *process {
	for _, p := range s.c.all() {
		found := false
		for _, n := range not {
			found = found || p.name == n
		}
		if !found {
			return p
		}
	}
	return nil
}

// election: three empty directories become a cluster with a leader.
func (s *show) election(ctx context.Context, r *result) error {
	t, err := s.newLeader(ctx, 0)
	r.without = time.Duration(t.start - r.from)
	return err
}

// kill: kill -9 of the leader, which takes its node of the store with it, and
// a restart from its own data.
func (s *show) kill(ctx context.Context, r *result) error {
	p, err := s.killLeader(ctx, r, "kill -9 of the leader", func(*process) error { return nil })
	if err != nil {
		return err
	}
	return s.restart(ctx, p)
}

// killLeader kills the leader, calls then, and waits for another member to lead.
// It returns the process that was killed.
func (s *show) killLeader(ctx context.Context, r *result, text string, then func(*process) error) (*process, error) {
	p, t, err := s.leader()
	if err != nil {
		return nil, err
	}
	at := event.Mono()
	s.c.kill(p)
	s.h.died(p.name, event.Mono())
	if err := then(p); err != nil {
		return nil, err
	}
	s.out.note(p.name, text)
	next, err := s.newLeader(ctx, t.token)
	if err != nil {
		return nil, err
	}
	r.without = time.Duration(next.start - at)
	return p, nil
}

func (s *show) restart(ctx context.Context, p *process) error {
	after := event.Mono()
	if err := s.c.start(p); err != nil {
		return err
	}
	s.out.note(p.name, "restarted from its own data")
	return s.follows(ctx, p.name, after)
}

// freeze: the leader stops for longer than the TTL and then goes on where it
// was, as a machine does after a pause.
func (s *show) freeze(ctx context.Context, r *result) error {
	if !canFreeze {
		s.out.note("", "this system cannot freeze a process: left out")
		return nil
	}
	p, t, err := s.leader()
	if err != nil {
		return err
	}
	at := event.Mono()
	if err := freeze(p); err != nil {
		return err
	}
	s.h.froze(t.token)
	s.out.note(p.name, "the leader is frozen")
	next, err := s.newLeader(ctx, t.token)
	if err != nil {
		return err
	}
	r.without = time.Duration(next.start - at)
	pause(ctx, s.o.ttl+time.Second-time.Duration(event.Mono()-at))
	after := event.Mono()
	if err := thaw(p); err != nil {
		return err
	}
	s.out.note(p.name, "thawed")
	if err := s.h.wait(ctx, func() bool { return s.h.lost[t.token] }); err != nil {
		return err
	}
	if r.staleAccepted, err = s.stale(ctx, p); err != nil {
		return err
	}
	return s.follows(ctx, p.name, after)
}

// stale has a leader of the past write under its old token until the store
// gave a definite answer.
func (s *show) stale(ctx context.Context, p *process) (accepted int, err error) {
	for ctx.Err() == nil {
		status, text, err := s.c.post(ctx, p, "/stale-write")
		switch {
		case err == nil && status == http.StatusConflict:
			s.out.note(p.name, "its write under the old token was refused by the store")
			return 0, nil
		case err == nil && status == http.StatusNoContent:
			s.out.note(p.name, "its write under the old token WAS ACCEPTED")
			return 1, nil
		case err == nil && status != http.StatusServiceUnavailable:
			return 0, fmt.Errorf("unexpected answer %d: %s", status, text)
		}
		pause(ctx, 50*time.Millisecond)
	}
	return 0, context.Cause(ctx)
}

// storeLeader: the store's own leader dies while another member holds the
// lock, which must not notice.
func (s *show) storeLeader(ctx context.Context, r *result) error {
	leads, err := s.raftLeader(ctx)
	if err != nil {
		return err
	}
	p, t, err := s.leader()
	if err != nil {
		return err
	}
	if p == leads {
		if _, t, err = s.moveTo(ctx, s.other(leads.name)); err != nil {
			return err
		}
		s.settle(ctx)
	}
	r.from = event.Mono()
	s.c.kill(leads)
	s.out.note(leads.name, "kill -9 of the Raft leader")
	if err := s.writes(ctx, 20); err != nil {
		return err
	}
	now, ok := s.h.leader()
	if !ok || now.token != t.token {
		old := t.over()
		if o := s.h.ended(t.token); o.token == t.token {
			old = o.over()
		}
		r.without = max(time.Duration(now.start-old), time.Nanosecond)
	}
	return s.restart(ctx, leads)
}

// diskLost: the leader dies and its data directory is emptied, as by a disk that
// was replaced. Its node comes back as a new server, which votes only once it
// has everything from the others.
func (s *show) diskLost(ctx context.Context, r *result) error {
	p, err := s.killLeader(ctx, r, "kill -9 of the leader, whose data directory is then emptied", s.c.empty)
	if err != nil {
		return err
	}
	after := event.Mono()
	if err := s.c.start(p); err != nil {
		return err
	}
	s.out.note(p.name, "restarted with an empty directory")
	if err := s.well(ctx, p); err != nil {
		return err
	}
	s.out.note(p.name, "has everything from the others and votes again")
	return s.follows(ctx, p.name, after)
}

// well waits until a member's own node takes part as a voter.
func (s *show) well(ctx context.Context, p *process) error {
	for ctx.Err() == nil {
		var status struct {
			Health struct{ State raftstore.HealthState }
		}
		if err := s.c.get(ctx, p, "/node", &status); err == nil && status.Health.State == raftstore.Well {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return context.Cause(ctx)
}

// raftLeader asks the nodes which of them leads the store.
func (s *show) raftLeader(ctx context.Context) (*process, error) {
	for ctx.Err() == nil {
		for _, p := range s.c.all() {
			var status struct{ LeaderID string }
			if err := s.c.get(ctx, p, "/node", &status); err != nil {
				continue
			}
			if l := s.c.member(status.LeaderID); l != nil {
				return l, nil
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil, context.Cause(ctx)
}

// verify reads everything back and counts missing writes for the act in which
// it was acknowledged.
func (s *show) verify(ctx context.Context) error {
	limit, cancel := context.WithTimeoutCause(ctx, s.actLimit(), errors.New("the records could not be read back"))
	defer cancel()
	stored, err := s.stored(limit)
	if err != nil {
		return err
	}
	missing := s.w.missing(stored)
	for _, r := range s.results {
		r.writes, r.pause = s.w.between(r.from, r.to)
		r.tokens = s.h.tokensBetween(r.from, r.to)
		r.overlaps = s.h.overlapsBetween(r.from, r.to)
		for _, at := range missing {
			if at >= r.from && at < r.to {
				r.lost++
			}
		}
	}
	s.missing = len(missing)
	return nil
}

// stored asks the members until one could read all records.
func (s *show) stored(ctx context.Context) (map[string]bool, error) {
	for ctx.Err() == nil {
		for _, p := range s.c.all() {
			var numbers []string
			if s.c.get(ctx, p, "/data", &numbers) != nil {
				continue
			}
			stored := make(map[string]bool, len(numbers))
			for _, n := range numbers {
				stored[n] = true
			}
			return stored, nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil, context.Cause(ctx)
}
