package zookeeper

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// heldKeys is the number of keys of a Session that holds many.
const heldKeys = 5000

// hold stores n nodes below the root and returns their keys.
func (f *fakeServer) hold(n int) (keys []string) {
	f.put("/r", parentValue)
	f.put("/r/held", parentValue)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		keys = append(keys, fmt.Sprintf("held/%05d", i))
		f.nodes["/r/"+keys[i]] = node{there: true, value: []byte("v"), stat: zk.Stat{Czxid: f.zxid, Mzxid: f.zxid, Pzxid: f.zxid}}
	}
	return keys
}

// reads returns the number of requests since its last call that read nodes.
func (f *fakeServer) reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.requests[opMultiRead] + f.requests[opGetData]
	clear(f.requests)
	return n
}

// A renewal of many keys reads many of them in one request. The lease's session
// makes no request that would end it at an older server.
func TestRenewalOfManyKeys(t *testing.T) {
	for name, old := range map[string]bool{"Today": false, "BeforeZooKeeper36": true} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			f.old = old
			most := heldKeys
			if old {
				most = 4 * fewNodes // each is a request
			}
			keys := f.hold(most)
			b := f.client(t)
			l, _, err := b.Grant(budget(t), suiteTiming.TTL)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a busy machine repeats reads
			defer cancel()
			_, err = l.Renew(ctx, keys...)
			require.NoError(t, err)
			for _, n := range []int{1, fewNodes, fewNodes + 1, most} {
				f.reads()
				r, err := l.Renew(ctx, keys[:n]...)
				require.NoError(t, err, "%d keys", n)
				require.Len(t, r.Entries, n)
				for i, e := range r.Entries {
					require.Equal(t, keys[i], e.Key)
				}
				if n == heldKeys { // about 6 on an idle machine, where none is repeated
					require.Less(t, f.reads(), heldKeys/50)
				}
			}
			require.NoError(t, l.(*lease).s.ended())
		})
	}
}

// A Session with many keys keeps all of them, and each renewal confirms them
// all.
func TestSessionOfManyKeys(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("only in the slow profile, because the test takes a minute")
	}
	s := newSuite(t).fresh(t)
	var mu sync.Mutex
	var slowest time.Duration
	renewals, failures := 0, 0
	store, err := dcs.New(ours(t, s, nil), dcs.Options{Timing: suiteTiming, Observer: dcs.Observer{Renewal: func(ev dcs.RenewalEvent) {
		mu.Lock()
		defer mu.Unlock()
		if renewals++; ev.Err != nil {
			failures++
		}
		slowest = max(slowest, ev.Duration)
	}}})
	require.NoError(t, err)
	defer store.Close()
	session, err := store.NewSession(budget(t), dcs.SessionOptions{})
	require.NoError(t, err)
	holds := make([]*dcs.Hold, heldKeys)
	errs := make([]error, heldKeys)
	began := time.Now()
	var all sync.WaitGroup
	for part := range 32 {
		all.Go(func() {
			for i := part; i < heldKeys; i += 32 {
				holds[i], errs[i] = session.TryAcquire(t.Context(), fmt.Sprintf("held/%05d", i), nil)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	t.Logf("%d locks were acquired in %v", heldKeys, time.Since(began))
	<-time.After(2 * suiteTiming.TTL)
	require.NoError(t, session.Err())
	require.NoError(t, holds[0].Confirm(budget(t)))
	for _, h := range holds {
		require.True(t, h.Valid())
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d renewals, %d failed, the slowest took %v", renewals, failures, slowest)
	require.Zero(t, failures)
}
