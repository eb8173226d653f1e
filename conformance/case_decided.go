package conformance

import (
	"errors"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var decidedCases = []spec{
	{Case: Case{
		Name:       "Hold/Conditions",
		Rule:       "A lock is taken only if the conditions of the acquisition hold in the same Txn. The conflict names the key of the condition that failed, and Acquire does not wait for it.",
		Motivation: "A candidate decides by the cluster's configuration. If that changes between the decision and the acquisition, the wrong member leads.",
	}, run: acquireConditions},
	{Case: Case{
		Name:       "Hold/AbandonedStays",
		Rule:       "The lock of an abandoned Session stays until its lease expires. Release and Close of it delete nothing.",
		Motivation: "A manager that cannot stop its service must not give the lock away on its way out.",
	}, sleeps: true, run: abandonedStays},
	{Case: Case{
		Name:       "Wait/Many",
		Rule:       "WaitMany returns the keys of several prefixes at one revision whenever one of them differs, and at no other time. Diff returns the differences.",
		Motivation: "A program that follows thousands of keys with a Wait each costs a goroutine and a copy for each of them.",
	}, run: waitMany},
}

// refusedFor requires that err is the conflict of the condition on key.
func (e *env) refusedFor(err error, key, what string) {
	e.kind(err, dcs.ErrConflict, what)
	var typed *dcs.Error
	if errors.As(err, &typed) && typed.ConflictKey != key {
		e.Fatalf("%s: the conflict names %q, want %q: %v", what, typed.ConflictKey, key, err)
	}
}

func acquireConditions(e *env) {
	a, b := e.pair()
	s, other := a.session(), b.session()
	lock, config, failover := e.key("lock"), e.key("config"), e.key("failover")
	at := b.put(config, "1")
	decided := []dcs.Cond{dcs.ModifiedAt(config, at), dcs.CreatedAt(config+"2", b.put(config+"2", "1")), dcs.Absent(failover)}
	try := func(s *dcs.Session, what, key string) {
		_, err := s.TryAcquire(e.ctx, lock, []byte("x"), decided...)
		e.refusedFor(err, key, "TryAcquire "+what)
	}
	h, err := s.TryAcquire(e.ctx, lock, []byte("a"), decided...)
	require.NoError(e, err)
	try(other, "of a held lock", lock)
	b.put(config+"2", "2") // the same incarnation
	b.put(failover, "b")
	try(other, "of a held lock, if an existing key is absent", failover)
	require.NoError(e, h.Release(e.ctx))
	try(other, "if an existing key is absent", failover)
	_, err = other.Acquire(e.ctx, lock, []byte("b"), decided...)
	e.refusedFor(err, failover, "Acquire if an existing key is absent")
	b.del(failover)
	b.put(config, "1")
	try(s, "against an older revision", config)
	b.del(config)
	try(s, "against a deleted key", config)
	b.absent(lock, "it was refused")
	decided[0] = dcs.Absent(config)
	h, err = other.Acquire(e.ctx, lock, []byte("b"), decided...)
	require.NoError(e, err)
	e.stillHeld(a, h, "acquired with conditions that hold")
}

func abandonedStays(e *env) {
	a, b := e.pair()
	defer e.keepLease(b)()
	s, lock := a.session(), e.key("lock")
	h := e.acquire(s, lock, "a")
	require.NoError(e, h.Confirm(e.ctx))
	answered := time.Now()
	s.Abandon()
	r := s.Granted()
	e.ended(h, slack, dcs.ErrReleased, "its session was abandoned")
	e.kind(h.Release(e.ctx), dcs.ErrReleased, "Release after Abandon")
	e.kind(s.Close(e.ctx), dcs.ErrReleased, "Close after Abandon")
	_, err := b.session().TryAcquire(e.ctx, lock, []byte("b"))
	e.refusedFor(err, lock, "TryAcquire of an abandoned lock")
	e.runsOut(b, lock, r, answered)
}

func waitMany(e *env) {
	a, b := e.pair()
	in, also, out := e.key("in"), e.key("also", "this"), e.key("out")
	a.commit(dcs.Txn{Then: []dcs.Write{dcs.Put(in+"/x", nil), dcs.Put(in+"/y", nil), dcs.Put(also, nil), dcs.Put(out, nil)}})
	last, err := b.SnapshotMany(e.ctx, also, in)
	require.NoError(e, err)
	require.Len(e, last.Entries, 3)
	for _, step := range []struct {
		what    string
		change  dcs.Write
		changed string
	}{
		{"a key below a prefix", dcs.Put(in+"/z", nil), in + "/z"},
		{"a prefix that is a key", dcs.Put(also, []byte("v")), also},
		{"a deletion", dcs.Delete(in + "/x"), in + "/x"},
	} {
		var next dcs.Snapshot
		done := e.start(func() { next, err = b.WaitMany(e.ctx, last, in, also) })
		a.put(out, step.what) // wakes nobody
		e.pass(20 * time.Millisecond)
		at := a.commit(dcs.Txn{Then: []dcs.Write{step.change}})
		e.within(e.budget()+slack, done, step.what+" wakes WaitMany")
		require.NoError(e, err, step.what)
		e.wellFormed("", next)
		changes := next.Diff(last)
		if len(changes) != 1 || changes[0].Key() != step.changed || next.Revision < at {
			e.Fatalf("%s: WaitMany returned at %d with %d changes, want the one of %q at %d", step.what, next.Revision, len(changes), step.changed, at)
		}
		last = next
	}
}
