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

// dropReplies loses the first n replies to calls of that kind, as a network does. The
// caller gets no answer until its timeout.
func (b *Backend) dropReplies(op byte, n int32) *atomic.Int32 {
	var left atomic.Int32
	left.Store(n)
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		return !e.answered || e.op != op || left.Add(-1) < 0
	})
	return &left
}

// counter reads a counter that each of a test's commits increments.
func counter(t *testing.T, b *Backend) (n int, modified dcs.Revision) {
	e, err := b.Get(testCtx(t), "n")
	if errors.Is(err, dcs.ErrNotFound) {
		return 0, 0
	}
	require.NoError(t, err)
	return len(e.Value), e.Modified
}

// P15: replies are lost, copies are sent, and each commit is applied once.
func TestP15LostRepliesLandOnce(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	for _, i := range []int{tc.leader(), tc.follower()} {
		b := tc.node[i]
		n, modified := counter(t, b)
		for range 3 {
			// Conditional on a key that the first copy changes. A second execution
			// would be a conflict, and an unconditional one would be visible.
			left := b.dropReplies(opPropose, 1)
			rev, err := b.Commit(ctx, dcs.Txn{
				If:   []dcs.Cond{dcs.ModifiedAt("n", modified)},
				Then: []dcs.Write{dcs.Put("n", make([]byte, n+1))},
			})
			require.NoError(t, err)
			require.Negative(t, left.Load(), "no reply was dropped")
			b.node.setCallHook(nil)
			n++
			got, at := counter(t, b)
			require.Equal(t, n, got)
			require.Equal(t, at, rev)
			modified = rev
		}
	}
}

// A Commit whose replies are all lost is settled by a Cancel within its budget, as
// successful if it had been applied.
func TestP15CancelFindsTheYes(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	b := tc.node[tc.follower()]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		r, err := decodeRequest(e.op, e.body)
		return e.op == opQuestion || !e.answered || err != nil || e.op != opPropose || r.key.Cancel
	})
	rev, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	b.node.setCallHook(nil)
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, rev, e.Modified)
}

func shortBudget(_ int, c *Config, _ *hooks) {
	c.Timing = dcs.Timing{TTL: 10 * time.Second, LoopWait: time.Second, RetryTimeout: 1500 * time.Millisecond}
}

// A Commit whose answers are all lost, including that of the Cancel, is ambiguous. It is
// settled later, with either outcome.
func TestSettleAmbiguousCommit(t *testing.T) {
	parallel(t)
	for _, landed := range []bool{true, false} {
		tc := newTestCluster(t, 3, shortBudget)
		b := tc.node[tc.follower()]
		ctx := testCtx(t)
		_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
		require.NoError(t, err)
		b.node.setCallHook(func(ctx context.Context, e callEvent) bool {
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

		b.node.setCallHook(nil)
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

// P15: the request itself is held back in the network, and the caller gives up and gets
// a definite failure. The request that arrives later is not applied.
func TestP15LateCommandNeverLands(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	b := tc.node[tc.follower()]
	leader := tc.node[tc.leader()]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	var late atomic.Pointer[[]byte]
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
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
	require.NotErrorIs(t, err, dcs.ErrAmbiguous, "the command was cancelled, so the failure is definite")
	b.node.setCallHook(nil)
	rep, err := decodeReply(leader.node.answer(ctx, opPropose, *late.Load()))
	require.NoError(t, err)
	require.Equal(t, replyDone, rep.kind)
	require.Contains(t, []state.Status{state.StatusCancelled, state.StatusSettled}, rep.result.Status)
	_, err = b.Get(ctx, "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
}

// Commits that callers gave up are settled in the background, so that the cluster need
// not keep the answers to all later commands.
func TestAbandonedCommitIsSettled(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	given, giveUp := context.WithCancel(ctx)
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		if e.answered && e.op == opPropose {
			giveUp()
			return false
		}
		return true
	})
	_, err = b.Commit(given, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.ErrorIs(t, err, context.Canceled)
	b.node.setCallHook(nil)
	tc.eventually(func() bool {
		s := b.clients.present
		return s.lowest() == s.next
	}, "the commit is not settled")
	var e *dcs.Error
	require.ErrorAs(t, err, &e)
	rev, err := b.Settle(ctx, e)
	require.NoError(t, err)
	require.NotZero(t, rev)
}

// A backend whose client the cluster has discarded makes a new one. Its command was not
// executed, and is sent again under the new client.
func TestForgottenClientGoesOn(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	old := b.clients.present
	b.clients.present = newSequence(999) // the cluster has no client with that number
	_, err = b.Commit(ctx, dcs.Txn{If: []dcs.Cond{dcs.Absent("k")}, Then: []dcs.Write{dcs.Put("k", nil)}})
	require.NoError(t, err)
	require.NotEqual(t, old.id, b.clients.present.id)
}

// forgetClients makes so many clients that the cluster discards all others.
func forgetClients(t *testing.T, b *Backend) {
	data := (&state.Command{Kind: state.KindOpen}).Encode()
	var last raft.ApplyFuture
	for range 2 * 4096 {
		last = b.node.member().raft.Apply(data, 0)
	}
	require.NoError(t, last.Error())
}

// P15: the answer to a command is lost, and its client is discarded afterwards. A copy
// of the command is not executed under a new client. The outcome cannot be known any
// more, and the command is not applied later.
func TestP15ForgottenClientIsNotExecutedTwice(t *testing.T) {
	tc := newTestCluster(t, 1, func(_ int, c *Config, _ *hooks) {
		// The clients are made within the budget of one Commit.
		c.Timing = dcs.Timing{TTL: 2 * time.Minute, LoopWait: time.Second, RetryTimeout: 50 * time.Second}
	})
	b := tc.node[0]
	ctx := testCtx(t)
	_, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("first", nil)}})
	require.NoError(t, err)
	var lost atomic.Bool
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
		if e.op != opPropose || !e.answered || lost.Swap(true) {
			return true
		}
		forgetClients(t, b)
		return false
	})
	_, err = b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
	b.node.setCallHook(nil)
	var ambiguous *dcs.Error
	require.ErrorAs(t, err, &ambiguous)
	require.ErrorIs(t, err, dcs.ErrAmbiguous)
	require.True(t, ambiguous.Fenced)
	e, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, e.Created, e.Modified, "the command was executed twice")
}

func TestSettleRefusesOtherErrors(t *testing.T) {
	tc := newTestCluster(t, 1, nil)
	for _, e := range []*dcs.Error{nil, {Kind: dcs.ErrAmbiguous}, {Kind: dcs.ErrAmbiguous, Attempt: 7}} {
		_, err := tc.node[0].Settle(testCtx(t), e)
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
}

// P1: From is not later than the time at which the answered copy was sent.
func TestP1FromIsTheAnsweredCopysSending(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	lease, _, err := b.Grant(ctx, 5*time.Second)
	require.NoError(t, err)
	var arrived atomic.Pointer[dcs.Instant] // of the newest copy
	var lost atomic.Int32
	b.node.setCallHook(func(_ context.Context, e callEvent) bool {
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
	require.False(t, arrived.Load().Before(r.From), "From is later than the time of sending")
	require.Less(t, arrived.Load().Sub(r.From), time.Second, "From is that of an older copy")
}

// P4, on the lease itself: an answer that was held back beyond the lease's end either
// does not arrive, or its From + TTL has passed and is correct.
func TestP4LateRenewalRevivesNothing(t *testing.T) {
	tc := newTestCluster(t, 3, shortBudget)
	ctx := testCtx(t)
	b := tc.node[tc.follower()]
	lease, _, err := b.Grant(ctx, minMinTTL)
	require.NoError(t, err)
	rev, err := b.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.PutLeased("lock", nil, lease.ID())}})
	require.NoError(t, err)
	gone := make(chan struct{})
	b.node.setCallHook(func(ctx context.Context, e callEvent) bool {
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
		require.Greater(t, a.r.From.Elapsed(), a.r.TTL, "a lease that had ended was confirmed")
	} else {
		require.ErrorIs(t, a.err, dcs.ErrLost)
	}
}
