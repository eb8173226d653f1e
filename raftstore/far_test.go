package raftstore

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// far returns an address that reaches addr with a delay of one round trip, for
// connecting and for each answer.
func far(t *testing.T, addr string, roundTrip time.Duration) string {
	t.Helper()
	p, err := fault.NewProxy(context.Background(), "127.0.0.1:0", addr, fault.ProxyOptions{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			backoff.Sleep(ctx, roundTrip)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	p.Delay(roundTrip)
	return p.Addr()
}

// Three nodes have round trips of 200 ms, TLS and the settings that docs/operations.md
// has for that. A lock is held by a follower, writes guarded by it succeed on every
// node, and there is no election.
func TestLockOverFarNodes(t *testing.T) {
	parallel(t)
	const roundTrip = 200 * time.Millisecond
	timing := dcs.Timing{TTL: 18 * time.Second, LoopWait: 6 * time.Second, RetryTimeout: 6 * time.Second}
	lasts := 20 * time.Second
	if slowProfile() {
		lasts = 10 * time.Minute
	}
	tc := farCluster(t, roundTrip, timing)
	control := measureStalls(t)
	leader := tc.node[tc.leader()]
	holder := tc.node[tc.follower()]
	term := leader.Status().Term

	renewals, failed := 0, 0
	var mu sync.Mutex
	store, err := dcs.New(holder, dcs.Options{Timing: timing, Observer: dcs.Observer{Renewal: func(e dcs.RenewalEvent) {
		mu.Lock()
		defer mu.Unlock()
		renewals++
		if e.Err != nil {
			failed++
		}
	}}})
	require.NoError(t, err)
	ctx := context.Background()
	session, err := store.NewSession(ctx, dcs.SessionOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, session.Close(ctx)) }()
	hold, err := session.Acquire(ctx, "leader", nil)
	require.NoError(t, err)

	var wg sync.WaitGroup
	took := make([][]time.Duration, len(tc.node))
	for i, b := range tc.node {
		wg.Go(func() {
			for start := dcs.Now(); start.Elapsed() < lasts; {
				began := dcs.Now()
				_, err := b.Commit(ctx, dcs.Txn{
					If:   []dcs.Cond{dcs.CreatedAt("leader", hold.Token())},
					Then: []dcs.Write{dcs.Put(fmt.Sprint("k", i), nil)},
				})
				took[i] = append(took[i], began.Elapsed())
				if err != nil {
					t.Errorf("node %d: %v", i, err)
				}
				if !hold.Valid() {
					t.Errorf("the lock is lost: %v", hold.Err())
					return
				}
			}
		})
	}
	wg.Wait()
	for i, d := range took {
		slices.Sort(d)
		t.Logf("node %s: %d guarded commits, half of them within %v, all within %v", tc.config[i].ID, len(d), d[len(d)/2].Round(time.Millisecond), d[len(d)-1].Round(time.Millisecond))
	}
	mu.Lock()
	t.Logf("%d renewals, %d failed", renewals, failed)
	mu.Unlock()
	control.check(t, noElection(leader, term), leader.config.HeartbeatTimeout)
	e, err := leader.Get(ctx, "leader")
	require.NoError(t, err)
	require.Equal(t, hold.Token(), e.Created)
}

// farCluster starts three nodes, a round trip from each other.
func farCluster(t *testing.T, roundTrip time.Duration, timing dcs.Timing) *testCluster {
	t.Helper()
	ca := newTestCA(t)
	tc := &testCluster{t: t, config: clusterConfigs(t, 3), node: make([]*Backend, 3)}
	var peers []Peer
	for _, p := range tc.config[0].Peers {
		peers = append(peers, Peer{ID: p.ID, Addr: far(t, p.Addr, roundTrip)})
	}
	for i := range tc.config {
		c := &tc.config[i]
		c.Listen, c.Peers = c.Peers[i].Addr, peers
		c.Timing, c.HeartbeatTimeout, c.MinTTL = timing, 5*roundTrip, 0
		ca.secure(t)(c)
		tc.hooks = append(tc.hooks, testHooks())
	}
	t.Cleanup(tc.stopAll)
	for i := range tc.config {
		tc.start(i)
	}
	return tc
}
