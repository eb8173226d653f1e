package kvtree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func put(t *testing.T, tr *Tree, rev dcs.Revision, w ...dcs.Write) {
	t.Helper()
	require.NoError(t, tr.Commit(rev, dcs.Txn{Then: w}, Options{Rebind: true}))
}

func TestConditions(t *testing.T) {
	tr := New()
	put(t, tr, 5, dcs.Put("a", []byte("1")))
	put(t, tr, 6, dcs.Put("a", []byte("1")))
	e, ok := tr.Get("a")
	require.True(t, ok)
	require.Equal(t, dcs.Entry{Key: "a", Value: []byte("1"), Created: 5, Modified: 6}, e)

	for _, c := range []struct {
		cond dcs.Cond
		ok   bool
	}{
		{dcs.ModifiedAt("a", 6), true},
		{dcs.ModifiedAt("a", 5), false},
		{dcs.CreatedAt("a", 5), true},
		{dcs.CreatedAt("a", 6), false},
		{dcs.Absent("a"), false},
		{dcs.Absent("b"), true},
		{dcs.CreatedAt("b", 0), true},
		{dcs.ModifiedAt("b", 1), false},
	} {
		err := tr.Check([]dcs.Cond{c.cond})
		if c.ok {
			require.NoError(t, err, "%+v", c.cond)
			continue
		}
		var conflict *Conflict
		require.ErrorAs(t, err, &conflict, "%+v", c.cond)
		require.Equal(t, c.cond, conflict.Cond)
		require.Equal(t, c.cond.Key == "a", conflict.Current != nil)
	}
}

func TestRefusedWritesNothing(t *testing.T) {
	tr := New()
	require.True(t, tr.Grant("l"))
	put(t, tr, 1, dcs.Put("a/b", nil))
	for name, x := range map[string]dcs.Txn{
		"condition":   {If: []dcs.Cond{dcs.Absent("a/b")}, Then: []dcs.Write{dcs.Put("x", nil)}},
		"dead lease":  {Then: []dcs.Write{dcs.Put("x", nil), dcs.PutLeased("y", nil, "gone")}},
		"key below":   {Then: []dcs.Write{dcs.Put("x", nil), dcs.Put("a/b/c", nil)}},
		"key above":   {Then: []dcs.Write{dcs.Put("x", nil), dcs.Put("a", nil)}},
		"after a put": {If: []dcs.Cond{dcs.ModifiedAt("a/b", 9)}, Then: []dcs.Write{dcs.Delete("a/b")}},
	} {
		require.Error(t, tr.Commit(tr.Revision()+1, x, Options{}), name)
		require.Len(t, tr.Snapshot("").Entries, 1, name)
		require.False(t, tr.MovedSince("", 1), name)
	}
	require.ErrorIs(t, tr.Commit(9, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("y", nil, "gone")}}, Options{}), ErrLease)
	require.ErrorIs(t, tr.Commit(10, dcs.Txn{Then: []dcs.Write{dcs.Put("a", nil)}}, Options{}), ErrNested)
	require.Equal(t, dcs.Revision(10), tr.Revision(), "a refusal still moves the position")
}

func TestBindingIsAsWritten(t *testing.T) {
	tr := New()
	tr.Grant("l")
	tr.Grant("m")
	put(t, tr, 1, dcs.PutLeased("a", nil, "l"), dcs.PutLeased("b", nil, "l"), dcs.PutLeased("c", nil, "l"))
	put(t, tr, 2, dcs.Put("b", nil))            // unbinds
	put(t, tr, 3, dcs.PutLeased("c", nil, "m")) // moves
	require.ElementsMatch(t, []string{"a"}, tr.Bound("l"))
	require.Equal(t, []string{"a"}, tr.EndLease(4, "l"))
	require.Nil(t, tr.EndLease(5, "l"), "the lease had ended")
	require.False(t, tr.Live("l"))
	_, ok := tr.Get("b")
	require.True(t, ok)
	c, _ := tr.Get("c")
	require.Equal(t, dcs.Revision(1), c.Created, "a move keeps the incarnation")
	require.NoError(t, tr.Commit(6, dcs.Txn{Then: []dcs.Write{dcs.Put("c", nil)}}, Options{}))
	c, _ = tr.Get("c")
	require.Equal(t, dcs.Revision(6), c.Created, "without Rebind a changed binding re-creates")
	require.NoError(t, tr.Commit(7, dcs.Txn{Then: []dcs.Write{dcs.Put("c", nil)}}, Options{}))
	c, _ = tr.Get("c")
	require.Equal(t, dcs.Revision(6), c.Created, "without Rebind an unchanged binding keeps the incarnation")
}

func TestPrefixIsAPathNotAString(t *testing.T) {
	tr := New()
	put(t, tr, 1, dcs.Put("members/a", nil), dcs.Put("members/ab", nil), dcs.Put("members/a-", nil), dcs.Put("z/a/b", nil))
	require.Len(t, tr.Snapshot("members/a").Entries, 1)
	require.Len(t, tr.Snapshot("members").Entries, 3)
	require.Len(t, tr.Snapshot("z").Entries, 1)
	require.Empty(t, tr.Snapshot("mem").Entries)
	watch := tr.Watch("members/a")
	defer watch.Stop()
	ch := watch.Moved()
	put(t, tr, 2, dcs.Put("members/ab", nil))
	select {
	case <-ch:
		t.Fatal("woken by another key")
	default:
	}
	put(t, tr, 3, dcs.Delete("members/a"))
	<-ch
	require.True(t, tr.MovedSince("members/a", 2))
	require.False(t, tr.MovedSince("members/a", 3))
}

func TestForgettingOnlyWakesTooOften(t *testing.T) {
	tr := New()
	tr.maxMoved = 10
	put(t, tr, 1, dcs.Put("keep", nil))
	for rev := dcs.Revision(2); rev < 500; rev += 2 {
		k := fmt.Sprintf("gone/%d", rev)
		put(t, tr, rev, dcs.Put(k, nil))
		put(t, tr, rev+1, dcs.Delete(k))
		require.True(t, tr.MovedSince(k, rev), "a deletion was forgotten")
	}
	require.LessOrEqual(t, len(tr.moved), 10+4*2+3, "the records are bounded")
}

func TestLoadRefusesAnUnboundLease(t *testing.T) {
	tr := New()
	put(t, tr, 1, dcs.Put("a", nil))
	err := tr.Load(State{Revision: 9, Entries: []dcs.Entry{{Key: "x", Lease: "gone"}}})
	require.ErrorContains(t, err, "gone")
	require.Equal(t, dcs.Revision(1), tr.Revision())
	require.Len(t, tr.Snapshot("").Entries, 1)
}

// The position never falls. It moves with every change, the end of a lease
// included.
func TestPositionOnlyRises(t *testing.T) {
	tr := New()
	tr.Grant("l")
	put(t, tr, 1, dcs.PutLeased("a", nil, "l"))
	tr.EndLease(4, "l")
	require.Equal(t, dcs.Revision(4), tr.Revision())
	require.True(t, tr.MovedSince("a", 3))
	tr.Advance(3)
	require.Equal(t, dcs.Revision(4), tr.Revision())
	tr.Follow(2, nil, nil)
	require.Equal(t, dcs.Revision(4), tr.Revision())
}

func TestEndedLeaseReturnsItsKeysSorted(t *testing.T) {
	tr := New()
	tr.Grant("l")
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		put(t, tr, dcs.Revision(i+1), dcs.PutLeased(keys[i], nil, "l"))
	}
	require.Equal(t, keys, tr.EndLease(30, "l"))
}

func TestLoadWakesEveryWaiter(t *testing.T) {
	tr := New()
	put(t, tr, 1, dcs.Put("a", nil))
	moved := tr.Watch("z").Moved()
	require.NoError(t, tr.Load(tr.Dump()))
	select {
	case <-moved:
	default:
		t.Fatal("a waiter on a prefix without a change is not woken")
	}
}

func TestConflictIsACopy(t *testing.T) {
	tr := New()
	put(t, tr, 1, dcs.Put("a", nil))
	var c *Conflict
	require.ErrorAs(t, tr.Check([]dcs.Cond{dcs.Absent("a")}), &c)
	c.Current.Modified = 99
	e, _ := tr.Get("a")
	require.Equal(t, dcs.Revision(1), e.Modified)
}

// model is a naive Tree of maps that scans them for every call.
type model struct {
	keys   map[string]dcs.Entry
	leases map[dcs.LeaseID]bool
	last   map[string]dcs.Revision // per key, deletions included
}

func (m *model) commit(rev dcs.Revision, x dcs.Txn) bool {
	for _, c := range x.If {
		is := m.keys[c.Key].Modified
		if c.On == dcs.Created {
			is = m.keys[c.Key].Created
		}
		if is != c.Is {
			return false
		}
	}
	for _, w := range x.Then {
		if w.Delete {
			continue
		}
		if w.Lease != "" && !m.leases[w.Lease] {
			return false
		}
		for k := range m.keys {
			if k != w.Key && (dcs.Under(k, w.Key) || dcs.Under(w.Key, k)) {
				return false
			}
		}
	}
	for _, w := range x.Then {
		old, had := m.keys[w.Key]
		if w.Delete {
			if had {
				delete(m.keys, w.Key)
				m.last[w.Key] = rev
			}
			continue
		}
		e := dcs.Entry{Key: w.Key, Value: w.Value, Created: rev, Modified: rev, Lease: w.Lease}
		if had {
			e.Created = old.Created
		}
		m.keys[w.Key] = e
		m.last[w.Key] = rev
	}
	return true
}

func (m *model) end(rev dcs.Revision, l dcs.LeaseID) {
	for k, e := range m.keys {
		if e.Lease == l {
			delete(m.keys, k)
			m.last[k] = rev
		}
	}
	delete(m.leases, l)
}

func (m *model) snapshot(prefix string) []dcs.Entry {
	var out []dcs.Entry
	for k, e := range m.keys {
		if dcs.Under(prefix, k) {
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

func (m *model) moved(prefix string, since dcs.Revision) bool {
	if since == 0 {
		return true
	}
	for k, r := range m.last {
		if r > since && dcs.Under(prefix, k) {
			return true
		}
	}
	return false
}

// TestAgainstModel walks a Tree and the naive model through the same random
// changes, with a Dump and Load now and then.
func TestAgainstModel(t *testing.T) {
	keys := []string{"a", "a/b", "a/b/c", "a/d", "ab", "b", "b/x", "b-", "c d/e%"}
	prefixes := append([]string{"", "a/b/c/d", "zzz"}, keys...)
	leases := []dcs.LeaseID{"", "l1", "l2", "l3"}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr := New()
		m := &model{keys: map[string]dcs.Entry{}, leases: map[dcs.LeaseID]bool{}, last: map[string]dcs.Revision{}}
		loaded := dcs.Revision(0)
		for rev := dcs.Revision(1); rev < 400; rev++ {
			switch l := leases[1+r.IntN(3)]; r.IntN(12) {
			case 0:
				require.Equal(t, !m.leases[l], tr.Grant(l))
				m.leases[l] = true
			case 1:
				tr.EndLease(rev, l)
				m.end(rev, l)
			case 2:
				state := tr.Dump()
				tr = New()
				require.NoError(t, tr.Load(state))
				loaded = state.Revision
			default:
				x := randomTxn(r, m, keys, leases, rev)
				require.Equal(t, m.commit(rev, x), tr.Commit(rev, x, Options{Rebind: true}) == nil, "seed %d rev %d %+v", seed, rev, x)
			}
			tr.Advance(rev)
			for _, p := range prefixes {
				got := tr.Snapshot(p)
				require.Equal(t, rev, got.Revision)
				requireEntries(t, m.snapshot(p), got.Entries)
				since := dcs.Revision(r.Uint64N(uint64(rev) + 1))
				if since >= loaded {
					require.Equal(t, m.moved(p, since), tr.MovedSince(p, since), "seed %d rev %d prefix %q since %d", seed, rev, p, since)
				} else {
					require.True(t, tr.MovedSince(p, since), "older than the records, so it must return true")
				}
			}
		}
	}
}

func randomTxn(r *rand.Rand, m *model, keys []string, leases []dcs.LeaseID, rev dcs.Revision) dcs.Txn {
	var x dcs.Txn
	k := keys[r.IntN(len(keys))]
	switch e := m.keys[k]; r.IntN(4) {
	case 0:
		x.If = append(x.If, dcs.ModifiedAt(k, e.Modified))
	case 1:
		x.If = append(x.If, dcs.CreatedAt(k, e.Created))
	case 2:
		x.If = append(x.If, dcs.ModifiedAt(k, dcs.Revision(r.Uint64N(uint64(rev)))))
	}
	w := dcs.Write{Key: k, Value: fmt.Append(nil, rev), Lease: leases[r.IntN(len(leases))]}
	if r.IntN(3) == 0 {
		w = dcs.Delete(k)
	}
	x.Then = append(x.Then, w)
	if o := keys[r.IntN(len(keys))]; !dcs.Under(o, k) && !dcs.Under(k, o) {
		x.Then = append(x.Then, dcs.Put(o, []byte("second")))
	}
	return x
}

func requireEntries(t *testing.T, want, got []dcs.Entry) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i].Key, got[i].Key)
		require.True(t, bytes.Equal(want[i].Value, got[i].Value))
		require.Equal(t, want[i].Created, got[i].Created)
		require.Equal(t, want[i].Modified, got[i].Modified)
		require.Equal(t, want[i].Lease, got[i].Lease)
	}
}

func TestFollow(t *testing.T) {
	tree := New()
	tree.CopyFrom(5, []dcs.Entry{{Key: "a/b", Modified: 3, Created: 2, Lease: "L"}, {Key: "c", Modified: 5, Created: 5}})
	require.True(t, tree.MovedSince("a", 4), "earlier changes are unknown")
	require.False(t, tree.MovedSince("a", 5))
	moved := tree.Watch("a").Moved()
	tree.Follow(7, []dcs.Entry{{Key: "a/b", Modified: 6, Created: 2}}, []string{"c"})
	<-moved
	require.True(t, tree.MovedSince("a", 5))
	require.True(t, tree.MovedSince("c", 6))
	s := tree.Snapshot("")
	require.Equal(t, dcs.Revision(7), s.Revision)
	require.Equal(t, []dcs.Entry{{Key: "a/b", Modified: 6, Created: 2}}, s.Entries)
	tree.Follow(8, nil, []string{"a/b"})
	require.Empty(t, tree.Snapshot("").Entries)
}
