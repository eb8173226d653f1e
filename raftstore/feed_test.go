package raftstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
	"github.com/holdfast-dcs/holdfast/internal/kvtree"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// change writes or deletes a key of the tree at that entry, and notifies the feed.
func (f *feed) change(t testing.TB, index uint64, w dcs.Write) {
	require.NoError(t, f.tree.Commit(dcs.Revision(index), dcs.Txn{Then: []dcs.Write{w}}, kvtree.Options{}))
	f.changed(index, []string{w.Key})
}

func TestFeedSendsWhatFollows(t *testing.T) {
	f := newFeed(kvtree.New())
	f.change(t, 2, dcs.Put("a", []byte("1")))
	f.changed(3, []string{})
	f.change(t, 4, dcs.Delete("a"))
	f.change(t, 5, dcs.Put("b", nil))
	m, upTo, kept := f.since(2)
	require.True(t, kept)
	require.EqualValues(t, 5, upTo)
	got, err := decodeFeedMessage(m)
	require.NoError(t, err)
	require.Len(t, got.changes, 2)
	require.Equal(t, []string{"a"}, got.changes[0].deleted)
	require.Equal(t, []dcs.Entry{{Key: "b", Created: 5, Modified: 5}}, got.changes[1].wrote)
	m, upTo, kept = f.since(5)
	require.Nil(t, m)
	require.True(t, kept)
	require.EqualValues(t, 5, upTo)
	news := f.next()
	f.changed(6, []string{})
	select {
	case <-news:
		t.Fatal("an entry that changed nothing wakes the streams")
	default:
	}
	f.change(t, 7, dcs.Put("b", nil))
	<-news
	m, upTo, _ = f.since(9)
	require.Nil(t, m, "a client that is ahead is sent changes that it has")
	require.EqualValues(t, 9, upTo)

	f.changed(20, nil) // a snapshot has replaced the tree
	_, _, kept = f.since(7)
	require.False(t, kept)
	_, _, kept = f.since(20)
	require.True(t, kept)
}

func TestFeedIsBounded(t *testing.T) {
	for name, size := range map[string]int{"number": 0, "bytes": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(kvtree.New())
			n := uint64(feedChanges + 10)
			if size > 0 {
				n = feedBytes/uint64(size) + 10
			}
			for i := range n {
				f.change(t, i+1, dcs.Put("k", make([]byte, size)))
			}
			require.LessOrEqual(t, len(f.list), feedChanges)
			require.LessOrEqual(t, f.size, feedBytes)
			_, _, kept := f.since(f.base - 1)
			require.False(t, kept)
			pos, messages := f.base, 0
			for {
				m, upTo, kept := f.since(pos)
				require.True(t, kept)
				if pos = upTo; m == nil {
					break
				}
				messages++
				require.LessOrEqual(t, len(m), pushBytes+size+100)
			}
			require.Equal(t, n, pos)
			require.LessOrEqual(t, messages, 2*feedBytes/pushBytes)
		})
	}
}

func FuzzDecodeFeed(f *testing.F) {
	f.Add(feedRequest{kind: feedChange, revision: 3, prefix: "p", every: time.Second}.encode())
	f.Add(encodeTree(3, []dcs.Entry{{Key: "k", Value: []byte("v")}}, true))
	f.Add(encodeBeat(7))
	f.Add(encodeChanges([]treeChange{{index: 4, wrote: []dcs.Entry{{Key: "k"}}, deleted: []string{"d"}}}, 9))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decodeFeedRequest(data); err == nil {
			again, err := decodeFeedRequest(r.encode())
			require.NoError(t, err)
			require.Equal(t, r, again)
		}
		_, _ = decodeFeedMessage(data)
	})
}

// A client that asks for changes that are not kept gets the tree, and misses no change.
func TestClientFarBehindGetsTheTree(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	tc.leader()
	ctx := testCtx(t)
	c := tc.client()
	b := tc.node[0]
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("gone", nil), dcs.Put("stays", nil)}})
	require.NoError(t, err)
	first, err := c.Wait(ctx, "", 0)
	require.NoError(t, err)
	off := func(context.Context, []byte, func([]byte) error) error { return errCut }
	b.node.net.ServeClients(transport.ClientHandler{Call: b.node.answerClient, Stream: off}) // nothing is sent any more
	b.node.net.Become(func(*transport.Hello) {})
	r, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Delete("gone"), dcs.Put("new", make([]byte, state.MaxValue))}})
	require.NoError(t, err)
	b.node.feed.mu.Lock()
	b.node.feed.base, b.node.feed.list = uint64(r), nil
	b.node.feed.mu.Unlock()
	b.node.net.ServeClients(transport.ClientHandler{Call: b.node.answerClient, Stream: b.streamToClient})
	s, err := c.Wait(ctx, "", first.Revision)
	require.NoError(t, err)
	want, err := b.Snapshot(ctx, "")
	require.NoError(t, err)
	require.Equal(t, want.Entries, s.Entries)
}

// The stream of a node that is cut off from the others has no beats, so that the client
// changes to another node.
func TestCutOffNodeSendsNoBeats(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t, 3, nil)
	away := (tc.leader() + 1) % 3
	cut := tc.node[away]
	ctx := testCtx(t)
	s := &clientStream{b: cut, every: leastBeat}
	var beats int
	s.push = func(m []byte) error {
		if got, err := decodeFeedMessage(m); err == nil && got.kind == feedBeat {
			beats++
		}
		return nil
	}
	cut.streams.enterEvery(leastBeat)
	defer cut.streams.leave()
	require.Eventually(t, func() bool { return s.beat(cut.streams.view()) == nil && beats > 1 }, 10*time.Second, time.Millisecond)

	c := tc.client(func(c *ClientConfig) { c.Endpoints = []string{cut.node.net.Addr()}; c.NoDiscovery = true })
	first, err := c.Wait(ctx, "", 0)
	require.NoError(t, err)
	for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
		cut.node.net.Gate(k, errCut)
	}
	defer func() {
		for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
			cut.node.net.Gate(k, nil)
		}
	}()
	require.Eventually(t, func() bool { return cut.streams.view().last != nil }, 10*time.Second, time.Millisecond)
	before := beats
	for range 20 {
		require.NoError(t, s.beat(cut.streams.view()))
		backoff.Sleep(ctx, leastBeat/2)
	}
	require.LessOrEqual(t, beats, before+1, "a node without a quorum confirms that it has one")
	_, err = c.Wait(ctx, "", first.Revision+1000)
	require.ErrorIs(t, err, dcs.ErrUnavailable, "a Wait over a node that is cut off never ends")
	_, err = c.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, cut.node.net.Addr(), "the error does not name the node")
}
