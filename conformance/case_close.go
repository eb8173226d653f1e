package conformance

import (
	"context"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var closeCases = []spec{
	{Case: Case{
		Name:       "Close/Bounded",
		Rule:       "Close returns within a call's budget, even if calls are in progress. Calls in progress end with ErrClosed. A second Close has no effect.",
		Motivation: "A manager that cannot stop because its store does not answer is killed, and its lock stays.",
	}, run: closeBounded},
	{Case: Case{
		Name:       "Close/CallsAfter",
		Rule:       "Every call after Close returns ErrClosed at once. Sessions and Holds of the Store have ended.",
		Motivation: "A call on a closed client that blocks, panics, or returns \"unavailable\" is repeated for ever.",
	}, run: callsAfterClose},
	{Case: Case{
		Name:       "Close/NoGoroutineLeft",
		Rule:       "A client that was opened, used for every call and closed leaves no goroutine behind.",
		Motivation: "Watchers and keepalive loops that outlive their client renew a lease that no program uses.",
	}, alone: true, run: noGoroutineLeft},
}

func closeBounded(e *env) {
	c := e.openAlone()
	c.put(e.key("k"), "v")
	s := c.session()
	lock := e.key("lock")
	h := e.acquire(s, lock, "x")
	other := c.session()
	since := c.snapshot(e.prefix).Revision
	const n = 20
	errs := make([]error, n)
	var dones []<-chan struct{}
	for i := range n {
		dones = append(dones, e.start(func() {
			if i%2 == 0 {
				_, errs[i] = c.Wait(e.ctx, e.prefix, since)
			} else {
				_, errs[i] = other.Acquire(e.ctx, lock, []byte(fmt.Sprint(i)))
			}
		}))
	}
	e.settle()
	e.promptly(e.budget()+slack, "Close", func() { require.NoError(e, c.Close()) })
	for i, done := range dones {
		e.within(slack, done, "a call in progress ends with Close")
		e.kind(errs[i], dcs.ErrClosed, "a call that was in progress")
	}
	e.promptly(slack, "Close again", func() { require.NoError(e, c.Close()) })
	e.ended(h, slack, dcs.ErrClosed, "its Store was closed")
}

func callsAfterClose(e *env) {
	c := e.openAlone()
	c.put(e.key("k"), "v")
	l, _ := c.grant()
	s := c.session()
	h := e.acquire(s, e.key("lock"), "x")
	require.NoError(e, c.Close())
	put := dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("k"), nil)}}
	calls := map[string]func(ctx context.Context) error{
		"Get":        func(ctx context.Context) error { _, err := c.Get(ctx, e.key("k")); return err },
		"Snapshot":   func(ctx context.Context) error { _, err := c.Snapshot(ctx, ""); return err },
		"Wait":       func(ctx context.Context) error { _, err := c.Wait(ctx, "", 0); return err },
		"Commit":     func(ctx context.Context) error { _, err := c.Commit(ctx, put); return err },
		"Grant":      func(ctx context.Context) error { _, _, err := c.Grant(ctx, e.timing.TTL); return err },
		"Renew":      func(ctx context.Context) error { _, err := l.Renew(ctx); return err },
		"Revoke":     l.Revoke,
		"NewSession": func(ctx context.Context) error { _, err := c.NewSession(ctx, dcs.SessionOptions{}); return err },
		"TryAcquire": func(ctx context.Context) error { _, err := s.TryAcquire(ctx, e.key("x"), nil); return err },
		"Acquire":    func(ctx context.Context) error { _, err := s.Acquire(ctx, e.key("x"), nil); return err },
		"Publish":    func(ctx context.Context) error { _, err := s.Publish(ctx, e.key("members", "y"), nil); return err },
		"Confirm":    h.Confirm,
		"Update":     func(ctx context.Context) error { return h.Update(ctx, nil) },
		"Watch": func(ctx context.Context) error {
			for _, err := range c.Watch(ctx, e.prefix) {
				return err
			}
			return nil
		},
	}
	for name, do := range calls {
		e.promptly(slack, name+" after Close", func() {
			e.kind(do(e.ctx), dcs.ErrClosed, name+" after Close")
		})
	}
	e.kind(s.Err(), dcs.ErrClosed, "the Session of a closed Store")
	e.ended(h, slack, dcs.ErrClosed, "its Store was closed")
}

func noGoroutineLeft(e *env) {
	// A goroutine that a process starts once, for the first client, is no leak.
	e.useAll(e.openAlone())
	e.settle()
	before := goroutines()
	e.useAll(e.openAlone())
	ignore, shared := e.h.Ours, []string(nil)
	if e.s.OpenAlone != nil {
		// No goroutine of the client is shared, but the shared cluster may start
		// goroutines meanwhile.
		ignore, shared = nil, e.h.Ours
	}
	for _, stack := range leaked(before, e.h.Virtual, ignore, shared) {
		e.Errorf("a goroutine outlives its client:\n%s", stack)
	}
}

// useAll makes every kind of call, leaves some in progress, and closes.
func (e *env) useAll(c *client) {
	k := e.key("used", c.serial)
	c.put(k, "v")
	c.get(k)
	l, _ := c.grant()
	_, err := l.Renew(e.ctx, k)
	require.NoError(e, err)
	s := c.session()
	_, err = s.Publish(e.ctx, e.key("members", c.serial), []byte("v"))
	require.NoError(e, err)
	e.acquire(s, e.key("lock", c.serial), "v")
	first, err := c.Wait(e.ctx, e.prefix, 0)
	require.NoError(e, err)
	since := first.Revision
	var dones []<-chan struct{}
	for range 3 {
		dones = append(dones, e.start(func() { _, _ = c.Wait(e.ctx, k, since) }))
	}
	next := e.start(func() {
		for _, err := range c.Watch(e.ctx, k) {
			if err != nil {
				return // the Store was closed
			}
		}
	})
	e.settle()
	c.put(k, "w")
	require.NoError(e, c.Close())
	for _, done := range append(dones, next) {
		e.within(e.budget()+slack, done, "a call in progress ends with Close")
	}
}
