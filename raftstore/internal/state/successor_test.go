package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// succeed returns the state that follows f in another incarnation.
func succeed(t *testing.T, f *FSM, index, term uint64) *FSM {
	t.Helper()
	s, err := f.Successor(theirs, index, term)
	require.NoError(t, err)
	next := New()
	require.NoError(t, restore(next, persisted(t, s)))
	return next
}

func TestSuccessorKeepsKeys(t *testing.T) {
	l := sample(t)
	before := l.f.tree.Dump()
	next := succeed(t, l.f, 1<<40, 9)
	require.Equal(t, theirs, next.Incarnation())
	require.Equal(t, uint64(1<<40), next.Applied())
	require.Equal(t, dcs.Revision(1<<40), next.tree.Revision())
	require.Equal(t, uint64(9), next.term.Load())
	require.Equal(t, l.f.Level(), next.Level())
	after := next.tree.Dump()
	require.Len(t, after.Entries, len(before.Entries))
	for i, e := range before.Entries {
		got := after.Entries[i]
		require.Equal(t, e.Lease == "", got.Lease == "")
		e.Lease, got.Lease = "", ""
		require.Equal(t, e, got)
	}
	keys, leases, longest := next.Summary()
	require.Equal(t, []any{2, 1, time.Minute}, []any{keys, leases, longest})
	require.Equal(t, before, l.f.tree.Dump(), "the state itself was changed")
}

// A session of the earlier incarnation cannot renew its lease: the new one does
// not know the name. The lock stays taken until the lease ends.
func TestSuccessorRenamesLeases(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	seq := uint64(0)
	add := func(c Command) {
		seq++
		c.Client, c.Seq, c.Low = client, seq, seq
		l.add(c)
	}
	for i := range 12 {
		id := dcs.LeaseID(fmt.Sprint("l", i))
		add(Command{Kind: KindGrant, Lease: id, TTL: time.Duration(i+1) * time.Second})
		add(Command{Kind: KindTxn, Txn: dcs.Txn{Then: []dcs.Write{dcs.PutLeased(fmt.Sprint("k", i), nil, id)}}})
	}
	first := succeed(t, l.f, 1000, 2)
	for i := range 12 {
		id := dcs.LeaseID(fmt.Sprint("l", i))
		require.False(t, first.tree.Live(id))
		e, ok := first.tree.Get(fmt.Sprint("k", i))
		require.True(t, ok)
		require.True(t, first.tree.Live(e.Lease))
		require.Equal(t, time.Duration(i+1)*time.Second, first.ttls[e.Lease])
		require.NoError(t, checkLease(e.Lease))
	}
	// Of a second successor they are not those of the first one.
	s, err := first.Successor(ours, 2000, 3)
	require.NoError(t, err)
	second := New()
	require.NoError(t, restore(second, persisted(t, s)))
	for id := range first.ttls {
		require.False(t, second.tree.Live(id))
	}
	require.Len(t, second.ttls, 12)
	// The end of a lease ends its key.
	e, _ := second.tree.Get("k3")
	second.end(e.Lease, 2001)
	_, ok := second.tree.Get("k3")
	require.False(t, ok)
}

// P15: a command of an earlier incarnation is not applied by a later one,
// whether it was applied before or not.
func TestP15SuccessorForgetsClients(t *testing.T) {
	l := newTestLog(t)
	client := l.open()
	next := succeed(t, l.f, 1000, 2)
	require.Empty(t, next.clients.byID)
	var got Result
	next.OnApply = func(_ *Command, _, _ uint64, r Result) { got = r }
	c := Command{Kind: KindTxn, Client: client, Seq: 1, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("late", nil)}}}
	next.Apply(&raft.Log{Index: 1001, Term: 2, Type: raft.LogCommand, Data: c.Encode()})
	require.Equal(t, StatusUnknownClient, got.Status)
	_, ok := next.tree.Get("late")
	require.False(t, ok)
}

func TestSuccessorBeginsLater(t *testing.T) {
	l := sample(t)
	_, err := l.f.Successor(theirs, l.f.Applied(), 9)
	require.ErrorContains(t, err, "cannot begin again")
	l.f.fail(fmt.Errorf("broken"))
	_, err = l.f.Successor(theirs, 1000, 9)
	require.ErrorContains(t, err, "broken")
}
