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
		Rule:       "Of 32 contenders one wins in every round, and each loser is told who holds.",
		Motivation: "The first thing a lock must do, and the last that a test with two contenders shows.",
	}, alone: true, run: oneWinner},
	{Case: Case{
		Name:       "Hold/TokenRises",
		Rule:       "The token rises strictly over 200 re-acquisitions, whoever holds, and is the key's Created.",
		Motivation: "A token that repeats lets an old leader's write pass a resource that compares them.",
	}, run: tokenRises},
	{Case: Case{
		Name:       "Hold/AcquireCtxEnds",
		Rule:       "The context of Acquire, once it succeeded, governs nothing: cancelled, the lock is still held three TTL later.",
		Motivation: "Clients that tie the lock to the context of its acquisition lose it with the request that happened to start it.",
	}, sleeps: true, run: acquireCtxEnds},
	{Case: Case{
		Name:       "Hold/ExternalDelete",
		Rule:       "When somebody deletes the lock's key, the next renewal ends the Hold with ErrLost.",
		Motivation: "A session that renews its lease only, and never looks at its keys, leads for ever without a lock.",
	}, sleeps: true, run: externalDelete},
	{Case: Case{
		Name:       "Hold/ExternalTakeover",
		Rule:       "When another takes the lock after such a deletion, or writes over it, the next renewal ends the Hold with ErrLost, and its Release leaves the new holder's key alone.",
		Motivation: "\"The key is there\" is not \"the key is mine\".",
	}, sleeps: true, run: externalTakeover},
	{Case: Case{
		Name:       "Hold/StaleRelease",
		Rule:       "A Release that comes after another's acquisition deletes nothing of theirs (P18).",
		Motivation: "Release by key or by name removes the lock of whoever holds it now.",
	}, run: staleRelease},
	{Case: Case{
		Name:       "Hold/ReleaseIsComplete",
		Rule:       "After Release the key is gone, the Hold says ErrReleased, releasing again succeeds, and the Session goes on; Valid is false before the Release is sent (P6).",
		Motivation: "A holder that believes in its lock while the deletion is on its way leads together with the next one.",
	}, run: releaseIsComplete},
	{Case: Case{
		Name:       "Hold/ConfirmAsksTheStore",
		Rule:       "Confirm is a renewal sent after the call, and finds at once what the store knows: a key deleted, a lease gone.",
		Motivation: "A confirmation from memory confirms only that one believed it a moment ago.",
	}, run: confirmAsks},
	{Case: Case{
		Name:       "Hold/ShorterLife",
		Rule:       "A confirmed renewal with a shorter TTL brings the deadline forward, to its From + TTL less the margin. The Hold goes on while renewals are confirmed; when they fail it is over before another session gets the lock (P3).",
		Motivation: "ZooKeeper negotiates the session's time at each connection: a client that keeps the longer time it had before goes on believing in a lock that another has taken.",
	}, sleeps: true, run: shorterLife},
	{Case: Case{
		Name:       "Hold/ManyKeys",
		Rule:       "A Session holds more keys than a Txn has operations: a renewal confirms all of them, and detects one that was deleted.",
		Motivation: "etcd takes 128 operations in a transaction. With its 129th key a session could not renew its lease any more, and lost them all.",
	}, run: manyKeys},
}

// ended requires that h is over within limit, for the reason kind.
func (e *env) ended(h *dcs.Hold, limit time.Duration, kind error, what string) {
	e.within(limit, h.Done(), what+": the Hold ends")
	e.kind(h.Err(), kind, what)
	if h.Valid() || h.Remaining() != 0 {
		e.Fatalf("%s: the Hold is over, but Valid() is %v and %v remain", what, h.Valid(), h.Remaining())
	}
}

// stillHeld requires that h is good and its key is there with its token.
func (e *env) stillHeld(observer *client, h *dcs.Hold, what string) {
	if !h.Valid() || h.Err() != nil {
		e.Fatalf("%s: Valid() is %v, Err() is %v", what, h.Valid(), h.Err())
	}
	require.Equal(e, h.Token(), observer.get(h.Key()).Created, what)
}

// oneRenewal is how long the next renewal may take to find something out.
func (e *env) oneRenewal() time.Duration { return e.renewEvery() + e.budget() + slack }

func oneWinner(e *env) {
	const n = 32
	lock := e.key("lock")
	sessions := make([]*dcs.Session, n)
	for i := range sessions { // one after the other: how fast many come at once is Herd/Reconnect's question
		c := e.open()
		c.put(e.key("connected", c.serial), "v")
		sessions[i] = c.session()
	}
	rounds, won := e.rounds(20, 200), 0
	for round := range rounds {
		holds := make([]*dcs.Hold, n)
		told := make([]string, n)
		var unavailable atomic.Int64
		e.together(n, func(i int) {
			h, err := sessions[i].TryAcquire(e.ctx, lock, []byte(fmt.Sprint("contender ", i)))
			if err == nil {
				holds[i] = h
				return
			}
			if errors.Is(err, dcs.ErrUnavailable) { // so many may be too many for a busy machine
				unavailable.Add(1)
				return
			}
			holder := e.kind(err, dcs.ErrConflict, "a loser's TryAcquire")
			if holder == nil {
				e.Fatal("a loser is not told who holds")
			}
			told[i] = string(holder.Value)
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
			continue
		}
		if winner < 0 {
			e.Fatalf("round %d: nobody won", round)
		}
		for i, who := range told {
			if i != winner && who != "" && who != fmt.Sprint("contender ", winner) {
				e.Fatalf("round %d: contender %d was told that %q holds; contender %d does", round, i, who, winner)
			}
		}
		require.NoError(e, holds[winner].Release(e.ctx))
		won++
	}
	if won < rounds/2 {
		e.Fatalf("the lock was won in %d of %d rounds", won, rounds)
	}
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
	// A lease that nobody renews is gone well before.
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
	require.NoError(e, lost.Release(e.ctx), "releasing what is lost already")
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

	// Written over in place: the key is bound to nothing of ours any more.
	over := e.key("over")
	old = e.acquire(sa, over, "a")
	written := b.put(over, "operator")
	e.ended(old, e.oneRenewal(), dcs.ErrLost, "its key was written over")
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
		// The first holder may not know yet, and gives up what it believes to have.
		require.NoError(e, old.Release(e.ctx))
		e.stillHeld(a, taken, "after a stale Release")
		require.NoError(e, taken.Confirm(e.ctx))
		require.NoError(e, taken.Release(e.ctx))
	}
	// The end of a session releases nothing of others either.
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
	require.NoError(e, h.Release(e.ctx), "releasing twice")
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
		e.Fatalf("a closed session says %v", s.Err())
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
	e.ended(h, slack, dcs.ErrLost, "Confirm said so")
}

// longSession starts a session for twice the suite's TTL, so that the suite's own
// is a shorter one that still leaves time for renewals.
func (c *client) longSession() *dcs.Session {
	t := c.e.timing
	t.TTL *= 2
	return c.sessionFor(t)
}

// deadlineFollows requires that the deadline of s is not later than the last
// confirmed renewal says.
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

// passesOn lets the renewals of a fail, which holds h by lease, until next has
// the lock. It requires that h is over by then, and returns the Hold of next.
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
