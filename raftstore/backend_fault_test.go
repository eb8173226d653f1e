package raftstore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// dropReplies loses the first n replies to calls of that kind, as a network
// does: the caller hears nothing until its patience ends.
func (b *Backend) dropReplies(op byte, n int32) *atomic.Int32 {
	var left atomic.Int32
	left.Store(n)
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		return !e.answered || e.op != op || left.Add(-1) < 0
	})
	return &left
}

// counter reads a counter that a test's commits raise by one each.
func counter(t *testing.T, b *Backend) (n int, modified dcs.Revision) {
	e, err := b.Get(testCtx(t), "n")
	if errors.Is(err, dcs.ErrNotFound) {
		return 0, 0
	}
	require.NoError(t, err)
	return len(e.Value), e.Modified
}

// P15: replies get lost, copies are sent, and each commit lands once.
func TestP15LostRepliesLandOnce(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	for _, i := range []int{tc.leader(), tc.follower()} {
		b := tc.node[i]
		n, modified := counter(t, b)
		for range 3 {
			// Conditional on what the first copy changes: a second execution
			// would be a conflict, and an unconditional one would show.
			left := b.dropReplies(opPropose, 1)
			rev, err := b.Commit(ctx, dcs.Txn{
				If:   []dcs.Cond{dcs.ModifiedAt("n", modified)},
				Then: []dcs.Write{dcs.Put("n", make([]byte, n+1))},
			})
			require.NoError(t, err)
			require.Negative(t, left.Load(), "no reply was dropped")
			b.node.setTap(nil)
			n++
			got, at := counter(t, b)
			require.Equal(t, n, got)
			require.Equal(t, at, rev)
			modified = rev
		}
	}
}

// A Commit whose copies' replies are all lost is settled by a Cancel within
// its budget: yes where it had landed.
func TestP15CancelFindsTheYes(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	b := tc.node[tc.follower()]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		r, err := decodeRequest(e.op, e.body)
		return e.op == opQuestion || !e.answered || err != nil || e.op != opPropose || r.key.Cancel
	})
	rev, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	b.node.setTap(nil)
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, rev, e.Modified)
}

func shortBudget(_ int, c *Config, _ *nodeDeps) {
	c.Timing = dcs.Timing{TTL: 10 * time.Second, LoopWait: time.Second, RetryTimeout: 1500 * time.Millisecond}
}

// A Commit of which every answer is lost, the Cancel's too, is ambiguous; it
// is settled later, and both ways.
func TestSettleAmbiguousCommit(t *testing.T) {
	parallel(t)
	for _, landed := range []bool{true, false} {
		tc := newTestCluster(t, 3, shortBudget)
		b := tc.node[tc.follower()]
		ctx := testCtx(t)
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
		require.NoError(t, err)
		b.node.setTap(func(ctx context.Context, e tapEvent) bool {
			if e.op != opPropose {
				return true
			}
			if r, err := decodeRequest(e.op, e.body); err == nil && r.key.Cancel || !landed && !e.answered {
				return false
			}
			return !e.answered
		})
		_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		var ambiguous *dcs.Error
		require.ErrorAs(t, err, &ambiguous)
		require.NotNil(t, ambiguous.Attempt)

		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		_, err = b.Settle(short, ambiguous)
		cancel()
		require.ErrorIs(t, err, dcs.ErrAmbiguous)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var again *dcs.Error
		require.ErrorAs(t, err, &again)
		require.Equal(t, ambiguous.Attempt, again.Attempt)

		b.node.setTap(nil)
		rev, err := b.Settle(ctx, ambiguous)
		e, readErr := b.Get(ctx, "k")
		if landed {
			require.NoError(t, err)
			require.NoError(t, readErr)
			require.Equal(t, rev, e.Modified)
		} else {
			require.ErrorIs(t, err, dcs.ErrConflict)
			require.NotErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorIs(t, readErr, dcs.ErrNotFound)
		}
		twice, err2 := b.Settle(ctx, ambiguous)
		require.Equal(t, rev, twice)
		require.Equal(t, err == nil, err2 == nil)
		tc.stopAll()
	}
}

// P15: the request itself is held back in the network, the caller gives up and
// is told no; what arrives later lands nowhere.
func TestP15LateCommandNeverLands(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	b := tc.node[tc.follower()]
	leader := tc.node[tc.leader()]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	var late atomic.Pointer[[]byte]
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		if e.op != opPropose {
			return true
		}
		if r, err := decodeRequest(e.op, e.body); err == nil && r.key.Cancel {
			return true
		}
		late.Store(&e.body)
		return false
	})
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.NotErrorIs(t, err, dcs.ErrAmbiguous, "it was cancelled: a definite no")
	b.node.setTap(nil)
	rep, err := decodeReply(leader.node.answer(ctx, opPropose, *late.Load()))
	require.NoError(t, err)
	require.Equal(t, replyDone, rep.kind)
	require.Contains(t, []state.Status{state.StatusCancelled, state.StatusSettled}, rep.result.Status)
	_, err = b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// What callers gave up is settled in the background, so that the cluster need
// not remember the answers to everything that follows.
func TestAbandonedCommitIsSettled(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	given, giveUp := context.WithCancel(ctx)
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		if e.answered && e.op == opPropose {
			giveUp()
			return false
		}
		return true
	})
	_, err = b.Commit(given, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.ErrorIs(t, err, context.Canceled)
	b.node.setTap(nil)
	tc.eventually(func() bool {
		s := b.clients.present
		return s.lowest() == s.next
	}, "nobody settles it")
	var e *dcs.Error
	require.ErrorAs(t, err, &e)
	rev, err := b.Settle(ctx, e)
	require.NoError(t, err)
	require.NotZero(t, rev)
}

// A backend that the cluster has forgotten makes itself known again: its
// command was not executed, and is sent once more under a new name.
func TestForgottenClientGoesOn(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	old := b.clients.present
	b.clients.present = newSequence(999) // nobody has that name
	_, err = b.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent("k")}, Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	require.NotEqual(t, old.id, b.clients.present.id)
}

// forgetClients makes so many clients that the cluster forgets all others.
func forgetClients(t *testing.T, b *Backend) {
	data := (&state.Command{Kind: state.KindOpen}).Encode()
	var last raft.ApplyFuture
	for range 2 * 4096 {
		last = b.node.member().raft.Apply(data, 0)
	}
	require.NoError(t, last.Error())
}

// P15: the answer to a command got lost and its client was forgotten since. A
// copy of it is not executed under a new name: nobody can tell any more, and
// it will not land later.
func TestP15ForgottenClientIsNotExecutedTwice(t *testing.T) {
	tc := newTestCluster(t, 1, func(_ int, c *Config, _ *nodeDeps) {
		// The clients are made within the budget of one Commit.
		c.Timing = dcs.Timing{TTL: 2 * time.Minute, LoopWait: time.Second, RetryTimeout: 50 * time.Second}
	})
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	var lost atomic.Bool
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		if e.op != opPropose || !e.answered || lost.Swap(true) {
			return true
		}
		forgetClients(t, b)
		return false
	})
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	b.node.setTap(nil)
	var ambiguous *dcs.Error
	require.ErrorAs(t, err, &ambiguous)
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.True(t, ambiguous.Fenced)
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, e.Created, e.Modified, "it was executed twice")
}

func TestSettleOfSomethingElse(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	for _, e := range []*dcs.Error{nil, {Kind: dcs.ErrAmbiguous}, {Kind: dcs.ErrAmbiguous, Attempt: 7}} {
		_, err := tc.node[0].Settle(testCtx(t), e)
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
}

// P1: From is not later than the sending of the copy that was answered.
func TestP1FromIsTheAnsweredCopysSending(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	lease, _, err := b.Grant(ctx, 5*time.Second)
	require.NoError(t, err)
	var arrived atomic.Pointer[dcs.Instant] // of the newest copy
	var lost atomic.Int32
	b.node.setTap(func(_ context.Context, e tapEvent) bool {
		if e.op != opRenew {
			return true
		}
		if !e.answered {
			now := dcs.Now()
			arrived.Store(&now)
			return true
		}
		return lost.Add(1) > 2
	})
	r, err := lease.Renew(ctx)
	require.NoError(t, err)
	require.Greater(t, lost.Load(), int32(2), "no copy was lost")
	require.False(t, arrived.Load().Before(r.From), "From is later than the sending")
	require.Less(t, arrived.Load().Sub(r.From), time.Second, "From is an older copy's")
}

// P4, on the bare lease: an answer that was held back beyond the lease's end
// either does not come, or its From + TTL is over and true.
func TestP4LateRenewalRevivesNothing(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	lease, _, err := b.Grant(ctx, minMinTTL)
	require.NoError(t, err)
	rev, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, lease.ID())}})
	require.NoError(t, err)
	gone := make(chan struct{})
	b.node.setTap(func(ctx context.Context, e tapEvent) bool {
		if e.op == opRenew && e.answered {
			select {
			case <-gone:
			case <-ctx.Done():
			}
		}
		return true
	})
	type answer struct {
		r   dcs.Renewal
		err error
	}
	renewed := make(chan answer, 1)
	go func() {
		r, err := lease.Renew(ctx)
		renewed <- answer{r, err}
	}()
	s, err := tc.node[tc.leader()].Wait(ctx, "lock", rev)
	for err == nil && len(s.Entries) > 0 {
		s, err = b.Wait(ctx, "lock", s.Revision)
	}
	require.NoError(t, err)
	close(gone)
	if a := <-renewed; a.err == nil {
		require.Greater(t, a.r.From.Elapsed(), a.r.TTL, "a lease that is gone was confirmed")
	} else {
		require.ErrorIs(t, a.err, dcs.ErrLost)
	}
}
