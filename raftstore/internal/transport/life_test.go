package transport

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
	b.Become(func(h *Hello) { h.Life = newLife })
	for name, addr := range map[string]string{"old life": LifeAddr(b.Addr(), oldLife), "no life": b.Addr()} {
		_, err := a.Call(testContext(t), addr, 1, nil)
		require.ErrorIs(t, err, errOtherLife, name)
		require.ErrorIs(t, err, ErrNotSent, name)
		require.NotErrorIs(t, err, ErrPeerRefused, "no operator is needed")
		_, err = a.raftLayer().Dial(raft.ServerAddress(addr), time.Second)
		require.ErrorIs(t, err, errOtherLife, name)
	}
	mustCall(t, a, LifeAddr(b.Addr(), newLife), "the new life")
	conn, err := a.raftLayer().Dial(raft.ServerAddress(LifeAddr(b.Addr(), newLife)), time.Second)
	require.NoError(t, err)
	conn.Close()
}

// The dialling side judges too: an answer of another life than the wanted one
// is no connection, with any verdict in it.
func TestAnswerOfAnotherLifeIsRefused(t *testing.T) {
	own := Hello{version: wireVersion, ID: "a", Incarnation: disk.Incarnation{1}, wanted: oldLife}
	other := own.asPeer("b")
	other.Life = newLife
	require.ErrorIs(t, own.judge(other, KindRaft, verdictWelcome, "b"), errOtherLife)
	require.NoError(t, own.judge(other, KindSetup, verdictWelcome, "b"))
	other.Life = oldLife
	require.NoError(t, own.judge(other, KindRaft, verdictWelcome, "b"))
	other.Incarnation = disk.Incarnation{2}
	require.ErrorIs(t, own.judge(other, KindRaft, verdictWelcome, "b"), ErrPeerRefused)
}

// A node that becomes another server drops the connections of the old one, and
// the calls under way.
func TestConnectionsEndWithALife(t *testing.T) {
	a, b := startPair(t)
	dialled, accepted := raftPair(t, a, b)
	mustCall(t, a, b.Addr(), "x")
	own := b.Greeting()
	b.Become(func(h *Hello) { h.Life = newLife })
	for _, conn := range []interface{ Read([]byte) (int, error) }{dialled, accepted} {
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
	}
	_, err := b.establish(dialled, KindRaft, own, a.Greeting(), false)
	require.ErrorIs(t, err, errOtherLife, "a hello that was begun before")
	require.Empty(t, b.Conns())
}

// Nodes that do not belong to one founding of the cluster exchange nothing but
// the messages that found and join.
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
			a.Become(func(h *Hello) { h.Incarnation = tc.a })
			b.Become(func(h *Hello) { h.Incarnation = tc.b })
			_, err := a.Call(testContext(t), b.Addr(), 1, nil)
			require.ErrorContains(t, err, tc.text)
			require.ErrorIs(t, err, ErrNotSent)
			require.Equal(t, tc.refused, strings.Contains(err.Error(), ErrPeerRefused.Error()))
			_, err = a.raftLayer().Dial(raft.ServerAddress(b.Addr()), time.Second)
			require.ErrorContains(t, err, tc.text)
			conn, err := a.dial(testContext(t), KindSetup, b.Addr())
			require.NoError(t, err)
			require.Equal(t, tc.b, conn.hello.Incarnation)
			conn.Close()
		})
	}
}

// Of two processes that use copies of one directory, or of an older copy and
// the directory itself, one takes part: the newest start that was seen.
func TestOlderStartIsRefused(t *testing.T) {
	a, b := startPair(t)
	start := func(starts uint32, boot uint64) {
		b.Become(func(h *Hello) { h.Life, h.Starts, h.Boot = newLife, starts, boot })
	}
	there := LifeAddr(b.Addr(), newLife)
	start(5, 1)
	mustCall(t, a, there, "the first that is seen")
	for name, tc := range map[string]struct {
		starts uint32
		boot   uint64
	}{"earlier": {4, 1}, "same start": {5, 2}} {
		start(tc.starts, tc.boot)
		require.Eventually(t, func() bool { // a broken connection is noticed first
			_, err := a.Call(testContext(t), there, 1, nil)
			return errors.Is(err, ErrPeerRefused) && strings.Contains(err.Error(), "later start")
		}, 10*time.Second, time.Millisecond, name)
		_, err := b.Call(testContext(t), a.Addr(), 1, nil)
		require.ErrorIs(t, err, ErrPeerRefused, name)
		require.ErrorContains(t, err, "end this process", name)
		conn, err := b.dial(testContext(t), KindSetup, a.Addr())
		require.NoError(t, err, "it may ask why")
		conn.Close()
	}
	start(6, 2)
	require.Eventually(t, func() bool {
		_, err := a.Call(testContext(t), there, 1, nil)
		return err == nil
	}, 10*time.Second, time.Millisecond)
	mustCall(t, b, a.Addr(), "a later start")
}

// P2: whose answer a request brings along is said by its connection.
func TestP2TheCallerIsWhoseConnectionItIs(t *testing.T) {
	a, b := startPair(t)
	a.Become(func(h *Hello) { h.Life = oldLife })
	caller := make(chan raft.ServerID, 1)
	answer := func(ctx context.Context, _ byte, _ []byte) []byte {
		caller <- Caller(ctx)
		return nil
	}
	a.Serve(answer)
	b.Serve(answer)
	for to, want := range map[string]raft.ServerID{b.Addr(): ServerID("a", oldLife), a.Addr(): ServerID("a", oldLife)} {
		_, err := a.Call(testContext(t), to, 1, nil)
		require.NoError(t, err)
		require.Equal(t, want, <-caller)
	}
}

func TestServerIDs(t *testing.T) {
	id := ServerID("a", oldLife)
	require.Equal(t, raft.ServerID("a#0100000000000000"), id)
	node, life := SplitServer(id)
	require.Equal(t, "a", node)
	require.Equal(t, oldLife, life)
	require.Equal(t, "[::1]:7001", PlainAddr(LifeAddr("[::1]:7001", newLife)))
	for _, addr := range []string{"h:1", "h:1#", "h:1#zz", "h:1#01"} {
		plain, life := splitAddr(addr)
		require.Equal(t, addr, plain)
		require.Zero(t, life)
	}
	require.Equal(t, raft.ServerID("a"), ServerID("a", disk.Life{}))
}
