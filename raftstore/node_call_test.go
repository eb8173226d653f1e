package raftstore

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// P15: a command that CheckProposal refuses is answered with the reason and is never
// proposed.
func TestP15LeaderRefusesBadCommands(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	leader, other := tc.node[tc.leader()], tc.node[tc.follower()]
	client, o := other.client(ctx)
	require.NoError(t, o.err)
	for name, bad := range map[string]struct {
		edit func(c *state.Command, r *request)
		want string
	}{
		"version":        {func(_ *state.Command, r *request) { r.data[0] = state.Level + 1 }, "format version 2 and this release reads up to 1"},
		"another number": {func(_ *state.Command, r *request) { r.key.Seq++ }, "does not match"},
		"expire": {func(c *state.Command, r *request) {
			*c = state.Command{Kind: state.KindExpire, Term: 1, Leases: []dcs.LeaseID{"r-1"}}
			r.data, r.key = c.Encode(), c.Key()
		}, "only a leader"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &state.Command{Kind: state.KindTxn, Client: client.id, Seq: 1, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}}}
			r := &request{op: opPropose, voter: other.node.member().id, key: c.Key(), data: c.Encode()}
			bad.edit(c, r)
			before := leader.node.member().raft.LastIndex()
			body, err := other.node.net.Call(ctx, leader.node.wireAddr(), opPropose, r.encode())
			require.NoError(t, err)
			rep, err := decodeReply(body)
			require.NoError(t, err)
			require.Equal(t, replyNotDone, rep.kind, "%s", rep.text)
			require.Contains(t, rep.text, bad.want)
			require.Equal(t, before, leader.node.member().raft.LastIndex(), "the command is in the log")
		})
	}
	for _, b := range tc.node {
		require.NoError(t, b.node.state.Failed())
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("after", nil)}})
		require.NoError(t, err)
	}
}

func FuzzDecodeCall(f *testing.F) {
	for _, op := range []byte{opPropose, opRead, opRenew, opPosition, opMembership} {
		r := request{op: op, term: 3, prefix: "p", since: 4, lease: "l", keys: []string{"k"}, data: []byte("d")}
		f.Add(op, r.encode())
	}
	rep := reply{kind: replyDone, entries: []dcs.Entry{{Key: "k", Value: []byte("v")}}, result: state.Result{Status: state.StatusConflict, Current: &dcs.Entry{}}}
	f.Add(opRead, rep.encode())
	rep = reply{kind: replyMembers, members: []Member{{ID: "a", Life: "0000000000000001", Addr: "127.0.0.1:7001", Voter: true}}}
	f.Add(opMembership, rep.encode())
	f.Fuzz(func(t *testing.T, op byte, data []byte) {
		if r, err := decodeRequest(op, data); err == nil {
			again, err := decodeRequest(op, r.encode())
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
		if r, err := decodeReply(data); err == nil {
			again, err := decodeReply(r.encode())
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
	})
}

// Lists that are longer than any call needs are refused before they are made.
func TestLongListsAreRefused(t *testing.T) {
	r := &request{op: opRenew, voter: "a", lease: "r-1", keys: make([]string, maxRenewKeys+1)}
	_, err := decodeRequest(opRenew, r.encode())
	require.ErrorIs(t, err, codec.ErrLongList)
	r.keys = r.keys[1:]
	_, err = decodeRequest(opRenew, r.encode())
	require.NoError(t, err)
}

// A renewal may read more keys, and more bytes, than one call carries.
func TestRenewReadsMoreThanACallCarries(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	lease, _, err := b.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	var keys []string
	var small dcs.Txn
	for i := range maxRenewKeys + 5 {
		keys = append(keys, fmt.Sprintf("k%04d", i))
		if i%500 == 0 {
			small.Then = append(small.Then, dcs.PutLeased(keys[i], nil, lease.ID()))
		}
	}
	_, err = b.Commit(ctx, small)
	require.NoError(t, err)
	for i := range transport.MaxEntryBytes/state.MaxValue + 1 {
		key := fmt.Sprint("big", i)
		keys = append(keys, key)
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased(key, make([]byte, state.MaxValue), lease.ID())}})
		require.NoError(t, err)
	}
	var sent []dcs.Instant // when each call was on its way
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		if e.op == opRenew && !e.answered {
			sent = append(sent, dcs.Now())
		}
		return true
	})
	before := dcs.Now()
	r, err := lease.Renew(ctx, keys...)
	require.NoError(t, err)
	b.node.setCallHook(nil)
	require.Greater(t, len(sent), 1)
	require.True(t, before.Before(r.From))
	require.True(t, r.From.Before(sent[0]), "P1: the renewal must count from the first call, before any key was read")
	require.Len(t, r.Entries, len(small.Then)+transport.MaxEntryBytes/state.MaxValue+1)
	for i, e := range r.Entries {
		require.Equal(t, lease.ID(), e.Lease)
		require.True(t, i == 0 || r.Entries[i-1].Key < e.Key, "sorted")
	}
}

// A renewal of many keys makes no more calls than necessary.
func TestRenewalOfManyKeys(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	ctx := testCtx(t)
	b := tc.node[tc.leader()]
	lease, _, err := b.Grant(ctx, 10*time.Second)
	require.NoError(t, err)
	var keys []string
	for i := range 5000 {
		keys = append(keys, fmt.Sprintf("k%04d", i))
	}
	for some := range slices.Chunk(keys, b.Caps().MaxTxnOps) {
		var txn dcs.Txn
		for _, key := range some {
			txn.Then = append(txn.Then, dcs.PutLeased(key, nil, lease.ID()))
		}
		_, err = b.Commit(ctx, txn)
		require.NoError(t, err)
	}
	var renewals, reads atomic.Int64
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		switch {
		case !e.answered: // only answers count, because a slow call is repeated
		case e.op == opRenew:
			renewals.Add(1)
		case e.op == opRead:
			reads.Add(1)
		}
		return true
	})
	defer b.node.setCallHook(nil)
	for _, n := range []int{1, maxRenewKeys, maxRenewKeys + 1, len(keys)} {
		renewals.Store(0)
		r, err := lease.Renew(ctx, keys[:n]...)
		require.NoError(t, err, "%d keys", n)
		require.Len(t, r.Entries, n)
		require.Equal(t, int64((n+maxRenewKeys-1)/maxRenewKeys), renewals.Load(), "%d keys", n)
		require.Zero(t, reads.Load(), "%d keys", n)
	}
}
