package raftstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/keepalive"
)

// suiteTiming is short, and leaves an election with a split vote room in a
// budget.
var suiteTiming = dcs.Timing{TTL: 6500 * time.Millisecond, LoopWait: 400 * time.Millisecond, RetryTimeout: 3 * time.Second}

// suite has the nodes on which the conformance suite runs. They are three nodes over
// real sockets and disks, shared by all cases, and as many clients as the cases open.
type suite struct {
	tc      *testCluster
	clients atomic.Int64
	secure  *secureCluster

	mu     sync.Mutex
	hooked int // clients that observe their requests
}

func newSuite(t testing.TB) *suite {
	t.Helper()
	s := &suite{secure: &secureCluster{t: t}}
	s.tc = newTestCluster(t, 3, func(_ int, c *Config, _ *hooks) { suiteConfig(c, suiteTiming) })
	s.tc.leader()
	return s
}

func suiteConfig(c *Config, t dcs.Timing) {
	c.Timing = t
	c.HeartbeatTimeout = 300 * time.Millisecond
	c.MinTTL = time.Second
}

// suiteClient is one client of the suite, a Backend with bookkeeping of its own on a
// shared node. Its contexts carry it, so that the node's call hook can assign each
// request to its client.
type suiteClient struct {
	*Backend
	suite  *suite
	end    context.CancelFunc
	faults clientFaults
}

type clientOf struct{}

// on returns a new client on node b.
func (s *suite) on(b *Backend) *suiteClient {
	c := &suiteClient{suite: s}
	life, end := context.WithCancel(context.WithValue(b.life, clientOf{}, c))
	c.Backend, c.end = newBackendOn(b.node, life), end
	return c
}

func (s *suite) open(testing.TB) dcs.Backend {
	i := int(s.clients.Add(1)) % len(s.tc.node)
	return s.on(s.tc.node[i])
}

func (c *suiteClient) own(ctx context.Context) context.Context {
	return context.WithValue(ctx, clientOf{}, c)
}

// call bounds a call by the client's own life, as the node's bounds a node's.
func (c *suiteClient) call(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.own(ctx))
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() { stop(); cancel() }
}

func (c *suiteClient) Get(ctx context.Context, key string) (dcs.Entry, error) {
	ctx, done := c.call(ctx)
	defer done()
	return c.Backend.Get(ctx, key)
}

func (c *suiteClient) Snapshot(ctx context.Context, prefix string) (dcs.Snapshot, error) {
	ctx, done := c.call(ctx)
	defer done()
	return c.Backend.Snapshot(ctx, prefix)
}

// Wait passes its context on unchanged, because it returns the error of the context.
func (c *suiteClient) Wait(ctx context.Context, prefix string, since dcs.Revision) (dcs.Snapshot, error) {
	return c.Backend.Wait(c.own(ctx), prefix, since)
}

func (c *suiteClient) Commit(ctx context.Context, t dcs.Txn) (dcs.Revision, error) {
	ctx, done := c.call(ctx)
	defer done()
	return c.Backend.Commit(ctx, t)
}

func (c *suiteClient) Settle(ctx context.Context, e *dcs.Error) (dcs.Revision, error) {
	ctx, done := c.call(ctx)
	defer done()
	return c.Backend.Settle(ctx, e)
}

func (c *suiteClient) Grant(ctx context.Context, ttl time.Duration) (dcs.Lease, dcs.Renewal, error) {
	ctx, done := c.call(ctx)
	defer done()
	l, r, err := c.Backend.Grant(ctx, ttl)
	if err != nil {
		return nil, r, err
	}
	return &suiteLease{l, c}, r, nil
}

// Close ends the client and leaves the node to the others.
func (c *suiteClient) Close() error {
	c.end()
	c.settles.close()
	c.running.Wait()
	return nil
}

type suiteLease struct {
	dcs.Lease
	c *suiteClient
}

func (l *suiteLease) Renew(ctx context.Context, keys ...string) (dcs.Renewal, error) {
	ctx, done := l.c.call(ctx)
	defer done()
	return l.Lease.Renew(ctx, keys...)
}

func (l *suiteLease) Revoke(ctx context.Context) error {
	ctx, done := l.c.call(ctx)
	defer done()
	return l.Lease.Revoke(ctx)
}

// openAlone starts a cluster of one node, which Close really ends. It waits until the
// node leads, because the budgets of the suite have no room for an election.
func openAlone(tb testing.TB) dcs.Backend {
	c := clusterConfigs(tb, 1)[0]
	suiteConfig(&c, suiteTiming)
	b, err := newBackend(c, testHooks())
	require.NoError(tb, err)
	(&testCluster{t: tb, node: []*Backend{b}}).leader()
	return b
}

// openWith starts three nodes if the case needs another timing.
func (s *suite) openWith(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
	if o.Timing == (dcs.Timing{}) || o.Timing == suiteTiming {
		return s.open(tb), nil
	}
	tc := newTestCluster(tb, 3, func(_ int, c *Config, _ *hooks) { suiteConfig(c, o.Timing) })
	return s.on(tc.node[tc.follower()]), nil
}

// openFaulty opens a client with faults for its requests. Its node is open already, and
// a client on it sends nothing to open.
func (s *suite) openFaulty(tb testing.TB, faults []conformance.Fault) dcs.Backend {
	b := s.open(tb)
	for _, f := range faults {
		tb.Cleanup(inject(b, f))
	}
	return b
}

// sockets reads back the settings of a node's connections.
func sockets(b dcs.Backend) []conformance.Socket {
	var out []conformance.Socket
	for _, c := range b.(*suiteClient).node.conns() {
		side := "accepted"
		if c.Dialled {
			side = "dialled"
		}
		out = append(out, socketOf(side, c.Keepalive))
	}
	return out
}

func socketOf(side string, k keepalive.Config) conformance.Socket {
	s := conformance.Socket{Side: side, Idle: k.Idle, Interval: k.Interval, Count: k.Count, UserTimeout: k.UserTimeout}
	if _, moved := k.Clamp(); len(moved) > 0 {
		s.Fault = fmt.Sprint(moved)
	}
	return s
}
