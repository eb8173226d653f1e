package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var outageCases = faultCases([]spec{
	{Case: Case{
		Name:       "Outage/AllDown",
		Rule:       "No quorum for 3 TTL (fast profile: 1.5 TTL): every call is ErrUnavailable within B + ε; a Session ends at its deadline, never before, and at most 50 ms after a control timer of the same process. Afterwards a new Session works without a restart.",
		Motivation: "The store was lost, and the demotion of the primary hung without a bound.",
	}, run: allDown, limit: 5 * time.Minute},
	{Case: Case{
		Name:       "Outage/ReadOnly",
		Rule:       "While reads work and writes do not, no session gets a lock, the error is no statement about the lock, and a Hold stays valid. A lock that is released meanwhile is free once writes work again.",
		Motivation: "A store without disk space answers every read. A manager that takes a read for a confirmation leads for ever.",
	}, run: readOnly},
	{Case: Case{
		Name:       "Holder/StaleConfirmation",
		Rule:       "The server that leads the store is frozen for 2-3 election times with renewals in its socket, and then continues. No Hold is Valid() while its key is deleted or belongs to another session (P2).",
		Motivation: "An etcd leader that was paused confirmed renewals of a lease that its successor ended: 3 of 14 trials.",
	}, run: staleConfirmation, limit: 20 * time.Minute},
	{Case: Case{
		Name:       "Holder/PausedPastTTL",
		Rule:       "The holder's process is stopped for more than a TTL and another session takes over. When the process continues, Valid() is false, Confirm returns ErrExpired or ErrLost, no key of the new holder is overwritten, and guarded writes of the old one fail.",
		Motivation: "A virtual machine that was paused for a snapshot continued as a second primary.",
	}, sleeps: true, run: pausedPastTTL},
	{Case: Case{
		Name:       "Holder/EarlyExpiry",
		Rule:       "After the lease is ended early by another client, Done closes within a round trip of the next renewal.",
		Motivation: "An operator removes a session by hand, and the primary continues until its own timer.",
	}, run: earlyExpiry},
	{Case: Case{
		Name:       "Holder/LinkLostBeforeFirstRenewal",
		Rule:       "If the link is lost after the Grant and before any renewal, Done closes by the grant's From + TTL.",
		Motivation: "The first deadline is that of the grant. It must count from the request, because counted from the answer it is too late.",
	}, sleeps: true, run: linkLost},
	{Case: Case{
		Name:       "Store/LeaderChange",
		Rule:       "The server that leads the store is killed while a lock is held. The lock is kept, and no call fails.",
		Motivation: "An election of the store must not be an election of the service.",
	}, run: leaderChange},
	{Case: Case{
		Name:       "Store/RollingRestart",
		Rule:       "Every server is restarted, one after the other, while a lock is held. The lock is kept, and no call fails.",
		Motivation: "Upgrading the store must not move the primary.",
	}, run: rollingRestart, limit: 3 * time.Minute},
	{Case: Case{
		Name:       "Store/OneReboots",
		Rule:       "A server that does not lead is killed and comes back. No call fails or is delayed.",
		Motivation: "The most common event in the life of a store.",
	}, run: oneReboots},
	{Case: Case{
		Name:       "Store/Kill9",
		Rule:       "All servers are killed and restarted. Every acknowledged commit is present, and tokens still rise.",
		Motivation: "A store that acknowledges before it has written lets two holders have one token.",
	}, run: killAll},
	{Case: Case{
		Name:       "Clock/Stepped",
		Rule:       "A step of the servers' wall clocks by five minutes, in either direction, has no effect.",
		Motivation: "A store that counts leases by the wall clock ends them all at the end of daylight saving.",
	}, run: clockStepped},
	{Case: Case{
		Name:       "Herd/Reconnect",
		Rule:       "20 sessions (slow profile: 200, or 100 under the race detector) when the store comes back after an outage: the rate of requests is bounded, and all have a session again within 2 TTL.",
		Motivation: "A store that comes back is overloaded at once by the clients that waited for it.",
	}, run: herd, limit: 5 * time.Minute},
})

func allDown(e *env) {
	e.cluster()
	c, _ := e.opened(Opening{})
	k := e.key("k")
	c.put(k, "before")
	s := c.session()
	h := e.acquire(s, e.key("lock"), "v")
	require.NoError(e, h.Confirm(e.ctx))
	lease, _ := c.grant()

	restore := e.injectFaultAll(ServerFault{Do: Frozen})
	began := time.Now()
	outage := e.timing.TTL * time.Duration(e.rounds(3, 6)) / 2
	control := e.start(func() { e.control(s, h) })
	calls := []call{
		{"Get", func(ctx context.Context) error { _, err := c.Get(ctx, k); return err }},
		{"Snapshot", func(ctx context.Context) error { _, err := c.Snapshot(ctx, e.prefix); return err }},
		{"Commit", func(ctx context.Context) error { _, err := c.Commit(ctx, putOne(e)); return err }},
		{"Grant", func(ctx context.Context) error { _, _, err := c.Grant(ctx, e.timing.TTL); return err }},
		{"Renew", func(ctx context.Context) error { _, err := lease.Renew(ctx); return err }},
	}
	e.together(len(calls), func(i int) {
		for time.Since(began) < outage {
			var err error
			e.promptly(e.budget()+slack, calls[i].name+" while the store is down", func() { err = calls[i].do(e.ctx) })
			if !errors.Is(err, dcs.ErrUnavailable) {
				e.Errorf("%s while the store is down: %v", calls[i].name, err)
				return
			}
		}
	})
	e.within(e.timing.TTL, control, "the session ends at its deadline")
	e.kind(s.Err(), dcs.ErrExpired, "the session's end")
	restore()
	e.s.Cluster.Healthy(e)
	next := c.session()
	again, err := next.Acquire(e.ctx, e.key("lock"), []byte("again"))
	require.NoError(e, err, "the same client after the outage")
	e.stillHeld(c, again, "after the outage")
}

// control waits for the session's end and compares it with a timer of its own.
func (e *env) control(s *dcs.Session, h *dcs.Hold) {
	var deadline dcs.Instant
	for { // the deadline that the last confirmed renewal set
		at := s.Deadline()
		t := time.NewTimer(-at.Elapsed())
		select {
		case <-s.Done():
		case <-t.C:
		}
		t.Stop()
		if deadline = s.Deadline(); !at.Before(deadline) {
			break
		}
	}
	e.within(50*time.Millisecond+max(-deadline.Elapsed(), 0), s.Done(), "the session ends at its deadline")
	if early := -deadline.Elapsed(); early > 5*time.Millisecond {
		e.Errorf("the session ended %v before its deadline: %v", early, s.Err())
	}
	if h.Valid() {
		e.Errorf("the Hold is Valid() after the deadline")
	}
}

func readOnly(e *env) {
	c := e.cluster()
	e.needs(c.ReadOnly != nil, "Cluster.ReadOnly")
	a, _ := e.opened(Opening{})
	b, _ := e.opened(Opening{})
	a.put(e.key("k"), "v")
	s := b.session()
	h := e.acquire(a.session(), e.key("held"), "a")
	freed := e.acquire(a.session(), e.key("freed"), "a")
	restore := c.ReadOnly(e)
	defer restore()
	a.get(e.key("k"))
	if !h.Valid() {
		e.Fatalf("a Hold ended as soon as the store refused writes: %v", h.Err())
	}
	short, stop := context.WithTimeout(e.ctx, e.budget()/10) // the sessions must outlive all of this
	defer stop()
	if err := freed.Release(short); err != nil && !errors.Is(err, dcs.ErrUnavailable) {
		e.Fatalf("Release on a store that refuses writes: %v", err)
	}
	_, err := s.TryAcquire(e.ctx, e.key("lock"), []byte("b"))
	if !errors.Is(err, dcs.ErrUnavailable) {
		e.Fatalf("TryAcquire on a store that refuses writes: %v", err)
	}
	e.Logf("TryAcquire: %v", err)
	half, stop := context.WithTimeout(e.ctx, e.budget()/2) // the sessions must outlive a throttled Store's pause, too
	defer stop()
	_, err = a.Commit(half, putOne(e))
	if !errors.Is(err, dcs.ErrUnavailable) {
		e.Fatalf("Commit to a store that refuses writes: %v", err)
	}
	_, err = s.TryAcquire(e.ctx, h.Key(), []byte("b"))
	if err == nil {
		e.Fatal("a held lock was taken on a store that refuses writes")
	}
	restore()
	c.Healthy(e)
	ctx, cancel := context.WithTimeout(e.ctx, e.timing.TTL)
	defer cancel()
	_, err = s.Acquire(ctx, freed.Key(), []byte("b"))
	require.NoError(e, err, "a lock that was released while the store refused writes")
	again, err := s.Acquire(ctx, e.key("lock"), []byte("b"))
	require.NoError(e, err, "once writes work again")
	e.stillHeld(a, again, "acquired once writes worked again")
}

// staleConfirmation gives the holder only the server that leads, and the contender the
// others.
func staleConfirmation(e *env) {
	c := e.cluster()
	stale := 0
	for round := range e.rounds(1, 50) {
		c.Healthy(e)
		i := c.Leader(e)
		if i < 0 {
			e.Fatal("no server leads the store")
		}
		a, _ := e.opened(Opening{Endpoints: c.Endpoints[i : i+1]})
		b, _ := e.opened(Opening{Endpoints: e.others(i)})
		lock := e.key("lock", fmt.Sprint(round))
		h := e.acquire(a.session(), lock, "a")
		stop := e.guardian(b, h)
		contender := b.session()
		ctx, cancel := context.WithTimeout(e.ctx, 2*e.timing.TTL)
		contending := e.start(func() { _, _ = contender.Acquire(ctx, lock, []byte("b")) })
		over := make(chan struct{})
		renewing := e.start(func() {
			for h.Err() == nil {
				select {
				case <-over:
					return
				default:
				}
				_ = h.Confirm(e.ctx) // frequent calls must not matter; the result is not checked
				e.breathe(10 * time.Millisecond)
			}
		})
		restore := e.injectFault(i, ServerFault{Do: Frozen})
		e.pass(c.Election + time.Duration(e.intn(int(c.Election/2))))
		restore()
		// Time for one confirmation. If the old leader had given it alone, the
		// key would be removed before the Hold ends.
		e.pass(time.Duration(e.intn(int(e.renewEvery()))) / 2)
		silence := e.injectFault(i, ServerFault{Do: Silent})
		e.within(2*e.timing.TTL, h.Done(), "a Hold whose server is silent ends")
		if b.gone(lock) || b.get(lock).Created != h.Token() {
			stale++
		}
		silence()
		close(over)
		<-renewing
		stop()
		cancel()
		<-contending
	}
	e.Logf("in %d rounds the key was deleted or belonged to another session when the Hold had ended", stale)
}

func earlyExpiry(e *env) {
	c := e.cluster()
	e.needs(c.EndLease != nil, "Cluster.EndLease")
	a, _ := e.opened(Opening{})
	s := a.session()
	h := e.acquire(s, e.key("lock"), "v")
	require.NoError(e, h.Confirm(e.ctx))
	c.EndLease(e, s.Lease())
	begin := time.Now()
	e.ended(h, e.renewEvery()+e.budget()/2+slack, dcs.ErrLost, "the lease was ended by another client")
	e.Logf("detected after %v", time.Since(begin).Round(time.Millisecond))
}

func linkLost(e *env) {
	a := e.open()
	started, begin := time.Now(), dcs.Now()
	s := a.session()
	answered := dcs.Now()
	lift := e.inject(a, Fault{Do: LoseRequest})
	defer lift()
	e.within(e.timing.TTL*2, s.Done(), "the session ends")
	end := dcs.Now()
	ttl := e.timing.TTL
	if caps := a.Caps(); ttl < caps.MinTTL {
		ttl = caps.MinTTL
	}
	// The grant was sent between begin and answered, for whole seconds if the store has no
	// smaller unit.
	e.atMost(end.Sub(answered)-(ttl+time.Second), 50*time.Millisecond, started, "Done after the grant's From + TTL")
	if early := ttl - dcs.Margin(ttl) - end.Sub(begin); early > 50*time.Millisecond {
		e.Errorf("Done closed %v too early", early)
	}
	e.kind(s.Err(), dcs.ErrExpired, "the session's end")
}

// keepsLock requires that a lock is kept and no call fails while f runs.
func (e *env) keepsLock(what string, slowest time.Duration, f func()) {
	d, _ := e.drive(Opening{})
	var over atomic.Bool
	var t *tally
	began := time.Now()
	loading := e.start(func() {
		t = &tally{}
		for !over.Load() {
			one := d.load(250 * time.Millisecond)
			t.calls = append(t.calls, one.calls...)
		}
	})
	f()
	e.pass(e.renewEvery())
	over.Store(true)
	e.within(2*e.budget(), loading, "the load ends")
	e.Logf("%s: %d calls, %d failed, slowest %v", what, len(t.calls), len(t.failed()), quantile(t.after(0), 1).Round(time.Millisecond))
	for _, f := range t.failed() {
		e.Errorf("%s: a call failed: %s", what, f)
	}
	e.atMost(quantile(t.after(0), 1), slowest, began, "the slowest call")
	observer, _ := e.opened(Opening{})
	e.stillHeld(observer, d.hold, what)
}

func leaderChange(e *env) {
	c := e.cluster()
	e.keepsLock("the store's leader was killed", c.Election+500*time.Millisecond, func() {
		restore := e.injectFault(c.Leader(e), ServerFault{Do: Killed})
		e.pass(c.Election + e.budget()/2)
		restore()
		c.Healthy(e)
	})
}

func rollingRestart(e *env) {
	c := e.cluster()
	e.keepsLock("every server was restarted", c.Election+500*time.Millisecond, func() {
		for i := range c.Endpoints {
			restore := e.injectFault(i, ServerFault{Do: Stopped})
			e.pass(e.renewEvery())
			restore()
			c.Healthy(e)
		}
	})
}

func oneReboots(e *env) {
	c := e.cluster()
	e.keepsLock("one server rebooted", 500*time.Millisecond, func() {
		i := (c.Leader(e) + 1) % len(c.Endpoints)
		restore := e.injectFault(i, ServerFault{Do: Killed})
		e.pass(e.renewEvery())
		restore()
		c.Healthy(e)
	})
}

func killAll(e *env) {
	c := e.cluster()
	e.needs(c.RestartAll != nil, "Cluster.RestartAll")
	a, _ := e.opened(Opening{})
	h := e.acquire(a.session(), e.key("lock"), "v")
	token := h.Token()
	require.NoError(e, h.Release(e.ctx))
	var acked atomic.Int64
	over := make(chan struct{})
	writing := e.start(func() {
		for n := int64(1); ; n++ {
			if _, err := a.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("k", fmt.Sprint(n)), []byte("v"))}}); err == nil {
				acked.Store(n)
			} else {
				n--
			}
			e.breathe(time.Millisecond)
			select {
			case <-over:
				return
			default:
			}
		}
	})
	e.pass(200 * time.Millisecond)
	c.RestartAll(e)
	c.Healthy(e)
	close(over)
	e.within(2*e.budget(), writing, "the writer ends")
	b, _ := e.opened(Opening{})
	s := b.snapshot(e.key("k"))
	for n := int64(1); n <= acked.Load(); n++ {
		if _, ok := s.Get(e.key("k", fmt.Sprint(n))); !ok {
			e.Errorf("commit %d of %d was acknowledged and is missing", n, acked.Load())
		}
	}
	e.Logf("%d commits were acknowledged and are present", acked.Load())
	again := e.acquire(b.session(), e.key("lock"), "v")
	if again.Token() <= token {
		e.Errorf("token %d after %d", again.Token(), token)
	}
}

func clockStepped(e *env) {
	c := e.cluster()
	e.needs(c.StepClock != nil, "Cluster.StepClock")
	e.keepsLock("the servers' clocks stepped", 500*time.Millisecond, func() {
		for _, d := range []time.Duration{5 * time.Minute, -10 * time.Minute, 5 * time.Minute} {
			c.StepClock(e, d)
			e.pass(e.timing.TTL / 2)
		}
	})
}

func herd(e *env) {
	e.cluster()
	n := e.rounds(20, 200)
	if raceDetector {
		n = min(n, 100) // one process runs all of them
	}
	clients := make([]*client, n)
	sessions := make([]*dcs.Session, n)
	const group = 10 // they start one after the other, because only the return is measured
	for first := 0; first < n; first += group {
		e.together(min(group, n-first), func(i int) {
			clients[first+i], _ = e.opened(Opening{})
			sessions[first+i] = clients[first+i].session()
		})
	}
	counted := e.has(e.s.Requests != nil, "Requests")
	count := func() (sent int64) {
		if !counted {
			return 0
		}
		for _, c := range clients {
			sent += e.s.Requests(c.raw)
		}
		return sent
	}
	restore := e.injectFaultAll(ServerFault{Do: Frozen})
	e.together(n, func(i int) { e.within(2*e.timing.TTL+slack, sessions[i].Done(), "a session ends in the outage") })
	before, restored := count(), time.Now()
	restore()
	e.together(n, func(i int) {
		for {
			s, err := clients[i].NewSession(e.ctx, dcs.SessionOptions{})
			if err == nil {
				// All close at the same time. On a slow machine the store may confirm the
				// end of a lease after the budget.
				if err := s.Close(e.ctx); err != nil && !errors.Is(err, dcs.ErrUnavailable) {
					e.Errorf("session %d: Close: %v", i, err)
				}
				return
			}
			if time.Since(restored) > 4*e.timing.TTL { // below, a busy machine widens the bound
				e.Errorf("session %d: %v", i, err)
				return
			}
		}
	})
	took := time.Since(restored)
	e.atMost(took, 2*e.timing.TTL, restored, "all have a session again")
	rate := float64(count()-before) / float64(n) / max(took.Seconds(), 1)
	e.Logf("%d sessions were back after %v, with %.1f requests a second each", n, took.Round(time.Millisecond), rate)
	if rate > 100 {
		e.Errorf("%.0f requests a second each when the store came back", rate)
	}
}
