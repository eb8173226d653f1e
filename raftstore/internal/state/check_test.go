package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/codec"
)

// proposal is a command as another node sends it.
type proposal struct {
	key  Key
	data []byte
}

// badProposals lists commands that another node may send and that must never
// reach the log.
func badProposals() map[string]struct {
	edit func(c *Command, r *proposal)
	want string
} {
	type bad = struct {
		edit func(c *Command, r *proposal)
		want string
	}
	txn := func(edit func(*dcs.Txn)) func(*Command, *proposal) {
		return func(c *Command, r *proposal) { edit(&c.Txn); r.data = c.Encode() }
	}
	grant := func(lease dcs.LeaseID, ttl time.Duration) func(*Command, *proposal) {
		return func(c *Command, r *proposal) {
			c.Kind, c.Lease, c.TTL = KindGrant, lease, ttl
			r.data = c.Encode()
		}
	}
	return map[string]bad{
		"version":     {func(_ *Command, r *proposal) { r.data[0] = Level + 1 }, "format version 2 and this release reads up to 1"},
		"no version":  {func(_ *Command, r *proposal) { r.data[0] = 0 }, "format version 0"},
		"kind":        {func(_ *Command, r *proposal) { r.data[1] = 99 }, "unknown kind 99"},
		"empty":       {func(_ *Command, r *proposal) { r.data = nil }, codec.ErrShort.Error()},
		"cut off":     {func(_ *Command, r *proposal) { r.data = r.data[:len(r.data)-1] }, codec.ErrShort.Error()},
		"bytes after": {func(_ *Command, r *proposal) { r.data = append(r.data, 0) }, codec.ErrShort.Error()},
		"a list that is not there": {func(_ *Command, r *proposal) {
			e := &codec.Encoder{B: r.data[:2]}
			e.Uint(1)
			e.Uint(1)
			e.Uint(1)
			e.Uint(1 << 62)
			r.data = e.B
		}, codec.ErrShort.Error()},
		"another number": {func(_ *Command, r *proposal) { r.key.Seq++ }, "does not match"},
		"another client": {func(_ *Command, r *proposal) { r.key.Client++ }, "does not match"},
		"term": {func(c *Command, r *proposal) {
			*c = Command{Kind: KindTerm, Term: 1}
			r.data, r.key = c.Encode(), c.Key()
		}, "only a leader"},
		"expire": {func(c *Command, r *proposal) {
			*c = Command{Kind: KindExpire, Term: 1, Leases: []dcs.LeaseID{"r-1"}}
			r.data, r.key = c.Encode(), c.Key()
		}, "only a leader"},
		"level": {func(c *Command, r *proposal) {
			*c = Command{Kind: KindLevel, Level: 1}
			r.data, r.key = c.Encode(), c.Key()
		}, "only a leader"},
		"nothing written": {txn(func(t *dcs.Txn) { t.Then = nil }), "Then is empty"},
		"key":             {txn(func(t *dcs.Txn) { t.Then[0].Key = "/a" }), "begins with a slash"},
		"condition":       {txn(func(t *dcs.Txn) { t.If = []dcs.Cond{{Key: "a", On: 77}} }), "unknown"},
		"value":           {txn(func(t *dcs.Txn) { t.Then[0].Value = make([]byte, MaxValue+1) }), fmt.Sprint("at most ", MaxValue)},
		"bytes": {txn(func(t *dcs.Txn) {
			t.Then[0].Value = make([]byte, MaxValue)
			t.Then = append(t.Then, dcs.Put("other", make([]byte, MaxTxnBytes-MaxValue)))
		}), fmt.Sprint("at most ", MaxTxnBytes)},
		"operations": {txn(func(t *dcs.Txn) {
			for i := range MaxTxnOps {
				t.If = append(t.If, dcs.Absent(fmt.Sprint("k", i)))
			}
		}), fmt.Sprint("at most ", MaxTxnOps)},
		"name of a lease": {txn(func(t *dcs.Txn) {
			t.Then[0].Lease = dcs.LeaseID(strings.Repeat("l", commandOverhead+MaxTxnBytes))
		}), "bytes"},
		"no TTL":       {grant("r-1", 0), "TTL"},
		"negative TTL": {grant("r-1", -time.Second), "TTL"},
		"long TTL":     {grant("r-1", MaxTTL+1), "TTL"},
		"no lease":     {grant("", time.Second), "lease"},
		"long lease":   {grant(dcs.LeaseID(strings.Repeat("l", maxLeaseID+1)), time.Second), "lease"},
	}
}

// P15: a leader that proposed such a command would stop every node of the
// cluster, for good.
func TestP15BadCommandsAreRefused(t *testing.T) {
	for name, bad := range badProposals() {
		t.Run(name, func(t *testing.T) {
			c := &Command{Kind: KindTxn, Client: 2, Seq: 1, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte("v"))}}}
			p := &proposal{key: c.Key(), data: c.Encode()}
			require.NoError(t, New().CheckProposal(p.key, p.data))
			bad.edit(c, p)
			require.ErrorContains(t, New().CheckProposal(p.key, p.data), bad.want)
		})
	}
}

// The largest command that Caps allows fits.
func TestLargestCommandIsProposed(t *testing.T) {
	c := &Command{Kind: KindTxn, Client: 1 << 60, Seq: 1 << 60, Low: 1 << 60}
	left := MaxTxnBytes
	lease := dcs.LeaseID(strings.Repeat("l", maxLeaseID))
	for i := range MaxTxnOps {
		w := dcs.PutLeased(fmt.Sprintf("%0*d", dcs.MaxKey, i), nil, lease)
		if left -= len(w.Key); left < 0 {
			break
		}
		c.Txn.Then = append(c.Txn.Then, w)
	}
	c.Txn.Then[0].Value = make([]byte, min(left, MaxValue))
	require.NoError(t, New().CheckProposal(c.Key(), c.Encode()))
	require.LessOrEqual(t, len(c.Encode()), MaxCommand)
}

// Lists that are longer than any command needs are refused before they are made.
func TestLongListsAreRefused(t *testing.T) {
	c := &Command{Kind: KindTxn}
	c.Txn.If = make([]dcs.Cond, MaxTxnOps+1)
	require.ErrorIs(t, New().CheckProposal(c.Key(), c.Encode()), codec.ErrLongList)
	c.Txn.If, c.Txn.Then = nil, make([]dcs.Write, MaxTxnOps+1)
	require.ErrorIs(t, New().CheckProposal(c.Key(), c.Encode()), codec.ErrLongList)
}

func FuzzCheckProposal(f *testing.F) {
	for _, c := range sampleCommands() {
		f.Add(c.Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New()
		c, err := DecodeCommand(data)
		if err != nil {
			require.Error(t, s.CheckProposal(Key{}, data))
			return
		}
		if s.CheckProposal(c.Key(), data) != nil {
			return
		}
		// Every node can apply a command that is proposed.
		s.OnBroken = func(err error) { t.Error(err) }
		s.apply(&Command{Kind: KindOpen}, 1, 1)
		s.apply(&c, 2, 1)
		require.NoError(t, s.Failed())
	})
}
