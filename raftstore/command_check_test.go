package raftstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// badProposals lists commands that another node may send and that must never
// reach the log.
func badProposals() map[string]struct {
	edit func(c *command, r *request)
	want string
} {
	type bad = struct {
		edit func(c *command, r *request)
		want string
	}
	txn := func(edit func(*dcs.Txn)) func(*command, *request) {
		return func(c *command, r *request) { edit(&c.txn); r.data = c.encode() }
	}
	grant := func(lease dcs.LeaseID, ttl time.Duration) func(*command, *request) {
		return func(c *command, r *request) {
			c.kind, c.lease, c.ttl = cmdGrant, lease, ttl
			r.data = c.encode()
		}
	}
	return map[string]bad{
		"version":     {func(_ *command, r *request) { r.data[0] = commandVersion + 1 }, "format version 2 and this release reads up to 1"},
		"no version":  {func(_ *command, r *request) { r.data[0] = 0 }, "format version 0"},
		"kind":        {func(_ *command, r *request) { r.data[1] = 99 }, "unknown kind 99"},
		"empty":       {func(_ *command, r *request) { r.data = nil }, errShort.Error()},
		"cut off":     {func(_ *command, r *request) { r.data = r.data[:len(r.data)-1] }, errShort.Error()},
		"bytes after": {func(_ *command, r *request) { r.data = append(r.data, 0) }, errShort.Error()},
		"a list that is not there": {func(_ *command, r *request) {
			e := &encoder{b: r.data[:2]}
			e.uint(1)
			e.uint(1)
			e.uint(1)
			e.uint(1 << 62)
			r.data = e.b
		}, errShort.Error()},
		"another number": {func(_ *command, r *request) { r.key.seq++ }, "does not match"},
		"another client": {func(_ *command, r *request) { r.key.client++ }, "does not match"},
		"term": {func(c *command, r *request) {
			*c = command{kind: cmdTerm, term: 1}
			r.data, r.key = c.encode(), keyOf(c)
		}, "only a leader"},
		"expire": {func(c *command, r *request) {
			*c = command{kind: cmdExpire, term: 1, leases: []dcs.LeaseID{"r-1"}}
			r.data, r.key = c.encode(), keyOf(c)
		}, "only a leader"},
		"nothing written": {txn(func(t *dcs.Txn) { t.Then = nil }), "Then is empty"},
		"key":             {txn(func(t *dcs.Txn) { t.Then[0].Key = "/a" }), "begins with a slash"},
		"condition":       {txn(func(t *dcs.Txn) { t.If = []dcs.Cond{{Key: "a", On: 77}} }), "unknown"},
		"value":           {txn(func(t *dcs.Txn) { t.Then[0].Value = make([]byte, maxValue+1) }), fmt.Sprint("at most ", maxValue)},
		"bytes": {txn(func(t *dcs.Txn) {
			t.Then[0].Value = make([]byte, maxValue)
			t.Then = append(t.Then, dcs.Put("other", make([]byte, maxTxnBytes-maxValue)))
		}), fmt.Sprint("at most ", maxTxnBytes)},
		"operations": {txn(func(t *dcs.Txn) {
			for i := range maxTxnOps {
				t.If = append(t.If, dcs.Absent(fmt.Sprint("k", i)))
			}
		}), fmt.Sprint("at most ", maxTxnOps)},
		"name of a lease": {txn(func(t *dcs.Txn) { t.Then[0].Lease = dcs.LeaseID(strings.Repeat("l", commandOverhead+maxTxnBytes)) }), "bytes"},
		"no TTL":          {grant("r-1", 0), "TTL"},
		"negative TTL":    {grant("r-1", -time.Second), "TTL"},
		"long TTL":        {grant("r-1", maxTTL+1), "TTL"},
		"no lease":        {grant("", time.Second), "lease"},
		"long lease":      {grant(dcs.LeaseID(strings.Repeat("l", maxLeaseID+1)), time.Second), "lease"},
	}
}

// P15: a leader that proposed such a command would stop every node of the
// cluster, for good.
func TestP15LeaderRefusesBadCommands(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	leader, other := tc.node[tc.leader()], tc.node[tc.follower()]
	client, o := other.client(ctx)
	require.NoError(t, o.err)
	for name, bad := range badProposals() {
		t.Run(name, func(t *testing.T) {
			c := &command{kind: cmdTxn, client: client.id, seq: 1, low: 1, txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}}}
			r := &request{op: opPropose, voter: other.node.id, key: keyOf(c), data: c.encode()}
			bad.edit(c, r)
			before := leader.node.raft.LastIndex()
			body, err := other.node.net.call(ctx, leader.node.net.addr(), opPropose, r.encode())
			require.NoError(t, err)
			rep, err := decodeReply(body)
			require.NoError(t, err)
			require.Equal(t, replyNotDone, rep.kind, "%s", rep.text)
			require.Contains(t, rep.text, bad.want)
			require.Equal(t, before, leader.node.raft.LastIndex(), "it is in the log")
		})
	}
	for _, b := range tc.node {
		require.NoError(t, b.node.state.failed())
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("after", nil)}})
		require.NoError(t, err)
	}
}

// The largest command that Caps allows fits.
func TestLargestCommandIsProposed(t *testing.T) {
	c := &command{kind: cmdTxn, client: 1 << 60, seq: 1 << 60, low: 1 << 60}
	left := maxTxnBytes
	lease := dcs.LeaseID(strings.Repeat("l", maxLeaseID))
	for i := range maxTxnOps {
		w := dcs.PutLeased(fmt.Sprintf("%0*d", dcs.MaxKey, i), nil, lease)
		if left -= len(w.Key); left < 0 {
			break
		}
		c.txn.Then = append(c.txn.Then, w)
	}
	c.txn.Then[0].Value = make([]byte, min(left, maxValue))
	require.NoError(t, checkProposal(keyOf(c), c.encode()))
	require.LessOrEqual(t, len(c.encode()), maxCommand)
}

func FuzzCheckProposal(f *testing.F) {
	for _, c := range sampleCommands() {
		f.Add(c.encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommand(data)
		if err != nil {
			require.Error(t, checkProposal(waitKey{}, data))
			return
		}
		if checkProposal(keyOf(&c), data) != nil {
			return
		}
		// What is proposed, every node can apply.
		s := newFSM()
		s.onBroken = func(err error) { t.Error(err) }
		s.apply(&command{kind: cmdOpen}, 1, 1)
		s.apply(&c, 2, 1)
		require.NoError(t, s.failed())
	})
}
