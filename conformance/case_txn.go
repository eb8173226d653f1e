package conformance

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var txnCases = []spec{
	{Case: Case{
		Name:       "Txn/AllOrNothing",
		Rule:       "Either all conditions hold and all writes are made at one revision, or a condition fails and nothing is written.",
		Motivation: "Stores without transactions are often driven with one request for each key, and a crash between two leaves half a change.",
	}, run: allOrNothing},
	{Case: Case{
		Name:       "Txn/AbsentIsZero",
		Rule:       "Revision 0 means absent, in both fields, before the first creation and after a deletion.",
		Motivation: "A compare with version 0 means \"any version\" in some clients, so that the lock is taken from its holder.",
	}, run: absentIsZero},
	{Case: Case{
		Name:       "Txn/ReCreated",
		Rule:       "A condition with an old revision fails on a key that was deleted and re-created, even at its first version.",
		Motivation: "ZooKeeper's versions start at 0 again with every creation; Patroni's compare-and-set at version 0 was unconditional.",
	}, run: reCreated},
	{Case: Case{
		Name:       "Txn/SameValue",
		Rule:       "Writing the present value again raises the revision. Of two compare-and-sets on one revision one fails.",
		Motivation: "Consul keeps the index of a put that changes nothing, so two compare-and-sets on it both win.",
	}, run: sameValue},
	{Case: Case{
		Name:       "Txn/RevisionReturned",
		Rule:       "Commit returns the revision of its writes, for deletes too. Revisions rise over all keys and over re-creation.",
		Motivation: "If the revision is read back after the write, it may be that of another client's write, and so may the token.",
	}, run: revisionReturned},
	{Case: Case{
		Name:       "Txn/Shape",
		Rule:       "Two leases, two operations on one key, a key below another of the same Txn, or an empty Then are ErrInvalid before anything is sent.",
		Motivation: "Each store treats these differently, and some without an error: the last write of a key wins, or the first.",
	}, run: shape},
	{Case: Case{
		Name:       "Txn/BookkeepingHidden",
		Rule:       "Get, Snapshot and Wait never return markers, epochs and witnesses.",
		Motivation: "Visible bookkeeping becomes part of a user's tree, and is then deleted by a clean-up script.",
	}, run: bookkeepingHidden},
	{Case: Case{
		Name:       "Txn/ConcurrentCAS",
		Rule:       "64 clients increment one counter with compare-and-set, and no increment is lost.",
		Motivation: "The simplest test that detects a conditional write without its condition.",
	}, alone: true, run: concurrentCAS},
}

// conflict requires that t is refused by one of its conditions. It returns the entry that
// the error names, if it does.
func (c *client) conflict(t dcs.Txn, what string) (current *dcs.Entry) {
	_, err := c.Commit(c.e.ctx, t)
	return c.e.kind(err, dcs.ErrConflict, what)
}

func allOrNothing(e *env) {
	a, b := e.pair()
	k1, k2, k3 := e.key("1"), e.key("2"), e.key("3")
	r1 := a.put(k1, "one")
	both := []dcs.Write{dcs.Put(k2, []byte("two")), dcs.Put(k3, []byte("three")), dcs.Delete(k1)}
	cases := map[string][]dcs.Cond{
		"a wrong revision":          {dcs.ModifiedAt(k1, r1+1)},
		"absent, but it exists":     {dcs.Absent(k1)},
		"exists, but it is absent":  {dcs.ModifiedAt(k2, r1)},
		"one of two conditions":     {dcs.ModifiedAt(k1, r1), dcs.CreatedAt(k3, r1)},
		"the other of two":          {dcs.CreatedAt(k1, r1+1), dcs.Absent(k2)},
		"a key that is not written": {dcs.ModifiedAt(e.key("4"), 1)},
	}
	for what, conds := range cases {
		before := b.snapshot(e.prefix)
		current := a.conflict(dcs.Txn{If: conds, Then: both}, what)
		require.Equal(e, before.Entries, b.snapshot(e.prefix).Entries, "%s: something was written", what)
		if current != nil {
			require.Equal(e, b.get(current.Key), *current, "%s: Current is not the present entry", what)
		}
	}
	r := a.commit(dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt(k1, r1), dcs.Absent(k2)}, Then: both})
	s := b.snapshot(e.prefix)
	require.Equal(e, map[string]string{k2: "two", k3: "three"}, tree(s))
	for _, en := range s.Entries {
		require.Equal(e, r, en.Modified, "one Txn, one revision")
		require.Equal(e, r, en.Created)
	}
}

func absentIsZero(e *env) {
	a, b := e.pair()
	k := e.key("k")
	create := func(on dcs.Field) dcs.Txn {
		return dcs.Txn{If: []dcs.Cond{{Key: k, On: on}}, Then: []dcs.Write{dcs.Put(k, []byte("v"))}}
	}
	for round, on := range []dcs.Field{dcs.Modified, dcs.Created, dcs.Modified} {
		r := a.commit(create(on))
		b.conflict(create(dcs.Modified), fmt.Sprintf("round %d: Modified is 0 on a key at its first version", round))
		b.conflict(create(dcs.Created), fmt.Sprintf("round %d: Created is 0 on a key at its first version", round))
		if b.get(k).Modified != r {
			e.Fatalf("round %d: a refused write changed the key", round)
		}
		b.del(k)
		a.conflict(dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt(k, r)}, Then: []dcs.Write{dcs.Put(k, nil)}}, "an absent key is not at its last revision")
		a.conflict(dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(k, r)}, Then: []dcs.Write{dcs.Put(k, nil)}}, "an absent key was not created at its last token")
	}
	// A condition on an absent key, and the deletion of one.
	a.commit(dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Delete(k)}})
}

func reCreated(e *env) {
	a, b := e.pair()
	for _, rewritten := range []int{0, 1, 3} {
		k := e.key("k", strconv.Itoa(rewritten))
		old := []dcs.Revision{a.put(k, "old")}
		for range rewritten {
			old = append(old, a.put(k, "old"))
		}
		b.del(k)
		b.put(k, "new")
		for range rewritten {
			b.put(k, "new")
		}
		for _, r := range old {
			for _, cond := range []dcs.Cond{dcs.ModifiedAt(k, r), dcs.CreatedAt(k, r)} {
				what := fmt.Sprintf("%v is %d, of an earlier incarnation (version %d)", cond.On, r, rewritten)
				a.conflict(dcs.Txn{If: []dcs.Cond{cond}, Then: []dcs.Write{dcs.Put(k, []byte("wrong"))}}, what)
				a.conflict(dcs.Txn{If: []dcs.Cond{cond}, Then: []dcs.Write{dcs.Delete(k)}}, what)
			}
		}
		require.Equal(e, "new", string(b.get(k).Value))
	}
}

func sameValue(e *env) {
	a, b := e.pair()
	k := e.key("k")
	r1 := a.put(k, "same")
	r2 := a.put(k, "same")
	en := b.get(k)
	if r2 <= r1 || en.Modified != r2 || en.Created != r1 {
		e.Fatalf("written at %d and again at %d: the entry has created %d, modified %d", r1, r2, en.Created, en.Modified)
	}
	a.conflict(dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt(k, r1)}, Then: []dcs.Write{dcs.Put(k, []byte("same"))}}, "a revision that was overwritten by the same value")
	for range e.rounds(20, 200) {
		at := a.get(k).Modified
		var won atomic.Int64
		e.together(2, func(i int) {
			_, err := []*client{a, b}[i].Commit(e.ctx, dcs.Txn{If: []dcs.Cond{dcs.ModifiedAt(k, at)}, Then: []dcs.Write{dcs.Put(k, []byte("same"))}})
			if err == nil {
				won.Add(1)
				return
			}
			e.kind(err, dcs.ErrConflict, "the loser of two compare-and-sets")
		})
		if won.Load() != 1 {
			e.Fatalf("of two compare-and-sets on revision %d, %d won", at, won.Load())
		}
	}
}

func revisionReturned(e *env) {
	clients := []*client{e.open(), e.open()}
	k, other := e.key("k"), e.key("other")
	var last dcs.Revision
	step := func(i int, what string, t dcs.Txn) dcs.Revision {
		r := clients[i%2].commit(t)
		if r <= last {
			e.Fatalf("%s: revision %d after %d", what, r, last)
		}
		last = r
		if s := clients[(i+1)%2].snapshot(e.prefix); s.Revision < r {
			e.Fatalf("%s at %d: a Snapshot begun later is at %d", what, r, s.Revision)
		}
		return r
	}
	for i := range 10 {
		created := step(i, "creation", dcs.Txn{If: []dcs.Cond{dcs.Absent(k)}, Then: []dcs.Write{dcs.Put(k, []byte("a"))}})
		rewritten := step(i+1, "rewriting", dcs.Txn{Then: []dcs.Write{dcs.Put(k, []byte("b")), dcs.Put(other, []byte("b"))}})
		en := clients[i%2].get(k)
		require.Equal(e, created, en.Created, "Created is the revision of the creation")
		require.Equal(e, rewritten, en.Modified, "Modified is the revision of the last write")
		require.Equal(e, rewritten, clients[i%2].get(other).Modified)
		step(i, "another key", dcs.Txn{Then: []dcs.Write{dcs.Put(e.key("third"), nil)}})
		step(i+1, "deletion", dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(k, created)}, Then: []dcs.Write{dcs.Delete(k)}})
		step(i, "deletion of an absent key", dcs.Txn{Then: []dcs.Write{dcs.Delete(k)}})
	}
}

// misshapen has transactions that are never sent to a store.
func misshapen(e *env) map[string]dcs.Txn {
	a, b := e.key("a"), e.key("b")
	put := func(k string) dcs.Write { return dcs.Put(k, nil) }
	return map[string]dcs.Txn{
		"no write":                          {If: []dcs.Cond{dcs.Absent(a)}},
		"nothing":                           {},
		"two leases":                        {Then: []dcs.Write{dcs.PutLeased(a, nil, "1"), dcs.PutLeased(b, nil, "2")}},
		"two writes of one key":             {Then: []dcs.Write{put(a), put(a)}},
		"a write and a delete of one key":   {Then: []dcs.Write{put(a), dcs.Delete(a)}},
		"two conditions on one key":         {If: []dcs.Cond{dcs.ModifiedAt(a, 1), dcs.CreatedAt(a, 1)}, Then: []dcs.Write{put(b)}},
		"a write below another":             {Then: []dcs.Write{put(a), put(a + "/x")}},
		"a write far below another":         {Then: []dcs.Write{put(a + "/x/y/z"), put(a)}},
		"a write below a condition":         {If: []dcs.Cond{dcs.Absent(a)}, Then: []dcs.Write{put(a + "/x")}},
		"a condition below a write":         {If: []dcs.Cond{dcs.Absent(a + "/x")}, Then: []dcs.Write{put(a)}},
		"a condition below another":         {If: []dcs.Cond{dcs.Absent(a), dcs.Absent(a + "/x")}, Then: []dcs.Write{put(b)}},
		"below, with a key sorting between": {Then: []dcs.Write{put(a), put(a + "!"), put(a + "/x")}},
	}
}

func shape(e *env) {
	c, calls := e.counting()
	for what, t := range misshapen(e) {
		e.refused(calls, what, func() error { _, err := c.Commit(e.ctx, t); return err })
	}
	require.Empty(e, c.snapshot(e.prefix).Entries)
	// Near misses are allowed.
	a, b := e.key("a"), e.key("ab")
	c.commit(dcs.Txn{If: []dcs.Cond{dcs.Absent(a), dcs.Absent(b)}, Then: []dcs.Write{dcs.Put(a, nil), dcs.Put(b, nil)}})
	c.commit(dcs.Txn{If: []dcs.Cond{dcs.CreatedAt(a, c.get(a).Created)}, Then: []dcs.Write{dcs.Delete(a), dcs.Put(b, nil)}})
	l, _ := c.grant()
	c.commit(dcs.Txn{Then: []dcs.Write{dcs.PutLeased(a, nil, l.ID()), dcs.PutLeased(b, nil, l.ID()), dcs.Put(e.key("c"), nil)}})
}

func bookkeepingHidden(e *env) {
	a, b := e.pair()
	s := a.session()
	lock, member, plain := e.key("lock"), e.key("members", "a"), e.key("plain")
	h := e.acquire(s, lock, "a")
	_, err := s.Publish(e.ctx, member, []byte("m"))
	require.NoError(e, err)
	want := map[string]string{lock: "a", member: "m"}
	for i := range 10 {
		want[plain] = strconv.Itoa(i)
		a.commit(dcs.Txn{If: []dcs.Cond{h.Guard()}, Then: []dcs.Write{dcs.Put(plain, []byte(want[plain]))}})
		a.conflict(dcs.Txn{If: []dcs.Cond{dcs.Absent(plain)}, Then: []dcs.Write{dcs.Put(plain, nil)}}, "a compare-and-set that fails")
	}
	a.del(e.key("never was"))
	require.Equal(e, want, tree(b.snapshot(e.prefix)))
	whole := b.snapshot("") // wellFormed refuses reserved keys
	for k, v := range want {
		en, ok := whole.Get(k)
		require.True(e, ok, "the whole tree lacks %q", k)
		require.Equal(e, v, string(en.Value))
	}
	waited, err := b.Wait(e.ctx, "", 0)
	require.NoError(e, err)
	e.wellFormed("", waited)
	waited, err = b.Wait(e.ctx, e.prefix, 0)
	require.NoError(e, err)
	require.Equal(e, want, tree(waited))
}

func concurrentCAS(e *env) {
	const clients = 64
	each := e.rounds(1, 10)
	k := e.key("counter")
	// Each is connected before all start, because Herd/Reconnect tests many connections at
	// once.
	var stores []*client
	for range clients {
		c := e.open()
		c.put(k, "0")
		stores = append(stores, c)
	}
	var unclear atomic.Int64
	e.together(clients, func(i int) {
		c := stores[i]
		for range each {
			for {
				en, err := c.Get(e.ctx, k)
				if errors.Is(err, dcs.ErrUnavailable) { // so many may be too many for a busy machine
					continue
				}
				require.NoError(e, err, "Get")
				n, err := strconv.Atoi(string(en.Value))
				require.NoError(e, err)
				e.pause() // so that other clients write in between, in virtual time too
				_, err = c.Commit(e.ctx, dcs.Txn{
					If:   []dcs.Cond{dcs.ModifiedAt(k, en.Modified)},
					Then: []dcs.Write{dcs.Put(k, []byte(strconv.Itoa(n+1)))},
				})
				if err == nil {
					break
				}
				if errors.Is(err, dcs.ErrAmbiguous) {
					unclear.Add(1) // the increment may have been made
					break
				}
				if !errors.Is(err, dcs.ErrUnavailable) {
					e.kind(err, dcs.ErrConflict, "a compare-and-set")
				}
				// Without a pause the losers of all rounds keep the machine busy, and the
				// store serves them in step.
				e.breathe(time.Duration(e.intn(clients)) * time.Millisecond)
			}
		}
	})
	got, err := strconv.Atoi(string(e.open().get(k).Value))
	require.NoError(e, err)
	most := clients * each
	if least := most - int(unclear.Load()); got < least || got > most {
		e.Fatalf("%d clients incremented a counter %d times each: it is at %d (%d answers were unclear)", clients, each, got, unclear.Load())
	}
	e.Logf("%d of %d writes were answered ambiguous", unclear.Load(), most)
}
