package zookeeper

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// identityTiming keeps the test of a restored store short.
var identityTiming = dcs.Timing{TTL: 3 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: time.Second}

func identityClient(t *testing.T, change func(*Config), endpoints ...string) *Backend {
	c := Config{
		Endpoints: endpoints, Root: "r", Timing: suiteTiming,
		Tick: 10 * time.Millisecond, MinTTL: 20 * time.Millisecond, MaxTTL: time.Minute,
	}
	if change != nil {
		change(&c)
	}
	b, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// One configuration names a server of another ensemble. The store of most
// endpoints gets the identity, no session is made at the other one, and no
// session is reported as over because the other one does not know it.
func TestMostEndpointsDecideTheEnsemble(t *testing.T) {
	t.Parallel()
	for n := range 3 {
		own, foreign := newFakeServer(t), newFakeServer(t)
		own.last, foreign.last = 1<<56, 1<<56 // both ensembles have a server 1
		endpoints := slices.Insert([]string{own.addr, own.also()}, n, foreign.addr)
		ejection := testcluster.NewEjection(foreign.addr)
		b := identityClient(t, func(c *Config) { c.Observer = ejection.Observer() }, endpoints...)
		l, _, err := b.Grant(budget(t), 3*time.Second)
		require.NoError(t, err)
		require.NotEmpty(t, own.identity("r"))
		require.Equal(t, own.identity("r"), b.ident.ID())
		require.NotEqual(t, own.identity("r"), foreign.identity("r"))
		_, err = l.Renew(budget(t))
		require.NoError(t, err)
		_, err = l.(*lease).confirmed(budget(t), foreign.addr, nil)
		require.ErrorContains(t, err, "this Store to store "+b.ident.ID())
		_, err = l.Renew(budget(t))
		require.NoError(t, err, "the session is not over")
		require.ErrorContains(t, b.revoke(budget(t), foreign.addr, granted{id: 1}, 0), "this Store to store")
		ejection.Await(t)
	}
}

// One of a name's two addresses belongs to another ensemble, and only that
// address is ejected. The name has no vote.
func TestAddressInAnotherEnsembleIsEjected(t *testing.T) {
	t.Parallel()
	own, foreign := newFakeServer(t), newFakeServer(t)
	own.last, foreign.last = 1<<56, 1<<56
	own.put("/r/"+identityKey, []byte("x"))
	foreign.put("/r/"+identityKey, []byte("y"))
	alias := testcluster.NewAlias(t, own.addr)
	alias.Proxies[1].Retarget(foreign.addr)
	ejection := testcluster.NewEjection(alias.Address(1))
	b := identityClient(t, func(c *Config) {
		c.Resolver, c.Observer = alias.Names.Net(), ejection.Observer()
	}, alias.Endpoint, own.also(), own.also())
	ejection.Await(t)
	_, err := b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Equal(t, "x", b.ident.ID())
}

// A client that only reads makes no identity, and adopts the one that a writer
// makes.
func TestReaderMakesNoIdentity(t *testing.T) {
	own := newFakeServer(t)
	endpoints := []string{own.addr, own.also()}
	reader := identityClient(t, nil, endpoints...)
	_, err := reader.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Empty(t, own.identity("r"))
	writer := identityClient(t, nil, endpoints...)
	_, _, err = writer.Grant(budget(t), identityTiming.TTL)
	require.NoError(t, err)
	require.NotEmpty(t, own.identity("r"))
	s, err := reader.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Empty(t, s.Entries, "the identity is not a key")
}

// Two fresh clients that create the identity at once adopt that of the first one, and eject
// no server.
func TestTwoClientsMakeOneIdentity(t *testing.T) {
	t.Parallel()
	for range 10 {
		f := newFakeServer(t)
		var arrived atomic.Int64
		both := make(chan struct{})
		var reasons testcluster.Log
		together := func(ctx context.Context, r request, s *session, send func(*zk.Conn) error) error {
			if r.op == "Identify" {
				if arrived.Add(1) == 2 {
					close(both)
				}
				select {
				case <-both:
				case <-ctx.Done():
				}
			}
			return sendOnce(ctx, r, s, send)
		}
		var clients [2]*Backend
		var granting sync.WaitGroup
		for i := range clients {
			c := Config{Endpoints: []string{f.addr}, Root: "r", Timing: suiteTiming, Tick: 10 * time.Millisecond, MinTTL: 20 * time.Millisecond, MaxTTL: time.Minute}
			c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
				if ev.Change == dcs.Ejected && !strings.Contains(ev.Reason, "no answer within") { // a busy machine
					_, _ = reasons.Write([]byte(ev.Reason + "\n"))
				}
			}
			var err error
			clients[i], err = newBackend(c, hooks{intercept: together})
			require.NoError(t, err)
			granting.Go(func() {
				_, _, err := clients[i].Grant(budget(t), 3*time.Second)
				assert.NoError(t, err)
			})
		}
		granting.Wait()
		require.NotEmpty(t, f.identity("r"))
		for _, b := range clients {
			require.Equal(t, f.identity("r"), b.ident.ID())
			_, err := b.Get(budget(t), "k")
			require.ErrorIs(t, err, dcs.ErrNotFound)
			require.NoError(t, b.Close())
		}
		require.Empty(t, reasons.String())
	}
}

// A store that was restored from an older backup is detected within the budget,
// and reported by one log line and by the error of each call, with few
// connections. The lease ends, and a client that is opened again works.
func TestRestoredStoreIsReported(t *testing.T) {
	t.Parallel()
	f := newFakeServer(t)
	var log testcluster.Log
	b := identityClient(t, func(c *Config) {
		c.Timing, c.Logger = identityTiming, slog.New(slog.NewTextHandler(&log, nil))
	}, f.addr)
	l, _, err := b.Grant(budget(t), 3*time.Second)
	require.NoError(t, err)
	for range 20 {
		f.put("/r/leader", []byte("v"))
	}
	_, err = b.Snapshot(budget(t), "")
	require.NoError(t, err)

	f.stop()
	f.mu.Lock()
	kept := f.nodes["/r/"+identityKey]
	f.nodes, f.zxid, f.accepted = map[string]node{"/r": {there: true}, "/r/" + identityKey: kept}, 3, 0
	f.mu.Unlock()
	f.start()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), identityTiming.RetryTimeout)
	defer cancel()
	_, err = b.Snapshot(ctx, "")
	require.LessOrEqual(t, time.Since(begin), identityTiming.RetryTimeout+time.Second)
	require.Equal(t, dcs.ErrUnavailable, dcs.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "reopen the Store")
	for time.Since(begin) < 2*identityTiming.RetryTimeout {
		_, err = b.Snapshot(budget(t), "")
		require.ErrorContains(t, err, "reopen the Store")
		_, err = l.Renew(budget(t))
		require.ErrorContains(t, err, "reopen the Store")
		time.Sleep(time.Millisecond)
	}
	f.mu.Lock()
	require.LessOrEqual(t, f.accepted, 20, "in two seconds")
	f.mu.Unlock()
	require.NoError(t, b.Close())
	require.Equal(t, 1, strings.Count(log.String(), "the store has lost data"))

	b = identityClient(t, nil, f.addr)
	_, _, err = b.Grant(budget(t), 3*time.Second)
	require.NoError(t, err)
}
