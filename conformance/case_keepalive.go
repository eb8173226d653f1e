package conformance

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var keepaliveCases = []spec{
	{Case: Case{
		Name:       "Keepalive/HugeTTL",
		Rule:       "With a TTL of 99999 s, and with one of 1 s, a client opens, commits and renews, and the keepalive values on its sockets are inside the system's limits.",
		Motivation: "Keepalive values computed from a huge TTL were beyond the kernel's limit: every dial failed with EINVAL.",
	}, run: hugeTTL},
}

func hugeTTL(e *env) {
	for _, t := range []dcs.Timing{
		{TTL: 99999 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second},
		{TTL: 99999 * time.Second, LoopWait: 33333 * time.Second, RetryTimeout: 33333 * time.Second},
		{TTL: time.Second, LoopWait: 300 * time.Millisecond, RetryTimeout: 350 * time.Millisecond},
	} {
		e.withTTL(t)
	}
}

func (e *env) withTTL(t dcs.Timing) {
	caps := e.open().Caps()
	if t.TTL < caps.MinTTL {
		// Timing's rule is applied to the resulting TTL.
		t = dcs.Timing{TTL: caps.MinTTL, LoopWait: caps.MinTTL / 4, RetryTimeout: caps.MinTTL / 3}
	}
	if caps.MaxTTL > 0 && t.TTL > caps.MaxTTL {
		t.LoopWait, t.RetryTimeout = min(t.LoopWait, caps.MaxTTL/4), min(t.RetryTimeout, caps.MaxTTL/3)
	}
	raw := e.openTimed(t)
	c := e.wrapTimed(raw, t)
	// A busy machine may take longer than the budget of the smallest TTL. Dials that
	// fail because of their options fail every time.
	e.served(fmt.Sprintf("with a TTL of %v", t.TTL), func() error { return c.useOnce(e.key("ttl", c.serial), t.TTL) })
	e.socketsInLimits(raw, t)
}

// useOnce commits, renews a lease, and takes, confirms and releases a lock.
func (c *client) useOnce(k string, ttl time.Duration) error {
	ctx := c.e.ctx
	if _, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(k, []byte("v"))}}); err != nil {
		return err
	}
	l, r, err := c.Grant(ctx, ttl)
	if err != nil {
		return err
	}
	c.e.promised(r)
	if _, err := l.Renew(ctx, k); err != nil {
		return err
	}
	if err := l.Revoke(ctx); err != nil {
		return err
	}
	s, err := c.NewSession(ctx, dcs.SessionOptions{})
	if err != nil {
		return err
	}
	h, err := s.TryAcquire(ctx, k+" lock", []byte("v"))
	if err == nil {
		if left := h.Remaining(); left > r.TTL {
			c.e.Fatalf("a TTL of %v leaves %v", r.TTL, left)
		}
		err = errors.Join(h.Confirm(ctx), h.Release(ctx))
	}
	return errors.Join(err, s.Close(ctx))
}

// served repeats a call that a healthy store may not answer in time on a busy machine,
// and requires that it succeeds in the end.
func (e *env) served(what string, do func() error) {
	const patience = 20 * time.Second
	for began := time.Now(); ; {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, dcs.ErrUnavailable) || time.Since(began) > patience {
			e.Fatalf("%s: %v", what, err)
		}
		e.Logf("%s: %v", what, err)
		e.pass(e.budget() / 10)
	}
}

func (e *env) socketsInLimits(raw dcs.Backend, t dcs.Timing) {
	if e.h.Virtual || !e.has(e.s.Sockets != nil, "Sockets") {
		return // a store in virtual time has no sockets
	}
	sockets := e.s.Sockets(raw)
	if !slices.ContainsFunc(sockets, func(so Socket) bool { return so.Side == "dialled" }) {
		e.Fatalf("the harness has Sockets, but found no dialled one: %+v", sockets)
	}
	for _, so := range sockets {
		e.Logf("TTL %v, %s: idle %v, interval %v, count %d, user timeout %v", t.TTL, so.Side, so.Idle, so.Interval, so.Count, so.UserTimeout)
		if so.Fault != "" || so.Idle <= 0 || so.Interval <= 0 || so.Count <= 0 {
			e.Errorf("TTL %v: a %s connection has idle %v, interval %v, count %d: %s", t.TTL, so.Side, so.Idle, so.Interval, so.Count, so.Fault)
		}
		if silence := so.Idle + time.Duration(so.Count)*so.Interval; silence > t.TTL && t.TTL > 5*time.Second {
			e.Errorf("TTL %v: a %s connection notices a silent peer only after %v", t.TTL, so.Side, silence)
		}
	}
}
