package conformance

import (
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var bindingCases = []spec{
	{Case: Case{
		Name:       "Txn/BindingIsAsWritten",
		Rule:       "A plain put unbinds, a leased put binds. The end of the lease removes exactly the keys that are bound to it.",
		Motivation: "In etcd a plain put detaches the lease, in ZooKeeper an ephemeral node stays ephemeral after every write.",
	}, run: bindingIsAsWritten},
	{Case: Case{
		Name:       "Txn/Guarded",
		Rule:       "A write guarded by a Hold fails once the lock was released, lost or re-taken, by the same owner too, and passes after the Hold's own value was rewritten or moved to a fresh lease.",
		Motivation: "A guard on the last modification fails after the holder's own update; a guard on the owner's name passes for the owner's next term.",
	}, run: guarded},
	{Case: Case{
		Name:       "Txn/DeadLease",
		Rule:       "A put bound to a lease that ended is ErrLost, and nothing of its Txn is written (P14).",
		Motivation: "A lock key that is written under an ended lease never ends, or vanishes at once. Its owner expects neither.",
	}, run: deadLease},
	{Case: Case{
		Name:       "Lease/Rebind",
		Rule:       "With Caps.Rebind, keys move to a fresh lease atomically and keep their Created, and the end of the old lease has no effect on them. Without it, a changed binding re-creates the entry.",
		Motivation: "The spare lease of a session depends on it. A token that changes with the move is a change of the leadership.",
	}, run: rebind},
}

// bind writes k bound to l.
func (c *client) bind(k, value string, l dcs.Lease) dcs.Revision {
	return c.commit(dcs.Txn{Then: []dcs.Write{dcs.PutLeased(k, []byte(value), l.ID())}})
}

func (c *client) revoke(l dcs.Lease) {
	require.NoError(c.e, l.Revoke(c.e.ctx), "Revoke")
}

func bindingIsAsWritten(e *env) {
	a, b := e.pair()
	l, _ := a.grant()
	other, _ := b.grant()
	bound, plain, unbound, bindLater, theirs := e.key("bound"), e.key("plain"), e.key("unbound"), e.key("bind later"), e.key("theirs")
	a.commit(dcs.Txn{Then: []dcs.Write{dcs.PutLeased(bound, []byte("1"), l.ID()), dcs.PutLeased(unbound, []byte("1"), l.ID()), dcs.Put(plain, []byte("1"))}})
	b.bind(theirs, "1", other)
	a.put(bindLater, "1")
	require.Equal(e, l.ID(), b.get(bound).Lease)
	require.Empty(e, b.get(plain).Lease)
	require.Empty(e, b.get(bindLater).Lease)

	a.put(unbound, "2")
	require.Empty(e, b.get(unbound).Lease, "a plain put unbinds")
	a.bind(bindLater, "2", l)
	require.Equal(e, l.ID(), b.get(bindLater).Lease, "a leased put binds")

	a.revoke(l)
	require.Equal(e, map[string]string{plain: "1", unbound: "2", theirs: "1"}, tree(b.snapshot(e.prefix)),
		"the end of the lease must remove exactly the bound keys")
	require.Equal(e, other.ID(), a.get(theirs).Lease)
}

// fenced is a write of k under guard.
func fenced(guard dcs.Cond, k string) dcs.Txn {
	return dcs.Txn{If: []dcs.Cond{guard}, Then: []dcs.Write{dcs.Put(k, []byte("fenced"))}}
}

func guarded(e *env) {
	a, b := e.pair()
	lock, k := e.key("lock"), e.key("k")
	s := a.session()
	h := e.acquire(s, lock, "a")
	guard := h.Guard()
	require.Equal(e, dcs.CreatedAt(lock, h.Token()), guard)
	a.commit(fenced(guard, k))
	b.commit(fenced(guard, k)) // the store checks the guard, whichever client states it
	for range 3 {
		require.NoError(e, h.Update(e.ctx, []byte("a, updated")))
		a.commit(fenced(guard, k))
	}
	require.Equal(e, "a, updated", string(b.get(lock).Value))
	require.Equal(e, h.Token(), b.get(lock).Created, "Update changes the token")
	require.Equal(e, s.Lease(), b.get(lock).Lease, "Update keeps the binding")

	require.NoError(e, h.Release(e.ctx))
	b.conflict(fenced(guard, k), "the lock was released")
	again := e.acquire(s, lock, "a")
	b.conflict(fenced(guard, k), "the lock was re-taken by the same owner")
	b.commit(fenced(again.Guard(), k))
	b.del(lock)
	b.conflict(fenced(again.Guard(), k), "the lock was deleted")
	guardedLease(e, a, b, k)
}

// guardedLease is the same for a lease without a session. The lock is lost with the lease,
// and kept by a move.
func guardedLease(e *env, a, b *client, k string) {
	lock := e.key("lock of a bare lease")
	l, _ := a.grant()
	token := a.bind(lock, "a", l)
	a.commit(fenced(dcs.CreatedAt(lock, token), k))
	if a.Caps().Rebind {
		fresh, _ := a.grant()
		a.commit(dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(lock, token)}, Then: []dcs.Write{dcs.PutLeased(lock, []byte("a"), fresh.ID())}})
		a.revoke(l)
		b.commit(fenced(dcs.CreatedAt(lock, token), k))
		l = fresh
	}
	a.revoke(l)
	b.conflict(fenced(dcs.CreatedAt(lock, token), k), "the lock has ended with its lease")
	l, _ = a.grant()
	a.bind(lock, "a", l)
	b.conflict(fenced(dcs.CreatedAt(lock, token), k), "the lock was created again")
}

func deadLease(e *env) {
	a, b := e.pair()
	e.Cleanup(e.keepLease(b))
	revoked, _ := a.grant()
	bound := e.key("bound")
	a.bind(bound, "v", revoked)
	a.revoke(revoked)
	b.absent(bound, "its lease was revoked")
	expired, r := a.grantFor(e.shortTTL(a))
	a.bind(bound, "v", expired)
	b.awaitGone(bound, r.Expiry+expiryGrace)
	before := b.snapshot(e.prefix)
	for what, l := range map[string]dcs.Lease{"revoked": revoked, "expired": expired} {
		_, err := a.Commit(e.ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(e.key("dead"), nil, l.ID()), dcs.Put(e.key("plain"), nil)}})
		e.kind(err, dcs.ErrLost, "a put bound to a lease that "+what)
		_, err = b.Commit(e.ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent(e.key("dead"))}, Then: []dcs.Write{dcs.PutLeased(e.key("dead"), nil, l.ID())}})
		if dcs.KindOf(err) != dcs.ErrInvalid { //nolint:errorlint // if only its own Store can use a lease
			e.kind(err, dcs.ErrLost, "the same by another client, lease "+what)
		}
	}
	require.Equal(e, before.Entries, b.snapshot(e.prefix).Entries, "something was written under a dead lease")
}

func rebind(e *env) {
	a, b := e.pair()
	from, _ := a.grant()
	to, _ := a.grant()
	k1, k2 := e.key("1"), e.key("2")
	token := a.commit(dcs.Txn{Then: []dcs.Write{dcs.PutLeased(k1, []byte("v"), from.ID()), dcs.PutLeased(k2, []byte("v"), from.ID())}})
	moved := a.commit(dcs.Txn{
		If:   []dcs.Cond{dcs.CreatedAt(k1, token), dcs.CreatedAt(k2, token)},
		Then: []dcs.Write{dcs.PutLeased(k1, []byte("v"), to.ID()), dcs.PutLeased(k2, []byte("v"), to.ID())},
	})
	want := moved
	if a.Caps().Rebind {
		want = token
	}
	for _, k := range []string{k1, k2} {
		en := b.get(k)
		require.Equal(e, to.ID(), en.Lease)
		require.Equal(e, moved, en.Modified)
		require.Equal(e, want, en.Created, "Created after a move, with Caps.Rebind = %v", a.Caps().Rebind)
	}
	a.revoke(from)
	require.Len(e, b.snapshot(e.prefix).Entries, 2, "ending the old lease touched a key that had moved")
	a.revoke(to)
	require.Empty(e, b.snapshot(e.prefix).Entries)
}
