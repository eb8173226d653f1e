package raftstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// clientConfig returns the settings of a client of all nodes.
func (tc *testCluster) clientConfig() ClientConfig {
	c := ClientConfig{Root: tc.config[0].Root, Timing: tc.config[0].Timing, MinTTL: tc.config[0].MinTTL}
	for _, n := range tc.config[0].Peers {
		c.Endpoints = append(c.Endpoints, n.Addr)
	}
	return c
}

// client starts a client of all nodes.
func (tc *testCluster) client(edit ...func(*ClientConfig)) *Client {
	tc.t.Helper()
	config := tc.clientConfig()
	for _, e := range edit {
		e(&config)
	}
	c, err := NewClient(config)
	require.NoError(tc.t, err)
	tc.t.Cleanup(func() { require.NoError(tc.t, c.Close()) })
	return c
}

// A node that refuses a client because of a limit is at no fault.
func TestLimitOfANodeIsNoFault(t *testing.T) {
	v := backend.Judge(clientFailure("n1:7001", fmt.Errorf("call to n1:7001: %w: %w", transport.ErrNotSent, transport.ErrLimit)))
	require.False(t, v.Blame || v.Unreachable || v.Final)
	require.True(t, v.Refused)
	require.Positive(t, v.Busy)
}

func TestClient(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	c, other := tc.client(), tc.client()
	ctx := testCtx(t)
	_, err := c.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.NotEmpty(t, c.Incarnation())
	since, err := c.Snapshot(ctx, "")
	require.NoError(t, err)
	waited := make(chan dcs.Snapshot, 1)
	go func() {
		s, err := other.Wait(ctx, "k", since.Revision)
		if err != nil {
			t.Error(err)
		}
		waited <- s
	}()
	r, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}})
	require.NoError(t, err)
	e, err := other.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, dcs.Entry{Key: "k", Value: []byte("v"), Created: r, Modified: r}, e)
	s := <-waited
	require.Equal(t, []dcs.Entry{e}, s.Entries)
	lease, _, err := c.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	renewal, err := lease.Renew(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, []dcs.Entry{e}, renewal.Entries)
	require.NoError(t, lease.Revoke(ctx))
	_, err = lease.Renew(ctx)
	require.ErrorIs(t, err, dcs.ErrLost)
	require.Contains(t, c.Endpoints(), tc.node[tc.leader()].node.net.Addr())
	for _, b := range tc.node {
		require.Equal(t, 2, b.node.net.Clients())
		for _, conn := range b.Status().Conns {
			require.NotEqual(t, "client", conn.Kind)
		}
	}
}

// A tree, or the keys of a renewal, that are larger than a reply arrive in parts.
func TestClientReadsMoreThanACallCarries(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	tc.leader()
	c := tc.client()
	ctx := testCtx(t)
	lease, _, err := c.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	var keys []string
	for i := range transport.MaxEntryBytes/state.MaxValue + 1 {
		key := fmt.Sprint("big", i)
		keys = append(keys, key)
		_, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(key, make([]byte, state.MaxValue), lease.ID())}})
		require.NoError(t, err)
	}
	s, err := c.Snapshot(ctx, "")
	require.NoError(t, err)
	require.Len(t, s.Entries, len(keys))
	r, err := lease.Renew(ctx, keys...)
	require.NoError(t, err)
	require.Equal(t, s.Entries, r.Entries)
	waited, err := c.Wait(ctx, "", 0)
	require.NoError(t, err)
	require.Equal(t, s.Entries, waited.Entries)
}

// An entry of the log that changes no key reaches a stream only with its next beat. It
// must not count as a change that the stream lacks, or clients leave healthy nodes.
func TestGrantIsNoChangeThatAStreamIsLateWith(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	tc.leader()
	c := tc.client()
	ctx := testCtx(t)
	_, _, err := c.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	require.Zero(t, c.copy.Latest())
	r, err := c.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	require.Equal(t, r, c.copy.Latest())
}
