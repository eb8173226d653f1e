package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// unsettled is a numbered command whose outcome is not known.
type unsettled struct {
	b       *frontend
	op, key string
	client  *sequence
	seq     uint64

	mu     sync.Mutex
	result *state.Result // set once it is known
}

// settle returns the outcome and makes it final. A command that was not applied by
// then never will be (P15).
func (a *unsettled) settle(ctx context.Context) (state.Result, error) {
	if r, ok := a.known(); ok {
		return r, nil
	}
	c := &state.Command{Kind: state.KindCancel, Client: a.client.id, Seq: a.seq, Low: a.client.lowest()}
	o := a.b.nodes.ask(ctx, &request{op: opPropose, key: c.Key(), data: c.Encode()})
	if o.err != nil {
		return state.Result{}, o.err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// A concurrent settle may have been faster, and have freed the number.
	if a.result == nil {
		a.result = &o.reply.result
		a.client.end(a.seq)
	}
	return *a.result, nil
}

func (a *unsettled) known() (state.Result, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result == nil {
		return state.Result{}, false
	}
	return *a.result, true
}

// Settle returns the final outcome of an ambiguous Commit: its revision, or an error
// that says that it was not applied. See dcs.Settler.
func (b *frontend) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	if e == nil {
		return 0, b.fail("Settle", "", dcs.ErrInvalid, "", errors.New("the error to settle is nil: pass the error of an ambiguous Commit"))
	}
	a, ok := e.Attempt.(*unsettled)
	if !ok || a.b != b {
		if e.Fenced {
			return 0, e
		}
		return 0, b.fail("Settle", e.Key, dcs.ErrInvalid, "", errors.New("the error is not that of an ambiguous Commit of this store"))
	}
	ctx, cancel := b.budget(ctx)
	defer cancel()
	r, err := a.settle(ctx)
	if err != nil {
		again := b.fail(a.op, a.key, dcs.ErrAmbiguous, "", withContext(ctx, err))
		again.Attempt = a
		return 0, again
	}
	return b.verdict(a, r, dcs.ErrConflict)
}

// settler settles the commands that callers gave up, in the background. Until then
// the cluster keeps the answers to all later commands.
type settler struct {
	b       *frontend
	mu      sync.Mutex
	list    []*unsettled
	working bool
	closed  bool
}

// close prevents further background work. It must be called before
// Backend.running is waited for.
func (s *settler) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *settler) enqueue(a *unsettled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.b.life.Err() != nil {
		return
	}
	s.list = append(s.list, a)
	if !s.working {
		s.working = true
		s.b.running.Go(s.work)
	}
}

func (s *settler) work() {
	for {
		s.mu.Lock()
		if len(s.list) == 0 || s.b.life.Err() != nil {
			s.working = false
			s.mu.Unlock()
			return
		}
		a := s.list[0]
		s.list = s.list[1:]
		s.mu.Unlock()
		if !s.settle(a) {
			s.mu.Lock()
			s.list = append(s.list, a)
			s.mu.Unlock()
			backoff.Sleep(s.b.life, s.b.settlePause)
		}
	}
}

func (s *settler) settle(a *unsettled) bool {
	ctx, cancel := context.WithTimeout(s.b.life, max(s.b.retryTimeout, time.Second))
	defer cancel()
	_, err := a.settle(ctx)
	return err == nil
}
