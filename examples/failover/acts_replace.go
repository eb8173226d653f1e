package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// replace: a fourth node joins the store, and the leader leaves for good. It hands
// the lock to the newcomer, its node is removed from the store, and its process
// ends.
func (s *show) replace(ctx context.Context, r *result) error {
	p, err := s.c.newcomer(ctx, "d")
	if err != nil {
		return err
	}
	s.out.note(p.name, "starts with an empty directory, and is no member of the store")
	old, _, err := s.leader()
	if err != nil {
		return err
	}
	if err := s.insist(ctx, old, "/members/add/"+p.name+"/"+p.addr); err != nil {
		return fmt.Errorf("adding node %s: %w", p.name, err)
	}
	if err := s.well(ctx, p); err != nil {
		return err
	}
	s.out.note(p.name, "has everything and votes")
	if err := s.follows(ctx, p.name, r.from); err != nil {
		return err
	}
	last, next, err := s.moveTo(ctx, p)
	if err != nil {
		return err
	}
	if last.token != next.token { // otherwise the newcomer led already
		old, r.without = s.c.member(last.member), time.Duration(next.start-last.over())
	}
	if err := s.insist(ctx, p, "/members/remove/"+old.name); err != nil {
		return fmt.Errorf("removing node %s: %w", old.name, err)
	}
	s.out.note(old.name, "was removed from the store, and ends")
	s.c.kill(old)
	s.c.forget(old)
	return nil
}

// insist posts a request to a member until it is answered with a yes.
func (s *show) insist(ctx context.Context, p *process, path string) error {
	for {
		status, text, err := s.c.post(ctx, p, path)
		if err == nil && status == http.StatusNoContent {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("%w; last: status %d %s, error %w", context.Cause(ctx), status, text, err)
		}
	}
}
