package raftstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

var (
	incX = disk.Incarnation{1}
	incY = disk.Incarnation{2}
	incZ = disk.Incarnation{3}
)

// replyOf returns the answer of a node of an incarnation.
func replyOf(i disk.Incarnation, leader string, former ...disk.Incarnation) introReply {
	return introReply{peer: transport.Hello{Incarnation: i}, said: setupMessage{Leader: leader, Former: former}}
}

// The other nodes' answers decide which incarnation continues.
func TestIncarnationIsJudged(t *testing.T) {
	own := func(i disk.Incarnation, former ...disk.Incarnation) disk.Identity {
		return disk.Identity{Owner: disk.Owner{Node: "a", Members: []string{"a", "b", "c"}}, Incarnation: i, Former: former}
	}
	down := introReply{err: errNoLeader}
	for name, tc := range map[string]struct {
		own   disk.Identity
		first bool
		b, c  introReply
		want  string
		join  disk.Incarnation
		final bool
	}{
		"nobody answers":                        {own: own(incX), b: down, c: down},
		"the same":                              {own: own(incX), b: replyOf(incX, "b"), c: down},
		"one was recovered":                     {own: own(incX), b: down, c: replyOf(incY, "", incX), want: "has ended: node c", join: incY, final: true},
		"one was recovered, and one not":        {own: own(incX), b: replyOf(incX, "b"), c: replyOf(incY, "", incX), want: "has ended", join: incY, final: true},
		"recovered twice":                       {own: own(incX), b: replyOf(incY, "", incX), c: replyOf(incZ, "", incX, incY), want: "node c is of incarnation " + incZ.String(), join: incZ, final: true},
		"old nodes without a leader":            {own: own(incY, incX), first: true, b: replyOf(incX, ""), c: replyOf(incX, "")},
		"old nodes with a leader":               {own: own(incY, incX), first: true, b: replyOf(incX, "c"), c: replyOf(incX, "c"), want: "has not ended", join: incX, final: true},
		"old nodes with a leader, a week later": {own: own(incY, incX), b: replyOf(incX, "c"), c: replyOf(incX, "c")},
		"another survivor":                      {own: own(incY, incX), first: true, b: replyOf(incZ, "b", incX), c: down, want: "Only one node may be recovered", join: incZ, final: true},
		"another survivor, later":               {own: own(incY, incX), b: replyOf(incZ, "b", incX), c: down},
		"the first start of a founder":          {own: own(incY), first: true, b: replyOf(incX, "c"), c: down},
		"founded separately":                    {own: own(incY), b: replyOf(incX, "c"), c: replyOf(incX, "c"), want: "founded separately"},
	} {
		got := judgeIncarnation(tc.own, tc.first, map[string]introReply{"b": tc.b, "c": tc.c})
		if tc.want == "" {
			require.NoError(t, got.reason, name)
			continue
		}
		require.ErrorContains(t, got.reason, tc.want, name)
		require.Equal(t, tc.join, got.join, name)
		require.Equal(t, tc.final, got.final, name)
	}
}

// An empty node joins the incarnation that continues, even if another has a leader, and
// knows from then on which ones have ended.
func TestEmptyNodeJoinsTheLaterIncarnation(t *testing.T) {
	own := disk.Identity{Owner: disk.Owner{Node: "a", Members: []string{"a", "b", "c"}}, Life: newLife}
	peers := []Peer{{ID: "a", Addr: "a:1"}, {ID: "b", Addr: "b:1"}, {ID: "c", Addr: "c:1"}}
	got, err := firstStart(own, peers, map[string]introReply{"b": replyOf(incX, "b"), "c": replyOf(incY, "", incX)})
	require.NoError(t, err)
	require.Equal(t, incY, got.Incarnation)
	require.Equal(t, []disk.Incarnation{incX}, got.Former)
	_, err = firstStart(own, peers, map[string]introReply{"b": replyOf(incY, "b", incX), "c": replyOf(incZ, "c", incX)})
	require.ErrorContains(t, err, "different incarnations")
}
