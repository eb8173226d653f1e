package raftstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// underWay begins an attempt at addr, and returns it with the context that it ends.
func underWay(t *testing.T, addr string) (*attempt, context.Context) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return &attempt{to: addr, cancel: cancel}, ctx
}

// A change of the leader ends the calls to all other nodes at once. The loss of the
// leader ends none.
func TestTurnEndsCallsToOthers(t *testing.T) {
	r := newLeaderWatch()
	old, oldCtx := underWay(t, "old")
	leads, leadsCtx := underWay(t, "new")
	gone, goneCtx := underWay(t, "old")
	r.begin(old)
	r.begin(leads)
	r.begin(gone)
	r.end(gone)
	changed := r.next()
	r.turn("")
	<-changed
	require.NoError(t, oldCtx.Err(), "no node leads, and the old leader may still answer")
	changed = r.next()
	r.turn("new")
	<-changed
	require.ErrorIs(t, context.Cause(oldCtx), errMoved)
	require.NoError(t, leadsCtx.Err())
	require.NoError(t, goneCtx.Err(), "a call that has ended is cancelled")
}

// A node that closes ends the calls in progress, and those that begin later.
func TestShutEndsLaterCallsToo(t *testing.T) {
	r := newLeaderWatch()
	before, beforeCtx := underWay(t, "x")
	r.begin(before)
	r.shut()
	require.ErrorIs(t, context.Cause(beforeCtx), dcs.ErrClosed)
	after, afterCtx := underWay(t, "x")
	r.begin(after)
	require.ErrorIs(t, context.Cause(afterCtx), dcs.ErrClosed)
}

// The answers of the voters do not count on a node that Raft has deposed meanwhile, even
// if the node has not been notified yet.
func TestConfirmedAsksRaftLast(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		hold := make(chan struct{})
		l.voters.mu.Lock()
		l.voters.hold = map[string]chan struct{}{"b": hold}
		l.voters.mu.Unlock()
		read := make(chan error, 1)
		go func() { read <- l.confirmed(t.Context(), "", 0) }()
		synctest.Wait()
		l.raftTerm.Store(0)
		close(hold)
		require.ErrorIs(t, <-read, errSuperseded)
	})
}

// A command that may have been proposed stays unclear, regardless of the outcome of its
// later copies. One copy was sent and never answered, or its outcome was unknown to the
// leader itself.
func TestUnclearIsNotForgotten(t *testing.T) {
	parallel(t)
	for name, answer := range map[string]*reply{"no answer": nil, "unknown to the leader": {kind: replyUnclear, text: "the outcome is unknown"}} {
		t.Run(name, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.leader()
			asks := tc.node[(at+1)%3].node
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			leader := tc.node[at].node
			cut := func() { asks.net.Gate(transport.KindCall, errors.New("cut off")) }
			leader.net.Serve(func(ctx context.Context, op byte, body []byte) []byte {
				if op != opPropose {
					return leader.answer(ctx, op, body)
				}
				if answer == nil {
					cut() // its connection ends without an answer
					<-ctx.Done()
					return nil
				}
				defer time.AfterFunc(20*time.Millisecond, cut) // the answer goes first
				return answer.encode()
			})
			tries := 0
			o := asks.ask(ctx, &request{op: opPropose, key: state.Key{Client: 1, Seq: 1}, data: (&state.Command{Kind: state.KindOpen}).Encode()}, func() { tries++ })
			require.Error(t, o.err)
			require.Greater(t, tries, 1, "later copies were not sent")
			require.True(t, o.unclear)
			asks.net.Gate(transport.KindCall, nil)
			leader.net.Serve(leader.answer)
		})
	}
}
