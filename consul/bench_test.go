package consul

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/compare"
)

// benchTiming has the size of the default, so that nothing expires during a benchmark.
var benchTiming = dcs.Timing{TTL: 60 * time.Second, LoopWait: 10 * time.Second, RetryTimeout: 10 * time.Second}

// rig is three servers with a Holdfast client and the vendor's client.
type rig struct {
	cluster *testcluster.Cluster
	store   *dcs.Store
	raw     *api.Client
}

func newRig(b *testing.B) *rig {
	b.Helper()
	c := testcluster.New(b, testcluster.Options{Kind: testcluster.Consul})
	r := &rig{cluster: c, store: ours(b, c)}
	r.raw = vendor(b, c, r.store)
	for range 200 { // warm on both sides
		_, err := r.store.Commit(b.Context(), dcs.Txn{Then: []dcs.Write{dcs.Put("warm", nil)}})
		require.NoError(b, err)
		_, err = r.raw.KV().Put(&api.KVPair{Key: "raw/warm"}, nil)
		require.NoError(b, err)
	}
	return r
}

func ours(b *testing.B, c *testcluster.Cluster) *dcs.Store {
	backend, err := New(Config{Endpoints: c.Endpoints(), Root: "bench", Timing: benchTiming})
	require.NoError(b, err)
	return testcluster.OpenStore(b, backend, benchTiming)
}

// vendor returns a client of the API, set up as in its documentation with one address,
// which is the one that the Holdfast client uses.
func vendor(b *testing.B, c *testcluster.Cluster, ours *dcs.Store) *api.Client {
	_, err := ours.Snapshot(b.Context(), "")
	require.NoError(b, err)
	raw, err := api.NewClient(&api.Config{Address: ours.Unwrap().(*Backend).Endpoints()[0]})
	require.NoError(b, err)
	return raw
}

// BenchmarkConfirm measures a confirmation. The target is at most 1.1 times the slower of
// the vendor's renewal and consistent read, although a confirmation does both.
func BenchmarkConfirm(b *testing.B) {
	r := newRig(b)
	ctx := b.Context()
	s := compare.Session(b, r.store)
	hold, err := s.Acquire(ctx, "confirm", nil)
	require.NoError(b, err)
	id, _, err := r.raw.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s", Behavior: "delete"}, nil)
	require.NoError(b, err)
	_, err = r.raw.KV().Put(&api.KVPair{Key: "raw/confirm"}, nil)
	require.NoError(b, err)
	confirm := compare.Timed("confirm", func() error { return hold.Confirm(ctx) })
	for range 200 {
		confirm.Once()
	}
	renew := func() error { _, _, err := r.raw.Session().Renew(id, nil); return err }
	get := func() error {
		_, _, err := r.raw.KV().Get("raw/confirm", &api.QueryOptions{RequireConsistent: true})
		return err
	}
	b.Run("beside-the-slower", func(b *testing.B) {
		compare.Versus(b, 0.5, 20, 100, confirm, compare.Timed("renew", renew), compare.Timed("consistent-get", get))
	})
	// If servers and clients share two processors, two requests at once take longer
	// than the slower one, also with the vendor's client.
	b.Run("beside-both-at-once", func(b *testing.B) {
		compare.Versus(b, 0.5, 20, 100, confirm, compare.Timed("both", func() error {
			done := make(chan error, 1)
			go func() { done <- get() }()
			return errors.Join(renew(), <-done)
		}))
	})
}

// rawLock takes the vendor's lock and returns the function that releases it.
func rawLock(raw *api.Client, session, key string) func() {
	l, err := raw.LockOpts(&api.LockOptions{Key: key, Session: session, Value: []byte("x")})
	if err != nil {
		panic(err)
	}
	if _, err := l.Lock(nil); err != nil {
		panic(err)
	}
	return func() {
		if err := l.Unlock(); err != nil {
			panic(err)
		}
	}
}

// rawSession creates a session with the minimum lock-delay.
func rawSession(b *testing.B, raw *api.Client) string {
	id, _, err := raw.Session().CreateNoChecks(&api.SessionEntry{TTL: "60s", Behavior: "delete", LockDelay: 1}, nil)
	require.NoError(b, err)
	return id
}

// BenchmarkAcquire measures Acquire. The target is at most 1.0 times api.Lock.
func BenchmarkAcquire(b *testing.B) {
	r := newRig(b)
	id := rawSession(b, r.raw)
	compare.Acquiring(b, compare.Session(b, r.store), "api-lock", func() func() { return rawLock(r.raw, id, "raw/lock") })
}

// BenchmarkHandover measures the time from the holder's Release to the waiter's Acquire.
// The target is at most 1.0 times that of api.Lock.
func BenchmarkHandover(b *testing.B) {
	compare.HandingOver(b, "api-lock", func(b *testing.B) ([2]*dcs.Store, func(client, n int) func()) {
		r := newRig(b)
		other := ours(b, r.cluster)
		clients := []*api.Client{r.raw, vendor(b, r.cluster, other)}
		ids := []string{rawSession(b, clients[0]), rawSession(b, clients[1])}
		return [2]*dcs.Store{r.store, other}, func(i, n int) func() { return rawLock(clients[i], ids[i], fmt.Sprint("raw/lock", n)) }
	})
}

// BenchmarkFaults puts 30 times, with at most 3 s a call, while one of three servers is
// frozen. The vendor's client does the same with one address, that of the frozen server.
func BenchmarkFaults(b *testing.B) {
	r := newRig(b)
	i := (r.cluster.Leader(b.Context()) + 1) % 3
	raw, err := api.NewClient(&api.Config{Address: r.cluster.Endpoints()[i]})
	require.NoError(b, err)
	_, err = raw.KV().Put(&api.KVPair{Key: "raw/warm"}, nil)
	require.NoError(b, err)
	thaw, err := r.cluster.Servers()[i].Process().Freeze()
	require.NoError(b, err)
	defer thaw()
	compare.PutWhile(b, map[string]func(ctx context.Context, n int) error{
		"holdfast": func(ctx context.Context, n int) error {
			_, err := r.store.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put(fmt.Sprint("k", n), nil)}})
			return err
		},
		"api": func(ctx context.Context, n int) error {
			_, err := raw.KV().Put(&api.KVPair{Key: fmt.Sprint("raw/k", n)}, (&api.WriteOptions{}).WithContext(ctx))
			return err
		},
	})
}
