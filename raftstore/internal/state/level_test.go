package state

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// newRelease is the state of a release that understands one level more.
func newRelease() *FSM {
	f := New()
	f.understands = Level + 1
	return f
}

// A command of the new release is proposed only when no node of the old one is
// left, and the old one stops with an error at an entry that it does not understand.
func TestTwoReleases(t *testing.T) {
	older, newer := New(), newRelease()
	var broken error
	older.OnBroken = func(err error) { broken = err }
	index := uint64(0)
	both := func(data []byte) {
		index++
		for _, f := range []*FSM{older, newer} {
			f.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data})
		}
	}
	both((&Command{Kind: KindOpen}).Encode())
	put := Command{Kind: KindTxn, Client: 1, Seq: 1, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}}
	both(put.Encode())
	require.Equal(t, encoded(t, older), encoded(t, newer), "two releases make one state")

	put.Seq = 2
	later := put.Encode()
	later[0] = Level + 1
	require.ErrorContains(t, older.CheckProposal(put.Key(), later), "format version 2")
	require.ErrorContains(t, newer.CheckProposal(put.Key(), later), "a command of feature level 2: the cluster stays at level 1 until every node")
	require.NoError(t, newer.CheckProposal(put.Key(), put.Encode()))

	require.NoError(t, older.Failed())
	both((&Command{Kind: KindLevel, Level: Level + 1}).Encode())
	require.ErrorContains(t, broken, "log entry 3: the cluster is at feature level 2 and this release understands up to 1: run the release")
	require.Equal(t, broken, older.Failed())
	require.EqualValues(t, 2, older.Applied())
	require.EqualValues(t, firstLevel, older.Level())
	require.NoError(t, newer.Failed())
	require.EqualValues(t, Level+1, newer.Level())
	require.NoError(t, newer.CheckProposal(put.Key(), later))
	both(later)
	_, found := older.Tree().Get("k")
	require.True(t, found)
	require.EqualValues(t, 2, older.Tree().Revision())
	require.EqualValues(t, 4, newer.Applied())

	both((&Command{Kind: KindLevel, Level: firstLevel}).Encode())
	require.EqualValues(t, Level+1, newer.Level(), "a level never falls")
}

// A snapshot carries the level, and a node that does not understand it stops.
func TestLevelInASnapshot(t *testing.T) {
	newer := newRelease()
	newer.Apply(&raft.Log{Index: 1, Term: 1, Type: raft.LogCommand, Data: (&Command{Kind: KindLevel, Level: Level + 1}).Encode()})
	b := encoded(t, newer)

	again := newRelease()
	require.NoError(t, restore(again, b))
	require.EqualValues(t, Level+1, again.Level())

	older := New()
	var broken error
	older.OnBroken = func(err error) { broken = err }
	err := restore(older, b)
	require.ErrorContains(t, err, "snapshot: the cluster is at feature level 2")
	require.Equal(t, err, broken)
	require.Equal(t, err, older.Unreadable())
	require.Zero(t, older.Applied())
}

// The own commands of a leader of any release are understood by every node.
func TestLeadersCommandsAreOfTheFirstLevel(t *testing.T) {
	for _, k := range []Kind{KindTerm, KindExpire, KindLevel} {
		require.EqualValues(t, firstLevel, (&Command{Kind: k}).Encode()[0])
	}
}
