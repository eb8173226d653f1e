package conformance

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var replyCases = []spec{
	{Case: Case{
		Name:       "Reply/LostAfterCommit",
		Rule:       "If the answer to an acquire, a compare-and-set, a delete, a release or a grant is lost, the client recognises its own write, with its revision, and nothing is executed twice.",
		Motivation: "A retry after a lost answer finds the client's own key and reports a conflict. The lock has no holder for a whole TTL or for ever.",
	}, sleeps: true, run: lostAfterCommit},
	{Case: Case{
		Name:       "Reply/LateCopy",
		Rule:       "A late copy of a commit that another copy has already executed has no effect, even after later writes of other clients (P7, P13).",
		Motivation: "A hedged or retried write overwrites a later one.",
	}, sleeps: true, run: lateCopy},
	{Case: Case{
		Name:       "Reply/LateWrite",
		Rule:       "If all copies of a commit are in flight when the call gives up, it fails definitely only if none of them is ever executed. ErrAmbiguous can be settled, and the settlement is correct (P11, P12).",
		Motivation: "A write that was given up after a timeout and read back as absent was executed 20.6 s later on etcd, and 20 s later on Consul.",
	}, sleeps: true, run: lateWrite},
	{Case: Case{
		Name:       "Reply/HedgedConflict",
		Rule:       "One copy of an acquire is answered \"conflict\" while another is in flight, the holder releases, and the copy arrives. No lock is left without a holder, and no second answer is given (P10).",
		Motivation: "Found in a model of the protocol: a conflict moves no marker, so the other copy could still be executed.",
	}, sleeps: true, run: hedgedConflict},
	{Case: Case{
		Name:       "Reply/ConflictWithOneself",
		Rule:       "The first copy is executed and its answer is lost. The second, or the same one repeated by a proxy, finds the key present, and the call succeeds (P9).",
		Motivation: "Found in a model of the protocol: if the key is checked first, the client takes its own lock for another client's.",
	}, sleeps: true, run: conflictWithOneself},
	{Case: Case{
		Name:       "Reply/UnclearSlot",
		Rule:       "While a commit is unclear, other commits of the client do not change its settlement (P12).",
		Motivation: "Found in a model of the protocol: the next commit on the same marker wiped the proof.",
	}, sleeps: true, run: unclearSlot},
	{Case: Case{
		Name:       "Reply/MarkerLost",
		Rule:       "When the bookkeeping of an unclear commit vanishes, no caller gets a definite failure for a write that was executed (P8, P11).",
		Motivation: "Found in a model of the protocol: \"the marker is absent\" as a condition succeeds although the write was executed.",
	}, run: markerLost},
}

func lostAfterCommit(e *env) {
	a, b := e.pair()
	lose := func(key string) (lift func()) {
		return e.inject(a, Fault{Do: LoseAnswer, When: commitsOf(key), Times: 1})
	}
	k := e.key("k")
	r1 := a.put(k, "0")
	lift := lose(k)
	r2 := a.commit(dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt(k, r1)}, Then: []dcs.Write{dcs.Put(k, []byte("1"))}})
	lift()
	require.Equal(e, r2, b.get(k).Modified, "the revision of a compare-and-set whose answer was lost")
	lift = lose(k)
	r3 := a.put(k, "2")
	lift()
	require.Equal(e, r3, b.get(k).Modified, "the revision of a put whose answer was lost")
	lift = lose(k)
	r4 := a.commit(dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(k, r1)}, Then: []dcs.Write{dcs.Delete(k)}})
	lift()
	b.absent(k, "it was deleted")
	if r4 <= r3 {
		e.Fatalf("deleted at %d, after a write at %d", r4, r3)
	}

	s := a.session()
	lock := e.key("lock")
	lift = lose(lock)
	h := e.acquire(s, lock, "a")
	lift()
	e.stillHeld(b, h, "the answer to Acquire was lost")
	require.NoError(e, h.Confirm(e.ctx))
	lift = lose(lock)
	require.NoError(e, h.Release(e.ctx), "the answer to Release was lost")
	lift()
	b.absent(lock, "it was released")
	next := e.acquire(b.session(), lock, "b")
	e.pass(e.budget())
	e.stillHeld(b, next, "acquired after a Release whose answer was lost")
	e.grantAnswerLost(a)
}

// lateCopy holds back the first copy of a commit. Another copy is executed, other clients
// write, and then the first one arrives.
func lateCopy(e *env) {
	a, b := e.pair()
	txns := map[string]func(k string) dcs.Txn{
		"a put": func(k string) dcs.Txn {
			return dcs.Txn{Then: []dcs.Write{dcs.Put(k, []byte("late"))}}
		},
		"a delete": func(k string) dcs.Txn {
			return dcs.Txn{Then: []dcs.Write{dcs.Delete(k)}}
		},
		"a creation": func(k string) dcs.Txn {
			return dcs.Txn{If: []dcs.Cond{dcs.Absent(e.key("never"))}, Then: []dcs.Write{dcs.Put(k, []byte("late"))}}
		},
	}
	for what, txn := range txns {
		k := e.key(what)
		b.put(k, "before")
		lift := e.inject(a, Fault{Do: HoldRequest, When: commitsOf(k), Times: 1})
		// A store that sends no second copy reports an unknown outcome, or ensures that
		// the first one is never executed.
		_, err := a.Commit(e.ctx, txn(k))
		e.Logf("%s, its first copy held back: %s", what, verdictOf(err))
		if verdictOf(err) == "unknown" {
			e.settled(a, err)
		}
		b.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(k, []byte("after"))}})
		at := b.get(k)
		lift()
		e.landed()
		require.Equal(e, at, b.get(k), "a late copy of %s was executed again", what)
	}
	// The same when the first copy was executed and only its answer was lost. The second
	// one must not be executed again.
	k := e.key("twice")
	lift := e.inject(a, Fault{Do: LoseAnswer, When: commitsOf(k), Times: 1})
	r := a.put(k, "once")
	lift()
	e.landed()
	require.Equal(e, r, b.get(k).Created, "a put whose answer was lost was executed twice, or reports another revision")
	require.Equal(e, r, b.get(k).Modified, "a put whose answer was lost was executed twice")
}

// landed gives released requests the time to arrive.
func (e *env) landed() {
	e.settle()
	e.pass(e.budget() / 5)
}

// verdictOf returns the outcome that Commit reported: "yes", "no" or "unknown".
func verdictOf(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, dcs.ErrAmbiguous):
		return "unknown"
	default:
		return "no"
	}
}

// truthful requires that the reported outcome agrees with the final one.
func (e *env) truthful(what, reported string, happened bool) {
	if reported == "yes" && !happened || reported == "no" && happened {
		e.Fatalf("%s: reported %q, and it was executed: %v", what, reported, happened)
	}
}

func lateWrite(e *env) {
	a, b := e.pair()
	// The requests of the client that are held back while the call lasts.
	held := map[string]func(Request) bool{
		"every copy of the commit":    on("Commit"),
		"the commit and its settling": func(q Request) bool { return q.Op == "Commit" || q.Op == "Settle" },
		"everything":                  func(Request) bool { return true },
	}
	a.put(e.key("warm"), "up") // the slot is made before the faults begin
	for what, when := range held {
		for _, conditional := range []bool{true, false}[:e.costly(2)] {
			k := e.key(fmt.Sprintf("%s %v", what, conditional))
			t := dcs.Txn{Then: []dcs.Write{dcs.Put(k, []byte("late"))}}
			if conditional {
				t.If = []dcs.Cond{dcs.Absent(k)}
			}
			lift := e.inject(a, Fault{Do: HoldRequest, When: when})
			var err error
			e.promptly(e.budget()+slack, "a Commit that is never answered", func() { _, err = a.Commit(e.ctx, t) })
			reported := verdictOf(err)
			lift()
			e.landed()
			e.Logf("%s held back: %v", what, err)
			if reported == "unknown" {
				reported = e.settled(a, err)
			}
			e.landed()
			e.truthful(what+" held back", reported, !b.gone(k))
		}
	}
}

// settled settles an ambiguous Commit with the store's help and returns the outcome.
func (e *env) settled(c *client, err error) string {
	for range 10 {
		var unclear *dcs.Error
		if !errors.As(err, &unclear) {
			e.Fatalf("an ambiguous Commit returned %v, which is no *dcs.Error", err)
		}
		if unclear.Fenced {
			return "unknown"
		}
		if _, err = c.Settle(e.ctx, unclear); err == nil {
			return "yes"
		}
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			e.without("dcs.Settler")
			return "unknown"
		case !errors.Is(err, dcs.ErrUnavailable):
			return "no"
		}
		e.pass(e.budget() / 10)
	}
	e.Fatalf("the Commit cannot be settled although the store answers: %v", err)
	return ""
}

// orphaned requires that a lock without a holder can be taken.
func (e *env) orphaned(c *client, lock, why string) {
	done := e.start(func() {
		h, err := c.session().Acquire(e.ctx, lock, []byte("next"))
		require.NoError(e, err)
		require.NoError(e, h.Release(e.ctx))
	})
	e.within(e.timing.TTL, done, "a lock without a holder can be taken ("+why+")")
}

func hedgedConflict(e *env) {
	a, b := e.pair()
	sa, sb := a.session(), b.session()
	a.put(e.key("warm"), "up")
	for i := range e.costly(3) {
		lock := e.key("lock", strconv.Itoa(i))
		holder := e.acquire(sb, lock, "b")
		lift := e.inject(a, Fault{Do: HoldRequest, When: commitsOf(lock), Times: 1})
		h, err := sa.TryAcquire(e.ctx, lock, []byte("a"))
		if err == nil {
			e.Fatalf("acquired with token %d while another session held the lock with token %d", h.Token(), holder.Token())
		}
		require.NoError(e, holder.Release(e.ctx))
		lift()
		e.landed()
		if verdictOf(err) == "no" && !b.gone(lock) {
			e.Fatalf("reported %q, and then the held copy was executed: the lock is renewed and has no holder", err)
		}
		e.orphaned(b, lock, "after a hedged conflict")

		// The same with a Commit without a session.
		k := e.key("k", strconv.Itoa(i))
		b.put(k, "in the way")
		lift = e.inject(a, Fault{Do: HoldRequest, When: commitsOf(k), Times: 1})
		_, err = a.Commit(e.ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(k, []byte("late"))}})
		reported := verdictOf(err)
		b.del(k)
		lift()
		e.landed()
		if reported == "unknown" {
			reported = e.settled(a, err)
		}
		e.truthful("a hedged conflict", reported, !b.gone(k))
	}
}

func conflictWithOneself(e *env) {
	a, b := e.pair()
	s := a.session()
	for _, do := range []Verb{LoseAnswer, Repeat} {
		lock := e.key("lock", fmt.Sprint(do))
		lift := e.inject(a, Fault{Do: do, When: commitsOf(lock), Times: 1})
		h, err := s.TryAcquire(e.ctx, lock, []byte("a"))
		lift()
		if err != nil {
			e.Fatalf("the first copy of the call was executed, and the call returned %v", err)
		}
		e.stillHeld(b, h, "acquired by a first copy whose answer was lost")
		require.Equal(e, s.Lease(), b.get(lock).Lease)
		require.NoError(e, h.Release(e.ctx))
		b.absent(lock, "it was released")

		k := e.key("k", fmt.Sprint(do))
		lift = e.inject(a, Fault{Do: do, When: commitsOf(k), Times: 1})
		r := a.commit(dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(k, nil)}})
		lift()
		require.Equal(e, r, b.get(k).Created, "the revision of a first copy")
	}
}

func unclearSlot(e *env) {
	a, b := e.pair()
	a.put(e.key("warm"), "up")
	k := e.key("k")
	// The commit is executed, and neither its answers nor those of its settling arrive.
	lift := e.inject(a, Fault{Do: LoseAnswer, When: func(q Request) bool { return q.Op == "Commit" && q.Touches(k) || q.Op == "Settle" }})
	_, err := a.Commit(e.ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(k, []byte("landed"))}})
	landed := b.get(k)
	reported := verdictOf(err)
	e.truthful("executed, every answer lost", reported, true)
	lift()
	for i := range 30 {
		a.put(e.key("other", strconv.Itoa(i)), "v")
	}
	if reported == "unknown" {
		reported = e.settled(a, err)
	}
	e.truthful("settled after thirty other commits", reported, true)
	require.Equal(e, landed, b.get(k))
}

func markerLost(e *env) {
	e.needs(e.s.DropBookkeeping != nil, "DropBookkeeping")
	for _, warm := range []bool{true, false} {
		a, b := e.pair()
		if warm {
			a.put(e.key("warm"), "up")
		}
		k, lock := e.key("k", a.serial), e.key("lock", a.serial)
		commit := func() error {
			_, err := a.Commit(e.ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(k, []byte("v"))}})
			return err
		}
		e.truthful("a commit whose marker vanished", e.unmarked(a, b, k, commit), !b.gone(k))
		s := a.session()
		var h *dcs.Hold
		reported := e.unmarked(a, b, lock, func() (err error) {
			h, err = s.TryAcquire(e.ctx, lock, []byte("a"))
			return err
		})
		e.truthful("an acquire whose marker vanished", reported, reported == "yes" || reported == "no" && !b.gone(lock))
		if reported == "yes" {
			e.stillHeld(b, h, "acquired, marker lost")
			require.NoError(e, h.Release(e.ctx))
		}
		e.orphaned(b, lock, "its marker was lost")
	}
}

// unmarked makes a commit of key that is executed and whose answers are lost, removes the
// bookkeeping before it is settled, and returns the reported outcome.
func (e *env) unmarked(a, b *client, key string, do func() error) string {
	lose := e.inject(a, Fault{Do: LoseAnswer, When: commitsOf(key)})
	hold := e.inject(a, Fault{Do: HoldRequest, When: on("Settle")})
	var err error
	done := e.start(func() { err = do() })
	b.await(key, e.budget()+slack, "the commit to land", func(s dcs.Snapshot) bool { return len(s.Entries) > 0 })
	e.settle()
	e.pass(e.budget() / 50)
	e.s.DropBookkeeping(e)
	lose()
	hold()
	e.within(e.budget()+slack, done, "a commit whose marker vanished returns")
	return verdictOf(err)
}
