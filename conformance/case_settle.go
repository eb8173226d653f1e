package conformance

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// settleCases are about what a Session makes of answers that come late or not
// at all.
var settleCases = []spec{
	{Case: Case{
		Name:       "Reply/LateYesIsReleased",
		Rule:       "An acquire that settles to a yes after Acquire returned an error is given back (P16).",
		Motivation: "Nobody is there to take it, and its lease is renewed: the lock is held by no one for as long as the process lives.",
	}, sleeps: true, run: lateYes},
	{Case: Case{
		Name:       "Reply/OneAttemptAtATime",
		Rule:       "While an acquire or a release of a key is unclear, the Session sends no new acquire of that key and adopts nothing it finds on its lease (P17).",
		Motivation: "Found in a model of the protocol: the unclear release landed under the Hold that had adopted the key.",
	}, sleeps: true, run: oneAttempt},
	{Case: Case{
		Name:       "Hold/DeadlineWithoutProof",
		Rule:       "Without a confirmed renewal the Session ends at its deadline: never before, not later than a timer of the same process + 50 ms; nothing that comes later revives it (P3, P4).",
		Motivation: "The point of a lease: a holder that cannot reach the store must stop by itself, in time.",
	}, sleeps: true, run: deadlineWithoutProof},
	{Case: Case{
		Name:       "Hold/LostIsFinal",
		Rule:       "Renewals that are answered after the deadline revive nothing, though each of them had been done in time (P4).",
		Motivation: "Found in a model of the protocol: the late answer revives a holder whose successor is at work.",
	}, sleeps: true, run: lostIsFinal},
	{Case: Case{
		Name:       "Hold/OldAnswerJudgesNothingNew",
		Rule:       "The answer to a renewal judges only Holds that existed when it was sent (P5).",
		Motivation: "Released, re-acquired, and then the old answer says \"the key is not there\": a false ErrLost.",
	}, sleeps: true, run: oldAnswer},
	{Case: Case{
		Name:       "Holder/ConfirmsKeepFailing",
		Rule:       "Renewals fail while commits work: where Caps.Rebind, the keys move to a fresh lease, the token stays, and the Hold is valid only while its key is there; elsewhere the Hold ends by its deadline (P20).",
		Motivation: "One member that answers everything but renewals cost the leadership of a healthy primary.",
	}, sleeps: true, run: confirmsKeepFailing},
	{Case: Case{
		Name:       "Holder/ManyKeysMove",
		Rule:       "Renewals fail while commits work, and the Session holds more keys than a Txn has operations (5,000 in virtual time and in the slow profile): where Caps.Rebind, all of them move to a fresh lease, and no Hold ends (P20).",
		Motivation: "A session with 65 locks lost all of them, where one with 64 moved its keys.",
	}, sleeps: true, run: manyKeysMove},
	{Case: Case{
		Name:       "Holder/UnclearMove",
		Rule:       "While the move to a fresh lease is unclear both leases are renewed, and the Hold is valid only while its key is there (P20).",
		Motivation: "Found in a model of the protocol: the move landed late, and the spare lease, renewed by nobody, ended first.",
	}, sleeps: true, run: unclearMove},
}

// guardian checks, while it runs, that a Hold that says Valid() has its key.
func (e *env) guardian(observer *client, h *dcs.Hold) (stop func()) {
	over := make(chan struct{})
	done := e.start(func() {
		tick := time.NewTicker(max(e.timing.TTL/200, 5*time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			before := h.Valid()
			en, err := observer.Get(e.ctx, h.Key())
			// Valid at the end too: then it was all the while.
			if before && h.Valid() && (errors.Is(err, dcs.ErrNotFound) || err == nil && en.Created != h.Token()) {
				e.Fatalf("the Hold is Valid() with %v remaining, and its key is gone or another's (created %d, token %d)", h.Remaining(), en.Created, h.Token())
			}
		}
	})
	return func() {
		close(over)
		<-done
		if e.Failed() {
			e.FailNow()
		}
	}
}

func lateYes(e *env) {
	a, b := e.pair()
	s := a.session()
	a.put(e.key("warm"), "up")
	lock := e.key("lock")
	lift := e.inject(a, Fault{Do: LoseAnswer, When: func(q Request) bool {
		return q.Op == "Commit" && q.Touches(lock) || q.Op == "Settle"
	}})
	_, err := s.TryAcquire(e.ctx, lock, []byte("a"))
	lift()
	e.kind(err, dcs.ErrAmbiguous, "TryAcquire whose answers were all lost")
	b.awaitGone(lock, e.timing.TTL/2)
	require.Nil(e, s.Err(), "the session goes on")
	h, err := s.Acquire(e.ctx, lock, []byte("a"))
	require.NoError(e, err)
	e.pass(e.budget())
	e.stillHeld(b, h, "acquired after a late yes had been given back")

	// The same by the waiting kind, whose context ends first.
	other := e.key("other")
	lift = e.inject(a, Fault{Do: LoseAnswer, When: func(q Request) bool {
		return q.Op == "Commit" && q.Touches(other) || q.Op == "Settle"
	}})
	ctx, cancel := context.WithTimeout(e.ctx, e.budget()/2)
	defer cancel()
	_, err = s.Acquire(ctx, other, []byte("a"))
	lift()
	e.kind(err, dcs.ErrAmbiguous, "Acquire cut short with a commit under way")
	b.awaitGone(other, e.timing.TTL/2)
}

func oneAttempt(e *env) {
	a, b := e.pair()
	s := a.session()
	a.put(e.key("warm"), "up")
	unclear := func(key string) func(Request) bool {
		return func(q Request) bool {
			return q.Op == "Commit" && q.Touches(key) || q.Op == "Settle"
		}
	}
	// An acquire is unclear: nothing is sent for that key.
	lock := e.key("acquired")
	lift := e.inject(a, Fault{Do: HoldRequest, When: unclear(lock)})
	_, err := s.TryAcquire(e.ctx, lock, []byte("a"))
	e.kind(err, dcs.ErrAmbiguous, "TryAcquire that nobody answers")
	e.nothingSent(a, s, lock)
	lift()
	b.awaitGone(lock, e.timing.TTL/2)
	e.orphaned(b, lock, "an unclear acquire was settled")

	// A release is unclear: its key is on the session's own lease.
	lock = e.key("released")
	h := e.acquire(s, lock, "a")
	lift = e.inject(a, Fault{Do: HoldRequest, When: unclear(lock)})
	ctx, cancel := context.WithTimeout(e.ctx, e.budget()/2)
	defer cancel()
	e.kind(h.Release(ctx), dcs.ErrUnavailable, "Release that nobody answers")
	e.nothingSent(a, s, lock)
	lift()
	b.awaitGone(lock, e.timing.TTL/2)
	again, err := s.Acquire(e.ctx, lock, []byte("a"))
	require.NoError(e, err)
	stop := e.guardian(b, again)
	e.pass(e.budget())
	stop()
	e.stillHeld(b, again, "acquired after an unclear release was settled")
}

// nothingSent requires that a new TryAcquire of a key with an unclear attempt
// is refused without a request of its own.
func (e *env) nothingSent(a *client, s *dcs.Session, lock string) {
	var sent atomic.Int64
	look := e.inject(a, Fault{Do: Pass, When: func(q Request) bool {
		if q.Op == "Commit" && q.Touches(lock) {
			sent.Add(1)
		}
		return false
	}})
	var h *dcs.Hold
	var err error
	e.promptly(e.budget()+slack, "TryAcquire of a key with an unclear attempt", func() {
		h, err = s.TryAcquire(e.ctx, lock, []byte("again"))
	})
	look()
	if err == nil {
		e.Fatalf("a key with an unclear attempt was acquired, token %d", h.Token())
	}
	e.kind(err, dcs.ErrUnavailable, "TryAcquire of a key with an unclear attempt")
	if n := sent.Load(); n > 0 {
		e.Fatalf("%d copies of a second acquire were sent while the first attempt is unclear", n)
	}
}

func deadlineWithoutProof(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	s := a.session()
	h := e.acquire(s, e.key("lock"), "a")
	stop := e.guardian(b, h)
	defer stop()
	e.pass(2 * e.renewEvery())
	lift := e.inject(a, Fault{Do: LoseRequest})
	e.settle()
	// A renewal that was answered before may still be on its way into the
	// session; after one round the deadline stands.
	e.pass(e.budget() + slack)
	deadline := h.Deadline()
	left := -deadline.Elapsed()
	if granted := s.Granted(); deadline.Sub(granted.From) >= granted.TTL {
		e.Fatalf("the deadline is %v after From; the lease is granted for %v", deadline.Sub(granted.From), granted.TTL)
	}
	require.Positive(e, left, "the session ended before its deadline: %v", s.Err())
	control := time.NewTimer(left)
	defer control.Stop()
	select {
	case <-control.C:
	case <-h.Done():
		if deadline.Elapsed() < 0 {
			e.Fatalf("the Hold ended %v before its deadline: %v", -deadline.Elapsed(), h.Err())
		}
	}
	e.ended(h, 50*time.Millisecond, dcs.ErrExpired, "no renewal was confirmed")
	e.kind(s.Err(), dcs.ErrUnavailable, "an expired session's error")
	lift()
	e.pass(2 * e.renewEvery())
	if h.Valid() || s.State() != dcs.Lost {
		e.Fatal("an expired Hold came back when the store did")
	}
	e.kind(h.Confirm(e.ctx), dcs.ErrExpired, "Confirm of an expired Hold")
	e.acquireLater(a, e.key("lock"))
}

// acquireLater requires that a new Session of the same client takes the lock.
func (e *env) acquireLater(c *client, lock string) {
	s := c.session()
	done := e.start(func() {
		_, err := s.Acquire(e.ctx, lock, []byte("next"))
		require.NoError(e, err)
	})
	e.within(2*s.Granted().Expiry+expiryGrace+e.budget(), done, "a new Session works without a restart")
}

func lostIsFinal(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	s := a.session()
	h := e.acquire(s, e.key("lock"), "a")
	e.pass(e.renewEvery())
	lift := e.inject(a, Fault{Do: HoldAnswer, When: on("Renew")})
	lose := e.inject(a, Fault{Do: LoseRequest, When: func(q Request) bool { return q.Op == "Grant" || q.Op == "Commit" }})
	stop := e.guardian(b, h)
	// Asked for the whole time: what finds the end and what hears the answers
	// are at work at once.
	over := s.Granted().TTL + 2*e.renewEvery()
	began := time.Now()
	for h.Valid() && time.Since(began) < over+e.budget() {
		e.pass(e.timing.TTL / 100)
	}
	if h.Valid() {
		e.Fatalf("still Valid() %v after the last confirmed renewal's TTL", e.budget())
	}
	lift()
	lose()
	for range 50 {
		if h.Valid() || h.Remaining() > 0 {
			e.Fatal("Valid() again: a late answer revived the Hold")
		}
		e.pass(e.timing.TTL / 50)
	}
	stop()
	e.ended(h, slack, dcs.ErrExpired, "no renewal was confirmed in time")
}

func oldAnswer(e *env) {
	a, b := e.pair()
	s := a.session()
	lock := e.key("lock")
	for range 3 {
		old := e.acquire(s, lock, "a")
		// A renewal that asks for the lock is sent and stays on its way; both
		// faults are for the same one.
		var step atomic.Int32 // 1: both are in place, 2: sent, 3: its answer will be held
		sent := make(chan struct{})
		arrive := e.inject(a, Fault{Do: HoldRequest, Times: 1, When: func(q Request) bool {
			if q.Op != "Renew" || !q.Touches(lock) || !step.CompareAndSwap(1, 2) {
				return false
			}
			close(sent)
			return true
		}})
		answer := e.inject(a, Fault{Do: HoldAnswer, Times: 1, When: func(q Request) bool {
			return q.Op == "Renew" && q.Touches(lock) && step.CompareAndSwap(2, 3)
		}})
		step.Store(1)
		confirmed := e.start(func() { _ = old.Confirm(e.ctx) })
		e.within(e.oneRenewal(), sent, "a renewal is sent")
		require.NoError(e, old.Release(e.ctx))
		arrive() // it reads that the key is not there
		e.settle()
		fresh := e.acquire(s, lock, "a")
		answer()
		e.within(e.budget()+slack, confirmed, "Confirm of the released Hold returns")
		e.landed()
		if err := fresh.Err(); err != nil {
			e.Fatalf("an answer from before it was acquired ended the Hold: %v", err)
		}
		e.stillHeld(b, fresh, "after an old answer")
		require.NoError(e, fresh.Confirm(e.ctx))
		require.NoError(e, fresh.Release(e.ctx))
	}
}

func confirmsKeepFailing(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	s := a.session()
	h1, h2 := e.acquire(s, e.key("lock"), "a"), e.acquire(s, e.key("second lock"), "a")
	_, err := s.Publish(e.ctx, e.key("members", "a"), []byte("m"))
	require.NoError(e, err)
	from := s.Lease()
	stop1, stop2 := e.guardian(b, h1), e.guardian(b, h2)
	lift := e.inject(a, Fault{Do: LoseRequest, When: on("Renew")})
	// The first lease is gone well before, and so is what did not move.
	e.pass(max(2*e.timing.TTL, s.Granted().Expiry*5/4))
	rebinds := a.Caps().Rebind
	if !rebinds {
		stop1()
		stop2()
		e.ended(h1, slack, dcs.ErrExpired, "no renewal was confirmed, and this store cannot move keys")
		return
	}
	for _, h := range []*dcs.Hold{h1, h2} {
		e.stillHeld(b, h, "renewals failed for two TTL while commits worked")
	}
	if s.Lease() == from {
		e.Fatal("the session never moved to a fresh lease")
	}
	require.Equal(e, s.Lease(), b.get(e.key("members", "a")).Lease, "the published key moved too")
	lift()
	e.pass(2 * e.oneRenewal())
	require.NoError(e, h1.Confirm(e.ctx))
	stop1()
	stop2()
	require.NoError(e, s.Close(e.ctx))
	require.Empty(e, b.snapshot(e.prefix).Entries, "closing the session removes what had moved")
}

// unclearMove lets the move to a fresh lease get stuck on its way, renewals
// work again, and the move land much later.
func unclearMove(e *env) {
	a, b := e.pair()
	if !a.Caps().Rebind {
		e.without("Caps.Rebind") // a session never moves its keys
		return
	}
	e.Cleanup(e.keepLease(b))
	s := a.session()
	lock := e.key("lock")
	h := e.acquire(s, lock, "a")
	stop := e.guardian(b, h)
	moved := make(chan struct{})
	var first atomic.Bool
	renewals := e.inject(a, Fault{Do: LoseRequest, When: on("Renew")})
	settling := e.inject(a, Fault{Do: LoseRequest, When: on("Settle")})
	move := e.inject(a, Fault{Do: HoldRequest, When: func(q Request) bool {
		if q.Op != "Commit" || !q.Touches(lock) {
			return false
		}
		if first.CompareAndSwap(false, true) {
			close(moved)
		}
		return true
	}})
	e.within(2*e.timing.TTL, moved, "the session moves its keys when renewals keep failing")
	renewals()
	e.pass(e.timing.TTL / 2)
	move()                                // it lands now; nobody is told
	e.pass(e.timing.TTL + e.oneRenewal()) // longer than a lease lives that nobody renews
	settling()
	e.pass(e.oneRenewal())
	stop()
	e.stillHeld(b, h, "after a move that landed late")
	require.NoError(e, h.Confirm(e.ctx))
}
