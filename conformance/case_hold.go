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

var holdCases = []spec{
	{Case: Case{
		Name:       "Hold/OneWinner",
		Rule:       "Of 32 contenders one wins in every round, and each loser's error names the holder.",
		Motivation: "The first duty of a lock, and a test with two contenders does not show that it fails.",
	}, alone: true, run: oneWinner},
	{Case: Case{
		Name:       "Hold/TokenRises",
		Rule:       "The token rises strictly over 200 re-acquisitions by different holders, and is the key's Created.",
		Motivation: "A token that repeats lets an old leader's write pass a resource that compares them.",
	}, run: tokenRises},
	{Case: Case{
		Name:       "Hold/AcquireCtxEnds",
		Rule:       "After Acquire has succeeded, its context has no effect. If it is cancelled, the lock is still held three TTL later.",
		Motivation: "Clients that bind the lock to the context of its acquisition lose it with the request that happened to start it.",
	}, sleeps: true, run: acquireCtxEnds},
	{Case: Case{
		Name:       "Hold/ExternalDelete",
		Rule:       "If another client deletes the lock's key, the next renewal ends the Hold with ErrLost.",
		Motivation: "A session that renews only its lease, and never checks its keys, leads for ever without a lock.",
	}, sleeps: true, run: externalDelete},
	{Case: Case{
		Name:       "Hold/ExternalTakeover",
		Rule:       "If another session takes the lock after such a deletion, or overwrites it, the next renewal ends the Hold with ErrLost, and its Release does not affect the new holder's key.",
		Motivation: "A key that exists may belong to another session.",
	}, sleeps: true, run: externalTakeover},
	{Case: Case{
		Name:       "Hold/StaleRelease",
		Rule:       "A Release that follows another session's acquisition does not delete that session's key (P18).",
		Motivation: "Release by key or by name removes the lock of the present holder.",
	}, run: staleRelease},
	{Case: Case{
		Name:       "Hold/ReleaseIsComplete",
		Rule:       "After Release the key is deleted, the Hold reports ErrReleased, a second Release succeeds, and the Session continues. Valid is false before the Release is sent (P6).",
		Motivation: "A holder that relies on its lock while the deletion is in flight leads at the same time as the next one.",
	}, run: releaseIsComplete},
	{Case: Case{
		Name:       "Hold/ConfirmAsksTheStore",
		Rule:       "Confirm is a renewal that is sent after the call, and detects at once a deleted key or an ended lease.",
		Motivation: "A confirmation from memory confirms only that the lock was held some time ago.",
	}, run: confirmAsks},
	{Case: Case{
		Name:       "Hold/ShorterLife",
		Rule:       "A confirmed renewal with a shorter TTL brings the deadline forward, to its From + TTL less the margin. The Hold continues while renewals are confirmed. If they fail, it ends before another session gets the lock (P3).",
		Motivation: "ZooKeeper negotiates the session timeout at each connection. A client that keeps the longer timeout it had before relies on a lock that another client has taken.",
	}, sleeps: true, run: shorterLife},
	{Case: Case{
		Name:       "Hold/ManyKeys",
		Rule:       "A Session holds more keys than a Txn has operations. A renewal confirms all of them, and detects a deleted one.",
		Motivation: "etcd takes 128 operations in a transaction. With its 129th key a session could not renew its lease any more, and lost them all.",
	}, run: manyKeys},
}

// ended requires that h ends within limit, with an error of that kind.
func (e *env) ended(h *dcs.Hold, limit time.Duration, kind error, what string) {
	e.within(limit, h.Done(), what+": the Hold ends")
	e.kind(h.Err(), kind, what)
	if h.Valid() || h.Remaining() != 0 {
		e.Fatalf("%s: the Hold has ended, but Valid() is %v and %v remain", what, h.Valid(), h.Remaining())
	}
}

// stillHeld requires that h is valid and its key exists with its token.
func (e *env) stillHeld(observer *client, h *dcs.Hold, what string) {
	if !h.Valid() || h.Err() != nil {
		e.Fatalf("%s: Valid() is %v, Err() is %v", what, h.Valid(), h.Err())
	}
	require.Equal(e, h.Token(), observer.get(h.Key()).Created, what)
}

// oneRenewal is the time within which the next renewal must detect a change.
func (e *env) oneRenewal() time.Duration { return e.renewEvery() + e.budget() + slack }

func oneWinner(e *env) {
	const n = 32
	lock := e.key("lock")
	clients, sessions := make([]*client, n), make([]*dcs.Session, n)
	for i := range sessions { // one after the other, because Herd/Reconnect tests many at once
		clients[i] = e.open()
		clients[i].put(e.key("connected", clients[i].serial), "v")
		sessions[i] = clients[i].session()
	}
	rounds, won := e.rounds(20, 200), 0
	for round := range rounds {
		holds := make([]*dcs.Hold, n)
		named := make([]string, n)
		var unavailable atomic.Int64
		e.together(n, func(i int) {
			h, err := sessions[i].TryAcquire(e.ctx, lock, []byte(fmt.Sprint("contender ", i)))
			if err == nil {
				holds[i] = h
				return
			}
			if errors.Is(err, dcs.ErrUnavailable) { // so many may be too many for a busy machine
				if unavailable.Add(1) == 1 {
					e.Logf("round %d: contender %d: %v", round, i, err)
				}
				return
			}
			holder := e.kind(err, dcs.ErrConflict, "a loser's TryAcquire")
			if holder == nil {
				e.Fatal("a loser's error does not name the holder")
			}
			named[i] = string(holder.Value)
		})
		winner := -1
		for i, h := range holds {
			if h == nil {
				continue
			}
			if winner >= 0 {
				e.Fatalf("round %d: contenders %d and %d both won", round, winner, i)
			}
			winner = i
		}
		if winner < 0 && unavailable.Load() > 0 {
			e.freed(lock, clients, sessions)
			continue
		}
		if winner < 0 {
			e.Fatalf("round %d: no contender won", round)
		}
		for i, name := range named {
			if i != winner && name != "" && name != fmt.Sprint("contender ", winner) {
				e.Fatalf("round %d: the error of contender %d names the holder %q, want contender %d", round, i, name, winner)
			}
		}
		e.releases(holds[winner])
		won++
	}
	if won < rounds/2 {
		e.Fatalf("the lock was won in %d of %d rounds", won, rounds)
	}
}

// freed starts the Sessions again that have ended, and waits until none has the key. One of
// them may have written it without an answer.
func (e *env) freed(key string, clients []*client, sessions []*dcs.Session) {
	for i, s := range sessions {
		if s.Err() == nil {
			continue
		}
		_ = s.Close(e.ctx) // it has ended already
		sessions[i] = clients[i].session()
	}
	clients[0].awaitGone(key, 3*e.timing.TTL+2*expiryGrace)
}

// releases releases h, and asks again while the outcome is unclear on a busy machine.
func (e *env) releases(h *dcs.Hold) {
	var err error
	for range 5 {
		err = h.Release(e.ctx)
		if !errors.Is(err, dcs.ErrAmbiguous) && !errors.Is(err, dcs.ErrUnavailable) {
			break
		}
		e.Logf("Release: %v", err)
	}
	require.NoError(e, err)
}

func tokenRises(e *env) {
	a, b := e.pair()
	sessions := []*dcs.Session{a.session(), a.session(), b.session()}
	lock := e.key("lock")
	var last dcs.Revision
	for i := range 200 {
		h := e.acquire(sessions[i%3], lock, "x")
		if h.Token() <= last {
			e.Fatalf("acquisition %d has token %d, the one before had %d", i, h.Token(), last)
		}
		last = h.Token()
		require.Equal(e, last, b.get(lock).Created, "the token is the key's Created")
		require.NoError(e, h.Release(e.ctx))
	}
}

func acquireCtxEnds(e *env) {
	a, b := e.pair()
	first, second := a.session(), a.session()
	ctx, cancel := context.WithTimeout(e.ctx, e.budget())
	h1, err := first.Acquire(ctx, e.key("waited"), []byte("a"))
	require.NoError(e, err)
	h2, err := second.TryAcquire(ctx, e.key("tried"), []byte("a"))
	require.NoError(e, err)
	cancel()
	// A lease that is not renewed ends well before.
	e.pass(max(3*e.timing.TTL, first.Granted().Expiry*5/4))
	e.stillHeld(b, h1, "three TTL after the context of Acquire ended")
	e.stillHeld(b, h2, "three TTL after the context of TryAcquire ended")
	require.NoError(e, h1.Confirm(e.ctx))
}

func externalDelete(e *env) {
	a, b := e.pair()
	s := a.session()
	lost, kept := e.acquire(s, e.key("lost"), "a"), e.acquire(s, e.key("kept"), "a")
	b.del(e.key("lost"))
	e.ended(lost, e.oneRenewal(), dcs.ErrLost, "its key was deleted")
	b.absent(e.key("lost"), "its old holder wrote it back")
	e.stillHeld(b, kept, "another lock of the same session")
	require.NoError(e, lost.Release(e.ctx), "releasing a lost Hold")
	e.kind(lost.Confirm(e.ctx), dcs.ErrLost, "Confirm of a lost Hold")
	e.kind(lost.Update(e.ctx, []byte("x")), dcs.ErrLost, "Update of a lost Hold")
	again := e.acquire(s, e.key("lost"), "a")
	if again.Token() <= lost.Token() {
		e.Fatalf("token %d after %d", again.Token(), lost.Token())
	}
	e.kind(lost.Err(), dcs.ErrLost, "the old Hold, after a new one was acquired")
}

func externalTakeover(e *env) {
	a, b := e.pair()
	sa, sb := a.session(), b.session()
	lock := e.key("lock")
	old := e.acquire(sa, lock, "a")
	b.del(lock)
	taken := e.acquire(sb, lock, "b")
	e.ended(old, e.oneRenewal(), dcs.ErrLost, "its key was taken")
	require.NoError(e, old.Release(e.ctx))
	e.stillHeld(a, taken, "after the Release of the one before")
	require.Equal(e, "b", string(a.get(lock).Value))

	// The key was overwritten in place, and is no longer bound to a lease of the session.
	over := e.key("over")
	old = e.acquire(sa, over, "a")
	written := b.put(over, "operator")
	e.ended(old, e.oneRenewal(), dcs.ErrLost, "its key was overwritten")
	require.Equal(e, written, a.get(over).Modified, "its old holder wrote it back")
}

func staleRelease(e *env) {
	a, b := e.pair()
	sa, sb := a.session(), b.session()
	lock := e.key("lock")
	for range e.rounds(5, 50) {
		old := e.acquire(sa, lock, "same name")
		b.del(lock)
		taken := e.acquire(sb, lock, "same name")
		// The first holder may not know yet that it has lost the lock.
		require.NoError(e, old.Release(e.ctx))
		e.stillHeld(a, taken, "after a stale Release")
		require.NoError(e, taken.Confirm(e.ctx))
		require.NoError(e, taken.Release(e.ctx))
	}
	// The end of a session does not release locks of others either.
	old := e.acquire(sa, lock, "same name")
	b.del(lock)
	taken := e.acquire(sb, lock, "same name")
	require.NoError(e, sa.Close(e.ctx))
	if old.Valid() || old.Err() == nil {
		e.Fatal("a Hold outlives its session")
	}
	e.stillHeld(a, taken, "after the other session was closed")
}

func releaseIsComplete(e *env) {
	a, b := e.pair()
	s := a.session()
	lock := e.key("lock")
	h := e.acquire(s, lock, "a")
	sentValid := make(chan bool, 64)
	lift, watched := func() {}, e.hasInject()
	if watched {
		lift = e.inject(a, Fault{Do: Pass, When: func(q Request) bool {
			if q.Op == "Commit" && q.Touches(lock) {
				select {
				case sentValid <- h.Valid():
				default:
				}
			}
			return false
		}})
	}
	require.NoError(e, h.Release(e.ctx))
	lift()
	close(sentValid)
	seen := 0
	for valid := range sentValid {
		seen++
		if valid {
			e.Fatal("Valid() was true while the Release was being sent (P6)")
		}
	}
	if watched && seen == 0 {
		e.Fatal("Release sent nothing")
	}
	e.ended(h, slack, dcs.ErrReleased, "Release")
	b.absent(lock, "it was released")
	require.NoError(e, h.Release(e.ctx), "a second Release")
	e.kind(h.Confirm(e.ctx), dcs.ErrReleased, "Confirm of a released Hold")
	e.kind(h.Update(e.ctx, nil), dcs.ErrReleased, "Update of a released Hold")
	if s.Err() != nil || s.State() != dcs.Held {
		e.Fatalf("the session ended with its Hold: %v", s.Err())
	}
	again := e.acquire(s, lock, "a")
	require.NoError(e, s.Close(e.ctx))
	e.ended(again, slack, dcs.ErrReleased, "closing the session")
	b.absent(lock, "its session was closed")
	if !errors.Is(s.Err(), dcs.ErrReleased) {
		e.Fatalf("the error of a closed session is %v", s.Err())
	}
}

func confirmAsks(e *env) {
	a, b := e.pair()
	s := a.session()
	h := e.acquire(s, e.key("lock"), "a")
	for range 5 {
		begin, called := time.Now(), dcs.Now()
		before := h.Remaining()
		require.NoError(e, h.Confirm(e.ctx))
		if took := called.Elapsed(); h.Remaining()+took+slack+e.delayed(begin) < before {
			e.Fatalf("Confirm moved the deadline back: %v remained before, %v after", before, h.Remaining())
		}
	}
	b.del(e.key("lock"))
	e.promptly(e.budget()+slack, "Confirm", func() {
		e.kind(h.Confirm(e.ctx), dcs.ErrLost, "Confirm after the key was deleted")
	})
	e.ended(h, slack, dcs.ErrLost, "Confirm reported that")
}

// longSession starts a session for twice the suite's TTL, so that the suite's own
// is a shorter one that still leaves time for renewals.
func (c *client) longSession() *dcs.Session {
	t := c.e.timing
	t.TTL *= 2
	return c.sessionFor(t)
}

// deadlineFollows requires that the deadline of s is not later than the last confirmed
// renewal allows.
func (e *env) deadlineFollows(s *dcs.Session) {
	at := s.Deadline()
	r := s.Granted() // no older than the deadline
	if proven := dcs.Deadline(r.From, r.TTL); proven.Before(at) {
		e.Fatalf("the deadline is %v later than a renewal for %v allows", at.Sub(proven), r.TTL)
	}
}

func shorterLife(e *env) {
	a, b := e.pair()
	s, next := a.longSession(), b.longSession()
	h := e.acquire(s, e.key("lock"), "a")
	e.pass(e.renewEvery())
	require.NoError(e, h.Confirm(e.ctx))
	e.deadlineFollows(s)
	if !e.has(e.s.LimitTTL != nil, "LimitTTL") {
		return
	}
	short, before := max(e.timing.TTL, a.Caps().MinTTL), s.Granted().TTL
	if before <= short {
		e.Fatalf("the store granted %v: no more than %v, to which the case limits it", before, short)
	}
	e.Cleanup(e.s.LimitTTL(e, short))
	require.NoError(e, h.Confirm(e.ctx))
	at := s.Deadline()
	if latest := dcs.Deadline(dcs.Now(), short); latest.Before(at) {
		e.Fatalf("after a renewal for %v, instead of %v before, the deadline is %v too late", short, before, at.Sub(latest))
	}
	e.deadlineFollows(s)
	if e.hasInject() {
		h = e.passesOn(a, b, h, s.Granted(), next)
	}
	e.pass(short + e.oneRenewal())
	e.stillHeld(b, h, "longer than the shorter TTL, with renewals")
}

// passesOn makes the renewals of a fail, which holds h by lease, until next has the lock.
// It requires that h has ended by then, and returns the Hold of next.
func (e *env) passesOn(a, b *client, h *dcs.Hold, lease dcs.Renewal, next *dcs.Session) (taken *dcs.Hold) {
	stop := e.guardian(b, h)
	lift := e.inject(a, Fault{Do: LoseRequest})
	taking := e.start(func() {
		var err error
		taken, err = next.Acquire(e.ctx, h.Key(), []byte("b"))
		require.NoError(e, err)
		if h.Valid() {
			e.Fatalf("two Holds are Valid(): the earlier one for %v more", h.Remaining())
		}
	})
	e.ended(h, lease.TTL, dcs.ErrExpired, "no renewal was confirmed")
	e.within(lease.Expiry+expiryGrace+e.budget(), taking, "another session gets the lock")
	stop()
	lift()
	return taken
}
