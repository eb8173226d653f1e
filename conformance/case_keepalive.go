package conformance

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var keepaliveCases = []spec{
	{Case: Case{
		Name:   "Keepalive/HugeTTL",
		Rule:   "With a TTL of 99999 s, and with one of 1 s, a client opens, commits and renews, and the keepalive values on its sockets are inside the system's limits.",
		Learnt: "Keepalive values computed from a huge TTL were beyond the kernel's limit: every dial failed with EINVAL.",
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
		// Timing's rule is applied to the TTL so moved.
		t = dcs.Timing{TTL: caps.MinTTL, LoopWait: caps.MinTTL / 4, RetryTimeout: caps.MinTTL / 3}
	}
	if caps.MaxTTL > 0 && t.TTL > caps.MaxTTL {
		t.LoopWait, t.RetryTimeout = min(t.LoopWait, caps.MaxTTL/4), min(t.RetryTimeout, caps.MaxTTL/3)
	}
	raw := e.openTimed(t)
	c := e.wrapTimed(raw, t)
	k := e.key("ttl", c.serial)
	c.put(k, "v")
	l, r := c.grantFor(t.TTL)
	e.promised(r)
	_, err := l.Renew(e.ctx, k)
	require.NoError(e, err, "Renew with a TTL of %v", t.TTL)
	c.revoke(l)
	s := c.session()
	h := e.acquire(s, e.key("lock", c.serial), "v")
	require.NoError(e, h.Confirm(e.ctx), "Confirm with a TTL of %v", t.TTL)
	if left := h.Remaining(); left <= 0 || left > r.TTL {
		e.Fatalf("a TTL of %v leaves %v", r.TTL, left)
	}
	e.socketsInLimits(raw, t)
	require.NoError(e, h.Release(e.ctx))
	require.NoError(e, s.Close(e.ctx))
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
