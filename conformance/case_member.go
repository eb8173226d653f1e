package conformance

import (
	"fmt"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

var memberCases = []spec{
	{Case: Case{
		Name:   "Member/LeaseBound",
		Rule:   "A published key is bound to the session's lease and goes with it.",
		Learnt: "Member keys without a lease list machines that were scrapped last year.",
	}, run: memberLeaseBound},
	{Case: Case{
		Name:   "Member/UnchangedNotRewritten",
		Rule:   "Publishing the value that is there already writes nothing; a changed value keeps the entry's Created.",
		Learnt: "Every write of a member key wakes every watcher of the cluster, once a loop and member.",
	}, run: unchangedNotRewritten},
	{Case: Case{
		Name:   "Member/ReadOnlyClientTouchesNothing",
		Rule:   "A client that only lists creates no lease and no bookkeeping, and touches no lock, under the holder's own name too.",
		Learnt: "A monitoring script that joins the cluster by looking at it.",
	}, run: readOnlyTouchesNothing},
}

func memberLeaseBound(e *env) {
	a, b := e.pair()
	s := a.session()
	for i := range 3 {
		displaced, err := s.Publish(e.ctx, e.key("members", fmt.Sprint(i)), []byte("v"))
		require.NoError(e, err)
		require.Empty(e, displaced)
	}
	b.put(e.key("members", "plain"), "v")
	snap := b.snapshot(e.key("members"))
	require.Len(e, snap.Entries, 4)
	for _, en := range snap.Entries[:3] {
		require.Equal(e, s.Lease(), en.Lease)
	}
	require.NoError(e, s.Close(e.ctx))
	require.Equal(e, map[string]string{e.key("members", "plain"): "v"}, tree(b.snapshot(e.key("members"))))
	_, err := s.Publish(e.ctx, e.key("members", "0"), []byte("v"))
	e.kind(err, dcs.ErrReleased, "Publish on a closed session")
}

func unchangedNotRewritten(e *env) {
	a, b := e.pair()
	s := a.session()
	k := e.key("members", "a")
	publish := func(v string) dcs.Entry {
		_, err := s.Publish(e.ctx, k, []byte(v))
		require.NoError(e, err)
		en := b.get(k)
		require.Equal(e, v, string(en.Value))
		return en
	}
	one := publish("one")
	for range 5 {
		require.Equal(e, one, publish("one"), "an unchanged value was written again")
	}
	two := publish("two")
	require.Equal(e, one.Created, two.Created)
	if two.Modified <= one.Modified {
		e.Fatal("a changed value was not written")
	}
	empty := publish("")
	require.Equal(e, empty, publish(""))
}

// reads are what a client may send that writes nothing.
var writes = map[string]bool{"Commit": true, "Grant": true, "Renew": true, "Revoke": true, "Settle": true, "Mark": true}

func readOnlyTouchesNothing(e *env) {
	a, reader := e.pair()
	s := a.session()
	lock := e.key("leader")
	h := e.acquire(s, lock, "a")
	_, err := s.Publish(e.ctx, e.key("members", "a"), []byte("a"))
	require.NoError(e, err)
	before := a.snapshot(e.prefix)
	var mu sync.Mutex
	var wrote []string
	if e.hasInject() {
		e.inject(reader, Fault{Do: Pass, When: func(q Request) bool {
			if writes[q.Op] {
				mu.Lock()
				wrote = append(wrote, q.Op)
				mu.Unlock()
			}
			return false
		}})
	}
	for range 20 {
		require.Equal(e, before.Entries, reader.snapshot(e.prefix).Entries)
		require.Equal(e, "a", string(reader.get(lock).Value))
		reader.absent(e.key("members", "none"), "nobody wrote it")
		got, err := reader.Wait(e.ctx, e.prefix, 0)
		require.NoError(e, err)
		require.Equal(e, before.Entries, got.Entries)
	}
	mu.Lock()
	require.Empty(e, wrote, "a client that only reads sent writes")
	mu.Unlock()
	require.NoError(e, reader.Close())
	require.Equal(e, before.Entries, a.snapshot(e.prefix).Entries)
	require.NoError(e, h.Confirm(e.ctx))
}
