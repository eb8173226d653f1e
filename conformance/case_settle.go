package conformance

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// settleCases test how a Session handles answers that arrive late or not at all.
var settleCases = []spec{
	{Case: Case{
		Name:       "Reply/LateYesIsReleased",
		Rule:       "If an acquire settles as successful after Acquire returned an error, the lock is released (P16).",
		Motivation: "No caller has the Hold, and its lease is renewed. The lock is taken without a holder for as long as the process runs.",
	}, sleeps: true, run: lateYes},
	{Case: Case{
		Name:       "Reply/OneAttemptAtATime",
		Rule:       "While an acquire or a release of a key is unclear, the Session sends no new acquire of that key and adopts no key that it finds on its lease (P17).",
		Motivation: "Found in a model of the protocol: the unclear release was executed under the Hold that had adopted the key.",
	}, sleeps: true, run: oneAttempt},
	{Case: Case{
		Name:       "Hold/DeadlineWithoutProof",
		Rule:       "Without a confirmed renewal the Session ends at its deadline, never before, and at most 50 ms after a timer of the same process. No later answer revives it (P3, P4).",
		Motivation: "The purpose of a lease: a holder that cannot reach the store must stop by itself, in time.",
	}, sleeps: true, run: deadlineWithoutProof},
	{Case: Case{
		Name:       "Hold/LostIsFinal",
		Rule:       "Renewals that are answered after the deadline revive nothing, although each of them was executed in time (P4).",
		Motivation: "Found in a model of the protocol: the late answer revives a holder that has a successor already.",
	}, sleeps: true, run: lostIsFinal},
	{Case: Case{
		Name:       "Hold/OldAnswerJudgesNothingNew",
		Rule:       "The answer to a renewal judges only Holds that existed when it was sent (P5).",
		Motivation: "After a release and a new acquisition, the old answer reports that the key is absent, and the Hold ends with a false ErrLost.",
	}, sleeps: true, run: oldAnswer},
	{Case: Case{
		Name:       "Holder/ConfirmsKeepFailing",
		Rule:       "If renewals fail while commits work, then with Caps.Rebind the keys move to a fresh lease, the token stays, and the Hold is valid only while its key exists. Without Caps.Rebind the Hold ends by its deadline (P20).",
		Motivation: "One member that answered all requests except renewals cost a healthy primary its leadership.",
	}, sleeps: true, run: confirmsKeepFailing},
	{Case: Case{
		Name:       "Holder/ManyKeysMove",
		Rule:       "If renewals fail while commits work, and the Session holds more keys than a Txn has operations (5,000 in virtual time and in the slow profile), then with Caps.Rebind all of them move to a fresh lease, and no Hold ends (P20).",
		Motivation: "A session with 65 locks lost all of them, while one with 64 moved its keys.",
	}, sleeps: true, run: manyKeysMove},
	{Case: Case{
		Name:       "Holder/UnclearMove",
		Rule:       "While the move to a fresh lease is unclear both leases are renewed, and the Hold is valid only while its key exists (P20).",
		Motivation: "Found in a model of the protocol: the move was executed late, and the spare lease, which was not renewed, ended first.",
	}, sleeps: true, run: unclearMove},
}

// guardian checks, while it runs, that the key of a Hold exists while Valid() is true.
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
			// The Hold is valid at the end too, so it was valid during the read.
			if before && h.Valid() && (errors.Is(err, dcs.ErrNotFound) || err == nil && en.Created != h.Token()) {
				e.Fatalf("the Hold is Valid() with %v remaining, and its key is deleted or belongs to another session (created %d, token %d)", h.Remaining(), en.Created, h.Token())
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
	require.Nil(e, s.Err(), "the session has ended")
	h, err := s.Acquire(e.ctx, lock, []byte("a"))
	require.NoError(e, err)
	e.pass(e.budget())
	e.stillHeld(b, h, "acquired after a late success had been released")

	// The same with Acquire, which waits, and whose context ends first.
	other := e.key("other")
	lift = e.inject(a, Fault{Do: LoseAnswer, When: func(q Request) bool {
		return q.Op == "Commit" && q.Touches(other) || q.Op == "Settle"
	}})
	ctx, cancel := context.WithTimeout(e.ctx, e.budget()/2)
	defer cancel()
	_, err = s.Acquire(ctx, other, []byte("a"))
	lift()
	e.kind(err, dcs.ErrAmbiguous, "Acquire cut short with a commit in flight")
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
	// While an acquire is unclear, nothing is sent for that key.
	lock := e.key("acquired")
	lift := e.inject(a, Fault{Do: HoldRequest, When: unclear(lock)})
	_, err := s.TryAcquire(e.ctx, lock, []byte("a"))
	e.kind(err, dcs.ErrAmbiguous, "TryAcquire that is never answered")
	e.nothingSent(a, s, lock)
	lift()
	b.awaitGone(lock, e.timing.TTL/2)
	e.orphaned(b, lock, "an unclear acquire was settled")

	// While a release is unclear, its key is on the session's own lease.
	lock = e.key("released")
	h := e.acquire(s, lock, "a")
	lift = e.inject(a, Fault{Do: HoldRequest, When: unclear(lock)})
	ctx, cancel := context.WithTimeout(e.ctx, e.budget()/2)
	defer cancel()
	e.kind(h.Release(ctx), dcs.ErrUnavailable, "Release that is never answered")
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

// nothingSent requires that a new TryAcquire of a key with an unclear attempt is refused
// without a request.
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
	// The session may not have processed an earlier answer yet. After one round the
	// deadline is final.
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
		e.Fatal("an expired Hold became valid when the store came back")
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
	// Valid is called all the time, so that the detection of the end and the arrival of
	// the answers are concurrent.
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
		// A renewal that reads the lock is sent and held back. Both faults are for the
		// same renewal.
		var step atomic.Int32 // 1: both are in force, 2: sent, 3: the answer will be held
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
		arrive() // the renewal reads that the key is absent
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
	// The first lease has ended well before, with the keys that did not move.
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
	require.Equal(e, s.Lease(), b.get(e.key("members", "a")).Lease, "the published key has not moved")
	lift()
	e.pass(2 * e.oneRenewal())
	require.NoError(e, h1.Confirm(e.ctx))
	stop1()
	stop2()
	require.NoError(e, s.Close(e.ctx))
	require.Empty(e, b.snapshot(e.prefix).Entries, "closing the session must remove the moved keys")
}

// unclearMove holds the move to a fresh lease back, makes renewals work again, and releases
// the move much later.
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
	move()                                // it is executed now, and its answer is lost
	e.pass(e.timing.TTL + e.oneRenewal()) // longer than the life of a lease that is not renewed
	settling()
	e.pass(e.oneRenewal())
	stop()
	e.stillHeld(b, h, "after a move that was executed late")
	require.NoError(e, h.Confirm(e.ctx))
}
