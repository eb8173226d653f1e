package elector

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// notStopped returns the error of a Fence that failed.
func (e *Elector) notStopped() error {
	t := e.timer.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Errorf("elector: member %q: %w: %v: %w", e.c.Name, ErrNotStopped, t.reason, t.err)
}

// finish ends the session and the background work. It is bounded.
func (e *Elector) finish() error {
	l := &e.loop
	err := l.fatal
	e.endFollowing()
	e.endLife()
	if !e.idle(l.timing.RetryTimeout) {
		e.log.Warn("a callback has not returned at the end of Run")
	}
	e.drain() // it may bring a session that was started last
	if !errors.Is(err, ErrNotStopped) {
		e.finishKeeper()
	}
	if s := l.session; s != nil && !errors.Is(err, ErrNotStopped) {
		lost := s.Err()
		ctx, cancel := context.WithTimeout(context.Background(), l.timing.RetryTimeout)
		defer cancel()
		if cerr := s.Close(ctx); cerr != nil && lost == nil && err == nil {
			err = fmt.Errorf("elector: member %q: the session could not be closed: %w", e.c.Name, cerr)
		}
	}
	e.publishStatus()
	return err
}

// idle waits for the background work and reports whether it has ended in time.
func (e *Elector) idle(limit time.Duration) bool {
	idle := make(chan struct{})
	go func() { // ends with the background work
		e.tasks.Wait()
		close(idle)
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-idle:
		return true
	case <-t.C:
		return false
	}
}
