package raftstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
)

var oldLife, newLife = disk.Life{1}, disk.Life{2}

// P2: nothing that was meant for a node's old life reaches its new one, on
// either kind of connection: a node that lost its data is another server.
func TestP2NothingReachesAnotherLife(t *testing.T) {
	a, b := startPair(t)
	b.become(func(h *hello) { h.life = newLife })
	for name, addr := range map[string]string{"old life": lifeAddr(b.addr(), oldLife), "no life": b.addr()} {
		_, err := a.call(testContext(t), addr, 1, nil)
		require.ErrorIs(t, err, errOtherLife, name)
		require.ErrorIs(t, err, errNotSent, name)
		require.NotErrorIs(t, err, errPeerRefused, "no operator is needed")
		_, err = a.raftLayer().Dial(raft.ServerAddress(addr), time.Second)
		require.ErrorIs(t, err, errOtherLife, name)
	}
	mustCall(t, a, lifeAddr(b.addr(), newLife), "the new life")
	conn, err := a.raftLayer().Dial(raft.ServerAddress(lifeAddr(b.addr(), newLife)), time.Second)
	require.NoError(t, err)
	conn.Close()
}

// The dialling side judges too: an answer of another life than the wanted one
// is no connection, whatever the verdict in it.
func TestAnswerOfAnotherLifeIsRefused(t *testing.T) {
	own := hello{version: wireVersion, id: "a", incarnation: disk.Incarnation{1}, wanted: oldLife}
	other := own.asPeer("b")
	other.life = newLife
	require.ErrorIs(t, own.judge(other, kindRaft, verdictWelcome, "b"), errOtherLife)
	require.NoError(t, own.judge(other, kindSetup, verdictWelcome, "b"))
	other.life = oldLife
	require.NoError(t, own.judge(other, kindRaft, verdictWelcome, "b"))
	other.incarnation = disk.Incarnation{2}
	require.ErrorIs(t, own.judge(other, kindRaft, verdictWelcome, "b"), errPeerRefused)
}

// A node that becomes another server drops what it had as the old one, and
// what was under way.
func TestConnectionsEndWithALife(t *testing.T) {
	a, b := startPair(t)
	dialled, accepted := raftPair(t, a, b)
	mustCall(t, a, b.addr(), "x")
	own := b.greeting()
	b.become(func(h *hello) { h.life = newLife })
	for _, conn := range []interface{ Read([]byte) (int, error) }{dialled, accepted} {
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
	}
	_, err := b.establish(dialled, kindRaft, own, a.greeting(), false)
	require.ErrorIs(t, err, errOtherLife, "a hello that was begun before")
	require.Empty(t, b.conns())
}

// Nodes that do not belong to one founding of the cluster exchange nothing but
// what founds and joins.
func TestIncarnationsDoNotMix(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b    disk.Incarnation
		refused bool
		text    string
	}{
		"two foundings": {disk.Incarnation{1}, disk.Incarnation{2}, true, "another incarnation of the cluster (02000000000000000000000000000000, this node's is 01000000000000000000000000000000)"},
		"not founded":   {disk.Incarnation{}, disk.Incarnation{}, false, errUnfounded.Error()},
		"only one":      {disk.Incarnation{}, disk.Incarnation{2}, false, errUnfounded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := startPair(t)
			a.become(func(h *hello) { h.incarnation = tc.a })
			b.become(func(h *hello) { h.incarnation = tc.b })
			_, err := a.call(testContext(t), b.addr(), 1, nil)
			require.ErrorContains(t, err, tc.text)
			require.ErrorIs(t, err, errNotSent)
			require.Equal(t, tc.refused, strings.Contains(err.Error(), errPeerRefused.Error()))
			_, err = a.raftLayer().Dial(raft.ServerAddress(b.addr()), time.Second)
			require.ErrorContains(t, err, tc.text)
			conn, err := a.dial(testContext(t), kindSetup, b.addr())
			require.NoError(t, err)
			require.Equal(t, tc.b, conn.hello.incarnation)
			conn.Close()
		})
	}
}

// Of two processes that use copies of one directory, or of an older copy and
// the directory itself, one takes part: the newest start that was seen.
func TestOlderStartIsRefused(t *testing.T) {
	a, b := startPair(t)
	start := func(starts uint32, boot uint64) {
		b.become(func(h *hello) { h.life, h.starts, h.boot = newLife, starts, boot })
	}
	there := lifeAddr(b.addr(), newLife)
	start(5, 1)
	mustCall(t, a, there, "the first that is seen")
	for name, tc := range map[string]struct {
		starts uint32
		boot   uint64
	}{"earlier": {4, 1}, "same start": {5, 2}} {
		start(tc.starts, tc.boot)
		require.Eventually(t, func() bool { // a broken connection is noticed first
			_, err := a.call(testContext(t), there, 1, nil)
			return errors.Is(err, errPeerRefused) && strings.Contains(err.Error(), "later start")
		}, 10*time.Second, time.Millisecond, name)
		_, err := b.call(testContext(t), a.addr(), 1, nil)
		require.ErrorIs(t, err, errPeerRefused, name)
		require.ErrorContains(t, err, "end this process", name)
		conn, err := b.dial(testContext(t), kindSetup, a.addr())
		require.NoError(t, err, "it may ask why")
		conn.Close()
	}
	start(6, 2)
	require.Eventually(t, func() bool {
		_, err := a.call(testContext(t), there, 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
	mustCall(t, b, a.addr(), "a later start")
}

// P2: whose answer a request brings along is said by its connection.
func TestP2TheCallerIsWhoseConnectionItIs(t *testing.T) {
	a, b := startPair(t)
	a.become(func(h *hello) { h.life = oldLife })
	caller := make(chan raft.ServerID, 1)
	answer := func(ctx context.Context, _ byte, _ []byte) []byte {
		caller <- callerOf(ctx)
		return nil
	}
	a.serve(answer)
	b.serve(answer)
	for to, want := range map[string]raft.ServerID{b.addr(): serverID("a", oldLife), a.addr(): serverID("a", oldLife)} {
		_, err := a.call(testContext(t), to, 1, nil)
		require.NoError(t, err)
		require.Equal(t, want, <-caller)
	}
}

func TestServerIDs(t *testing.T) {
	id := serverID("a", oldLife)
	require.Equal(t, raft.ServerID("a#0100000000000000"), id)
	node, life := splitServer(id)
	require.Equal(t, "a", node)
	require.Equal(t, oldLife, life)
	require.Equal(t, "[::1]:7001", plainAddr(lifeAddr("[::1]:7001", newLife)))
	for _, addr := range []string{"h:1", "h:1#", "h:1#zz", "h:1#01"} {
		plain, life := splitAddr(addr)
		require.Equal(t, addr, plain)
		require.Zero(t, life)
	}
	require.Equal(t, raft.ServerID("a"), serverID("a", disk.Life{}))
}
