package conformance

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var contestCases = []spec{
	{Case: Case{
		Name:       "Hold/SameName",
		Rule:       "Two processes with one member name never both hold a lock. Publish reports the displaced lease. The displaced process neither writes its key back nor loses its Session (P19).",
		Motivation: "After a restart under the same name, or with a copied configuration, two processes overwrite each other's key for ever.",
	}, sleeps: true, run: sameName},
	{Case: Case{
		Name:       "Hold/HandoverIsPrompt",
		Rule:       "After Release the waiting contender holds the lock within the time of five commits, whether it waited for 15 ms or for 5 s.",
		Motivation: "etcd's election took 80 ms while its watcher was not in step, and polling contenders need up to their interval.",
	}, alone: true, run: handoverIsPrompt},
	{Case: Case{
		Name:       "Hold/WaiterGivesUp",
		Rule:       "Acquire ends with its context's error and leaves no lock behind; a waiter behind it gets the lock.",
		Motivation: "A contender that gave up, and whose request is executed later, holds a lock that no program renews or releases.",
	}, run: waiterGivesUp},
}

func sameName(e *env) {
	a, b := e.pair()
	first, second := a.session(), b.session()
	member, lock := e.key("members", "x"), e.key("leader")
	displaced, err := first.Publish(e.ctx, member, []byte("x at 1"))
	require.NoError(e, err)
	require.Empty(e, displaced, "no lease was displaced")
	h := e.acquire(first, lock, "x")

	displaced, err = second.Publish(e.ctx, member, []byte("x at 2"))
	require.NoError(e, err, "a session's first Publish takes the key over")
	require.Equal(e, first.Lease(), displaced, "the displaced lease")
	_, err = second.TryAcquire(e.ctx, lock, []byte("x"))
	e.kind(err, dcs.ErrConflict, "TryAcquire under the holder's own name")
	taken := b.get(member)
	require.Equal(e, second.Lease(), taken.Lease)

	e.pass(3*e.renewEvery() + e.budget())
	en := a.get(member)
	require.Equal(e, taken, en, "the displaced session wrote its key again")
	e.stillHeld(b, h, "the displaced session's lock")
	require.Nil(e, first.Err(), "the displaced session has ended")
	reported := slices.ContainsFunc(a.events(), func(ev dcs.StateEvent) bool { return ev.Displaced && ev.Key == member })
	require.True(e, reported, "the displaced session has not reported it: %+v", a.events())
	_, err = first.Publish(e.ctx, member, []byte("x at 1"))
	e.kind(err, dcs.ErrConflict, "a later Publish of the displaced session")
	_, err = second.Publish(e.ctx, member, []byte("x at 2, again"))
	require.NoError(e, err)
	require.Equal(e, taken.Created, a.get(member).Created, "a later Publish keeps the entry")

	require.NoError(e, first.Close(e.ctx))
	require.Equal(e, "x at 2, again", string(b.get(member).Value), "the end of the displaced session removed the key")
	b.absent(lock, "its session was closed")
	require.NotZero(e, e.acquire(second, lock, "x").Token())
}

// commitTime returns the longest time of a few commits made now.
func (c *client) commitTime() time.Duration {
	var worst time.Duration
	for range 20 {
		begin := time.Now()
		c.put(c.e.key("timed"), "x")
		worst = max(worst, time.Since(begin))
	}
	return worst
}

func handoverIsPrompt(e *env) {
	a, b := e.pair()
	holders := []*dcs.Session{a.session(), b.session()}
	const n = 3
	var held [n]*dcs.Hold
	for i := range held {
		held[i] = e.acquire(holders[0], e.key("lock", strconv.Itoa(i)), "0")
	}
	waits := []time.Duration{15 * time.Millisecond, 15 * time.Millisecond, 300 * time.Millisecond, 5 * time.Second}
	for round, waited := range waits {
		var next [n]*dcs.Hold
		var got [n]time.Time
		var dones [n]<-chan struct{}
		for i := range held {
			dones[i] = e.start(func() {
				var err error
				next[i], err = holders[(round+1)%2].Acquire(e.ctx, held[i].Key(), []byte("next"))
				got[i] = time.Now()
				require.NoError(e, err)
			})
		}
		e.pass(waited)
		limit := 5*b.commitTime() + slack/4 // the rest is for this machine's scheduling
		var took []time.Duration
		for i := range held {
			released := time.Now()
			require.NoError(e, held[i].Release(e.ctx))
			e.within(e.budget()+slack, dones[i], "the waiting contender holds")
			took = append(took, got[i].Sub(released))
		}
		held = next
		e.Logf("after %v of waiting: %v; five commits take %v", waited, took, limit-slack/4)
		// The median of three, because a delay of the machine may affect one of them, but a
		// contender that polls is late every time.
		slices.Sort(took)
		if took[1] < 0 || took[1] > limit {
			e.Fatalf("contenders that had waited for %v got the lock %v after its Release began; five commits take %v", waited, took, limit-slack/4)
		}
	}
}

func waiterGivesUp(e *env) {
	a, b := e.pair()
	third := e.open()
	sa, sb, sc := a.session(), b.session(), third.session()
	lock := e.key("lock")
	h := e.acquire(sa, lock, "a")
	ctx, cancel := context.WithCancel(e.ctx)
	var err error
	gaveUp := e.start(func() { _, err = sb.Acquire(ctx, lock, []byte("b")) })
	var got *dcs.Hold
	waits := e.start(func() {
		var err error
		got, err = sc.Acquire(e.ctx, lock, []byte("c"))
		require.NoError(e, err)
	})
	e.pass(50 * time.Millisecond)
	cancel()
	e.within(e.budget()+slack, gaveUp, "Acquire ends with its context")
	require.ErrorIs(e, err, context.Canceled)
	require.NoError(e, h.Release(e.ctx))
	e.within(e.budget()+slack, waits, "the one behind gets the lock")
	e.stillHeld(a, got, "the lock of the one behind")
}
