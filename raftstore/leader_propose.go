package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// proposal is one command on its way into the log.
type proposal struct {
	data  []byte
	taken atomic.Bool       // by send for Raft, or by a caller that gives up before that
	done  chan state.Result // buffered; at most one result
}

// submit proposes a command and waits until it is applied here. If the error wraps
// transport.ErrNotSent or errNotLeader, the command is not and will never be in the
// log. After any other error it may be, or may still be added.
//
// It does not wait for Raft's future, which knows no context and may never be resolved
// if Raft is shut down. The state machine answers commands that were applied, and the
// end of the term answers the others.
func (l *leadership) submit(ctx context.Context, key state.Key, data []byte) (state.Result, error) {
	p := &proposal{data: data, done: make(chan state.Result, 1)}
	t := l.register(key, p)
	if t == nil {
		return state.Result{}, errNotLeader
	}
	defer l.forget(t, key, p)
	queue := l.queue
	var cause error
	for cause == nil {
		select {
		case r := <-p.done:
			return r, nil
		case queue <- p:
			queue = nil
		case <-ctx.Done():
			cause = ctx.Err()
		case <-t.life.Done():
			cause = errSuperseded
		}
	}
	if p.taken.CompareAndSwap(false, true) {
		return state.Result{}, fmt.Errorf("%w: %w", transport.ErrNotSent, cause)
	}
	select {
	case r := <-p.done:
		return r, nil
	default:
		return state.Result{}, cause
	}
}

// register records that p waits for the command, and returns the present term.
func (l *leadership) register(key state.Key, p *proposal) *term {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		l.waiting[key] = append(l.waiting[key], p)
	}
	return l.current
}

// settle answers all callers that wait for a command. The caller holds the lock.
func (l *leadership) settle(key state.Key, r state.Result) {
	list, ok := l.waiting[key]
	if !ok {
		return
	}
	delete(l.waiting, key)
	for _, p := range list {
		p.done <- r // each is in the list once, so that there is room
	}
}

// forget removes a caller that no longer waits.
func (l *leadership) forget(t *term, key state.Key, p *proposal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, ok := l.waiting[key]
	if !ok || l.current != t {
		return
	}
	list = slices.DeleteFunc(list, func(other *proposal) bool { return other == p })
	if len(list) == 0 {
		delete(l.waiting, key)
	} else {
		l.waiting[key] = list
	}
}
