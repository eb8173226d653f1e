package consul

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// saw counts the requests of one kind, without the reads of the identity.
func (f *fakeAgent) saw(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, asked := range f.asked {
		if asked == op {
			n++
		}
	}
	return n
}

// If one agent belongs to another datacenter, the store of most endpoints gets the
// identity, and no session and no read goes to the other one, for any place in the list.
func TestMostEndpointsDecideTheStore(t *testing.T) {
	for n := range 3 {
		first, second, foreign := newFake(t), newFake(t), newFake(t)
		second.place = first.place
		agents := slices.Insert([]*fakeAgent{first, second}, n, foreign)
		for range 4 {
			ejection := testcluster.NewEjection(foreign.addr())
			b := fakeClient(t, func(c *Config) { c.Observer = ejection.Observer() }, agents...)
			for range 5 {
				_, _, err := b.Grant(budget(t), suiteTiming.TTL)
				require.NoError(t, err)
				_, err = b.Get(budget(t), "k")
				require.ErrorIs(t, err, dcs.ErrNotFound)
			}
			require.Equal(t, first.place.id, b.ident.ID())
			c, err := b.connected(foreign.addr())
			require.NoError(t, err)
			_, err = b.read(budget(t), c, "k")
			require.ErrorContains(t, err, "this Store to store "+first.place.id)
			ejection.Await(t)
		}
		require.NotEmpty(t, first.place.id)
		require.Zero(t, foreign.saw("create"), "sessions at the other store")
		require.Zero(t, foreign.saw("get"), "reads at the other store")
	}
}

// If one of the two addresses of a name is an agent of another store, only that
// address is ejected. The name has no vote.
func TestAddressInAnotherStoreIsEjected(t *testing.T) {
	t.Parallel()
	own, second, third, foreign := newFake(t), newFake(t), newFake(t), newFake(t)
	second.place, third.place = own.place, own.place
	own.place.id, foreign.place.id = "x", "y"
	alias := testcluster.NewAlias(t, own.addr())
	alias.Proxies[1].Retarget(foreign.addr())
	ejection := testcluster.NewEjection(alias.Address(1))
	b := fakeClient(t, func(c *Config) {
		c.Endpoints = append(c.Endpoints, alias.Endpoint)
		c.Resolver, c.Observer = alias.Names.Net(), ejection.Observer()
	}, second, third)
	ejection.Await(t)
	_, err := b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Equal(t, "x", b.ident.ID())
	require.Zero(t, foreign.saw("get"))
}

// A client that only reads creates no identity, and adopts the one that a writer creates.
func TestReaderMakesNoIdentity(t *testing.T) {
	a, other := newFake(t), newFake(t)
	other.place = a.place
	reader := fakeClient(t, nil, a, other)
	_, err := reader.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Empty(t, a.place.id)
	writer := fakeClient(t, nil, a, other)
	_, _, err = writer.Grant(budget(t), suiteTiming.TTL)
	require.NoError(t, err)
	require.NotEmpty(t, a.place.id)
	require.Equal(t, a.place.id, writer.ident.ID())
	c, err := reader.connected(a.addr())
	require.NoError(t, err)
	fresh, err := c.dialVerified(budget(t), &c.calls.share)
	require.NoError(t, err)
	require.NoError(t, fresh.Close())
	require.Equal(t, a.place.id, reader.ident.ID())
	for range 20 {
		_, err = reader.Get(budget(t), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound, "older connections must be made again")
	}
}

// Two fresh clients that create the identity at once adopt that of the first one, and eject
// no agent.
func TestTwoClientsMakeOneIdentity(t *testing.T) {
	t.Parallel()
	a := unstartedFake()
	var creations atomic.Int64
	both := make(chan struct{})
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/"+identityKey) {
			if creations.Add(1) == 2 {
				close(both)
			}
			select {
			case <-both:
			case <-r.Context().Done():
				return
			}
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	var ejected [2]ejections
	var clients [2]*Backend
	var granting sync.WaitGroup
	for i := range clients {
		clients[i] = fakeClient(t, func(c *Config) { c.Observer.Endpoint = ejected[i].note }, a)
		granting.Go(func() {
			_, _, err := clients[i].Grant(budget(t), suiteTiming.TTL)
			assert.NoError(t, err)
		})
	}
	granting.Wait()
	require.GreaterOrEqual(t, creations.Load(), int64(2))
	for i, b := range clients {
		require.Equal(t, a.place.id, b.ident.ID())
		_, err := b.Get(budget(t), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound)
		require.NoError(t, b.Close())
		require.Empty(t, ejected[i].hasty())
	}
}

// A store whose index has fallen is detected within the budget and with few requests. One
// log line and the error of each call report it.
func TestRestoredStoreIsReported(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	a, other := newFake(t), newFake(t)
	other.place = a.place
	a.index.Store(900)
	other.index.Store(900)
	var log testcluster.Log
	b := fakeClient(t, func(c *Config) {
		c.Timing = dcs.Timing{TTL: 6 * time.Second, LoopWait: time.Second, RetryTimeout: limit}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}, a, other)
	_, err := b.Snapshot(budget(t), "")
	require.NoError(t, err)
	a.index.Store(12)
	other.index.Store(12)
	a.heard()
	other.heard()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err = b.Snapshot(ctx, "")
	require.LessOrEqual(t, time.Since(begin), limit+time.Second)
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "the store is at revision 12 and was at 900 before")
	for time.Since(begin) < 2*limit {
		_, err = b.Snapshot(budget(t), "")
		require.ErrorContains(t, err, "reopen the Store")
		_, err = b.Get(budget(t), "k")
		require.ErrorContains(t, err, "reopen the Store")
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, len(a.heard())+len(other.heard()), 20, "in four seconds")
	require.NoError(t, b.Close())
	require.Equal(t, 1, strings.Count(log.String(), "the store has lost data"))
}
