package elector

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/dcs/cluster"
)

// Lead takes part in the election and calls run while this member leads. It is
// [Run] for a program whose service is a function. Config.Service must be nil, and
// Config.Exit is [ExitProcess] if it is nil.
//
// run must return when its context ends: when the lock is lost, StopTimeout before it
// runs out, or when the leadership is to be given up. If run has not returned by the
// fence time, the process ends. A run that returned because of that is called again
// when this member leads again.
//
// If run returns although it leads, Lead gives the lock back and returns run's error.
// Otherwise Lead returns nil when ctx has ended, or an error of [Elector.Run].
func Lead(ctx context.Context, c Config, run func(context.Context, *Leadership) error) error {
	if c.Service != nil || run == nil {
		return &dcs.Error{Op: "Lead", Kind: dcs.ErrInvalid, Err: errors.New("Config.Service must be nil and run must be set: use Run for a Service")}
	}
	if c.Exit == nil {
		c.Exit = ExitProcess
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{run: run, over: cancel}
	c.Service, c.NoKeeper = r, true
	err := Run(ctx, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = r.err
	}
	return err
}

// runner is the Service of Lead.
type runner struct {
	run  func(context.Context, *Leadership) error
	over context.CancelFunc // ends Lead

	mu   sync.Mutex
	done chan struct{} // closed when run has returned; nil before its first call
	err  error         // of a run that returned although it led
}

// Promote implements [Service].
func (r *runner) Promote(ctx context.Context, l *Leadership) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running() {
		return nil
	}
	done := make(chan struct{})
	r.done = done
	go protect("run", func() error { return r.run(ctx, l) }, func(err error) { // Demote waits for it
		if ctx.Err() == nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			r.over()
		}
		close(done)
	})
	return nil
}

// running reports whether run has not returned. Called under mu.
func (r *runner) running() bool { return r.done != nil && !isClosed(r.done) }

// Demote implements [Service]. The context of run has ended when it is called.
func (r *runner) Demote(ctx context.Context, _ Reason) error {
	r.mu.Lock()
	done := r.done
	r.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("the function of Lead has not returned")
	}
}

// Report implements [Reporter].
func (r *runner) Report(context.Context) (cluster.Member, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := cluster.Member{Role: cluster.RoleReplica}
	if r.running() {
		m.Role = cluster.RolePrimary
	}
	return m, nil
}
