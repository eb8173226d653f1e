package state

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestEachEntryNamesTheKeysItChanged(t *testing.T) {
	f := New()
	var changes [][]string
	var at []uint64
	f.OnChange = func(index uint64, keys []string) {
		at, changes = append(at, index), append(changes, slices.Clone(keys))
	}
	for i, c := range []Command{
		{Kind: KindOpen},
		{Kind: KindGrant, Client: 1, Seq: 1, Low: 1, Lease: "r-1", TTL: time.Second},
		{Kind: KindTxn, Client: 1, Seq: 2, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.PutLeased("a", nil, "r-1"), dcs.Put("b", nil), dcs.Delete("c")}}},
		{Kind: KindTxn, Client: 1, Seq: 3, Low: 1, Txn: dcs.Txn{If: []dcs.Cond{dcs.Absent("b")}, Then: []dcs.Write{dcs.Put("b", nil)}}},
		{Kind: KindRevoke, Client: 1, Seq: 4, Low: 1, Lease: "r-1"},
	} {
		f.Apply(&raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: c.Encode()})
	}
	f.Apply(&raft.Log{Index: 6, Term: 1, Type: raft.LogNoop})
	require.Equal(t, []uint64{1, 2, 3, 4, 5, 6}, at)
	require.Equal(t, [][]string{{}, {}, {"a", "b", "c"}, {}, {"a"}, {}}, changes)
	f.Reset()
	require.Nil(t, changes[6])
	require.Zero(t, at[6])
}
