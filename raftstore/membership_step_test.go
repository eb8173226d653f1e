package raftstore

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// seatWalk walks over all orders of steps, losses of the data and new leaders for one
// node. A leader that knows only the configuration decides on each step.
type configWalk struct {
	t     *testing.T
	voter bool
	seen  map[string]bool
}

func (w *configWalk) walk(lives []raft.Server, life byte) {
	w.t.Helper()
	key := fmt.Sprint(lives, life)
	if w.seen[key] {
		return
	}
	w.seen[key] = true
	require.NotEmpty(w.t, lives, "no configuration knows the node")
	require.LessOrEqual(w.t, voters(lives), 1)
	require.Equal(w.t, w.voter, isVotersNode(lives), "%v", lives)
	if life < 4 {
		w.walk(lives, life+1) // the node loses its data
	}
	e := placement{id: "d", addr: "h:1", life: disk.Life{life}, voter: isVotersNode(lives)}
	step, more := e.next(lives)
	if !more {
		require.Equal(w.t, w.server(disk.Life{life}), lives[0])
		require.Len(w.t, lives, 1)
		return
	}
	w.walk(apply(w.t, lives, step), life)
}

func (w *configWalk) server(life disk.Life) raft.Server {
	s := raft.Server{ID: transport.ServerID("d", life), Address: serverAddr("h:1", life)}
	if !w.voter {
		s.Suffrage = raft.Nonvoter
	}
	return s
}

// apply applies a step as Raft does, and requires that Raft accepts it.
func apply(t *testing.T, lives []raft.Server, step configStep) (next []raft.Server) {
	t.Helper()
	at := -1
	for i, s := range lives {
		if s.ID == step.server {
			at = i
			continue
		}
		require.NotEqual(t, step.addr, s.Address, "Raft refuses two servers with one address")
	}
	next = append(next, lives...)
	switch step.kind {
	case stepAdd:
		require.Negative(t, at)
		return append(next, raft.Server{Suffrage: raft.Nonvoter, ID: step.server, Address: step.addr})
	case stepRemove:
		require.GreaterOrEqual(t, at, 0)
		return append(next[:at], next[at+1:]...)
	case stepDemote:
		next[at].Suffrage = raft.Nonvoter
	case stepVote:
		next[at].Suffrage, next[at].Address = raft.Voter, step.addr
	case stepMark, stepAddress, stepVotersAddress:
		require.Equal(t, step.kind == stepVotersAddress, isVoter(lives[at]))
		next[at].Address = step.addr
	}
	return next
}

// A node that loses its data repeatedly, under leaders that are killed between any two
// steps, keeps its place. It has one life in the end, with a vote exactly if it had one, and
// there are never more voters than nodes.
func TestNodeKeepsItsPlace(t *testing.T) {
	for _, voter := range []bool{true, false} {
		t.Run(fmt.Sprintf("voter=%v", voter), func(t *testing.T) {
			w := &configWalk{t: t, voter: voter, seen: map[string]bool{}}
			w.walk([]raft.Server{w.server(disk.Life{1})}, 1)
			require.Greater(t, len(w.seen), 20)
		})
	}
}

// A recovery that finds a node between the loss of its old life's vote and the vote of
// the new one gives the node a vote.
func TestRecoveredNodeKeepsItsVote(t *testing.T) {
	life := func(node string, life byte, suffrage raft.ServerSuffrage) raft.Server {
		l := disk.Life{life}
		return raft.Server{Suffrage: suffrage, ID: transport.ServerID(node, l), Address: serverAddr(node+":1", l)}
	}
	a := ancestry{members: []raft.Server{
		life("a", 1, raft.Voter),
		life("b", 1, raft.Nonvoter), life("b", 2, raft.Nonvoter),
		life("c", 1, raft.Nonvoter),
	}}
	got := map[string]raft.ServerSuffrage{}
	for _, s := range a.newMembers(Config{ID: "a", Advertise: "a:1"}, disk.Life{9}).Servers {
		got[transport.NodeOf(s.ID)] = s.Suffrage
	}
	require.Equal(t, map[string]raft.ServerSuffrage{"a": raft.Voter, "b": raft.Staging, "c": raft.Nonvoter}, got)
}
