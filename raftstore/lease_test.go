package raftstore

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// testLog feeds a state.
type testLog struct {
	f           *state.FSM
	index, term uint64
}

func (l *testLog) add(c state.Command) {
	l.index++
	l.f.Apply(&raft.Log{Index: l.index, Term: l.term, Type: raft.LogCommand, Data: c.Encode()})
}

// open makes a client and returns its id.
func (l *testLog) open() uint64 {
	l.add(state.Command{Kind: state.KindOpen})
	return l.index
}

// testLeader is a leadership over a log that the test appends to.
type testLeader struct {
	*leadership
	t        *testing.T
	log      *testLog
	node     context.CancelFunc
	raftTerm atomic.Uint64 // the term in which Raft leads, or 0
	voters   *testVoters   // their answers are the evidence
}

func newTestLeader(t *testing.T) *testLeader {
	life, end := context.WithCancel(context.Background())
	log := &testLog{f: state.New(), term: 1}
	l := &testLeader{leadership: newLeadership(life, log.f), t: t, log: log, node: end}
	begun := time.Now()
	l.clock = func() time.Duration { return time.Since(begun) }
	l.leads = func(term uint64) bool { return l.raftTerm.Load() == term }
	l.voters = newTestVoters("a", "b", "c")
	l.voters.end()
	l.gather = func(life context.Context, term uint64) *quorumCheck {
		e := l.voters.quorumCheck
		l.voters.ownTerm = term
		e.term, e.life, e.waiting, e.voterPollers = term, life, nil, map[raft.ServerID]*voterPoller{}
		return e
	}
	return l
}

// elect makes the node the leader of the term. The term's first entry is not applied
// yet.
func (l *testLeader) elect(term uint64) {
	l.raftTerm.Store(term)
	l.voters.set("b", term)
	l.changed(term)
}

// applyNext appends the next proposal of the leader to the log and applies it.
func (l *testLeader) applyNext() state.Command {
	l.t.Helper()
	synctest.Wait()
	select {
	case p := <-l.queue:
		c, err := state.DecodeCommand(p.data)
		require.NoError(l.t, err)
		l.log.term = l.raftTerm.Load()
		l.log.add(c)
		return c
	default:
		l.t.Fatal("nothing was proposed")
		return state.Command{}
	}
}

func (l *testLeader) lead(term uint64) {
	l.elect(term)
	require.Equal(l.t, state.KindTerm, l.applyNext().Kind)
}

func (l *testLeader) grant(id dcs.LeaseID, ttl time.Duration) {
	l.log.add(state.Command{Kind: state.KindGrant, Client: l.log.open(), Seq: 1, Low: 1, Lease: id, TTL: ttl})
}

func (l *testLeader) stop() {
	l.node()
	l.close()
}

func (l *testLeader) beginRenew(id dcs.LeaseID) <-chan error {
	return begun(time.Hour, func(ctx context.Context) error { _, err := l.renew(ctx, id, "", 0); return err })
}

// P21: nothing is confirmed before an entry of the leader's own term is applied. An
// expiry that an older term left in the log comes before it.
func TestP21NothingBeforeTheTermsOwnEntry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.log.term = 1
		l.grant("l", time.Second)
		l.elect(2)
		renewal := l.beginRenew("l")
		read := make(chan error, 1)
		go func() { read <- l.confirmed(context.Background(), "", 0) }()
		time.Sleep(time.Minute)
		pending(t, renewal, "before the term's first entry")
		pending(t, read, "before the term's first entry")
		// Term 1 left the end of the lease in the log.
		l.log.term = 1
		l.log.add(state.Command{Kind: state.KindExpire, Term: 1, Leases: []dcs.LeaseID{"l"}})
		require.Equal(t, state.KindTerm, l.applyNext().Kind)
		require.ErrorIs(t, <-renewal, errGone)
		require.NoError(t, <-read)
	})
}

// P21: a first entry of another term does not open the term.
func TestP21AnotherTermsEntryOpensNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.elect(2)
		read := make(chan error, 1)
		go func() { read <- l.confirmed(context.Background(), "", 0) }()
		l.log.term = 1
		l.log.add(state.Command{Kind: state.KindTerm, Term: 1})
		l.log.term = 3 // proposed in term 2, and appended in term 3
		l.log.add(state.Command{Kind: state.KindTerm, Term: 2})
		pending(t, read, "by another term's entry")
		l.applyNext()
		require.NoError(t, <-read)
	})
}

// P21: a new leader extends every lease from the moment at which it may confirm, and
// keeps no deadline of an earlier term.
func TestP21NewLeaderExtendsAll(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.grant("l", 10*time.Second)
		time.Sleep(9 * time.Second)
		l.raftTerm.Store(0)
		l.changed(0)
		time.Sleep(time.Hour)
		l.lead(4)
		time.Sleep(expiry(10*time.Second) - time.Millisecond)
		require.NoError(t, <-l.beginRenew("l"))
		require.Empty(t, l.queue)
		// The same without a loss in between: two gains in a row.
		l.lead(6)
		time.Sleep(expiry(10*time.Second) - time.Millisecond)
		synctest.Wait()
		require.Empty(t, l.queue)
		time.Sleep(time.Millisecond)
		require.Equal(t, state.Command{Kind: state.KindExpire, Term: 6, Leases: []dcs.LeaseID{"l"}}, l.applyNext())
		require.False(t, l.log.f.Tree().Live("l"))
	})
}

// P21: a leader discards its knowledge of leases with its term, including marks.
func TestP21TermsEndEndsItsAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.grant("l", time.Second)
		l.voters.set("b", 0)
		waiting := l.beginRenew("l") // for evidence
		l.raftTerm.Store(0)
		l.changed(0)
		require.ErrorIs(t, <-waiting, errSuperseded)
		require.ErrorIs(t, <-l.beginRenew("l"), errNotLeader)
	})
}

// P22: the clocks of holder and leader may differ by one part in a hundred.
func TestP22ExpiryLeavesRoomForClocks(t *testing.T) {
	require.Equal(t, 60*time.Millisecond+time.Second, expiry(time.Second))
	require.Equal(t, 650*time.Millisecond+time.Minute, expiry(time.Minute))
}

// P22: a renewal extends the lease when it is received, and is confirmed only after the
// evidence.
func TestP22ExtendsAtReceipt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.grant("l", 10*time.Second)
		time.Sleep(expiry(10*time.Second) - time.Second)
		l.voters.set("b", 0)
		renewal := l.beginRenew("l")
		time.Sleep(expiry(10*time.Second) - time.Second) // far beyond the old deadline
		pending(t, renewal, "without evidence")
		require.Empty(t, l.queue, "the lease was ended although a renewal was received")
		l.voters.set("b", 2)
		require.NoError(t, <-renewal)
		// The evidence does not extend the lease. The deadline is that of the receipt.
		time.Sleep(time.Second + 20*time.Millisecond)
		require.Equal(t, state.KindExpire, l.applyNext().Kind)
	})
}

// P22: a lease is marked before its expiry is proposed. A renewal of a marked lease
// waits for the outcome.
func TestP22RenewalMeetsTheMark(t *testing.T) {
	for _, applied := range []bool{true, false} {
		bubble.Test(t, func(t *testing.T) {
			l := newTestLeader(t)
			defer l.stop()
			l.lead(2)
			l.grant("l", time.Second)
			time.Sleep(time.Minute)
			renewal := l.beginRenew("l")
			time.Sleep(time.Minute)
			pending(t, renewal, "while its expiry is on its way")
			if applied {
				require.Equal(t, state.KindExpire, l.applyNext().Kind)
				require.ErrorIs(t, <-renewal, errGone)
				require.ErrorIs(t, <-l.beginRenew("l"), errGone)
				return
			}
			l.raftTerm.Store(0)
			l.changed(0)
			require.ErrorIs(t, <-renewal, errSuperseded)
		})
	}
}

// P22: the mark, the term and the end of the lease are checked again after the evidence.
func TestP22JudgedAfterTheEvidence(t *testing.T) {
	cases := map[string]struct {
		meanwhile func(l *testLeader)
		want      error
	}{
		"the time is up": {func(l *testLeader) { time.Sleep(time.Minute); l.applyNext() }, errGone},
		"it was revoked": {func(l *testLeader) {
			l.log.add(state.Command{Kind: state.KindRevoke, Client: l.log.open(), Seq: 1, Low: 1, Lease: "l"})
		}, errGone},
		"Raft leads no more": {func(l *testLeader) { l.raftTerm.Store(0) }, errSuperseded},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				l := newTestLeader(t)
				defer l.stop()
				l.lead(2)
				l.grant("l", time.Second)
				l.voters.set("b", 0)
				renewal := l.beginRenew("l")
				c.meanwhile(l)
				l.voters.set("b", 2)
				require.ErrorIs(t, <-renewal, c.want)
			})
		})
	}
}

// P2: the answer that a request carries counts only in the leader's term.
func TestP2CallersAnswerInAnotherTermDoesNotCount(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.voters.set("b", 0) // its only answer is that in the request
		for _, votedIn := range []uint64{1, 3} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			require.ErrorIs(t, l.confirmed(ctx, "b", votedIn), context.DeadlineExceeded)
			cancel()
		}
		require.NoError(t, l.confirmed(t.Context(), "b", 2))
	})
}

// A node that ceased to lead while it gathered evidence refuses a read.
func TestReadIsRefusedAfterTheLeadership(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.voters.set("b", 0)
		read := make(chan error, 1)
		go func() { read <- l.confirmed(context.Background(), "", 0) }()
		pending(t, read, "without evidence")
		l.raftTerm.Store(0)
		l.voters.set("b", 2)
		require.ErrorIs(t, <-read, errSuperseded)
	})
}

// A lease that is not live is lost only on evidence.
func TestUnknownLeaseIsLostOnEvidence(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.voters.set("b", 3)
		renewal := l.beginRenew("unknown")
		time.Sleep(time.Minute)
		pending(t, renewal, "without evidence")
		l.voters.set("b", 2)
		require.ErrorIs(t, <-renewal, errGone)
	})
}

// Each lease ends at its own time, many in one entry, and a renewed one later.
func TestLeasesEndInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.lead(2)
		l.grant("late", 20*time.Second)
		l.grant("early", 5*time.Second)
		l.grant("twin", 5*time.Second)
		l.grant("kept", 5*time.Second)
		time.Sleep(4 * time.Second)
		require.NoError(t, <-l.beginRenew("kept"))
		time.Sleep(expiry(5*time.Second) - 4*time.Second)
		require.ElementsMatch(t, []dcs.LeaseID{"early", "twin"}, l.applyNext().Leases)
		time.Sleep(4 * time.Second)
		require.Equal(t, []dcs.LeaseID{"kept"}, l.applyNext().Leases)
		time.Sleep(time.Hour)
		require.Equal(t, []dcs.LeaseID{"late"}, l.applyNext().Leases)
	})
}

// A command whose caller gives up before Raft has it is definitely not sent. Afterwards
// that is unclear.
func TestSubmitGivenUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		_, err := l.submit(context.Background(), state.Key{}, nil)
		require.ErrorIs(t, err, errNotLeader)
		l.lead(2)
		client := l.log.open()
		c := state.Command{Kind: state.KindTxn, Client: client, Seq: 1, Low: 1, Txn: dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}}}
		for _, taken := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			answer := make(chan error, 1)
			go func() {
				_, err := l.submit(ctx, c.Key(), c.Encode())
				answer <- err
			}()
			synctest.Wait()
			p := <-l.queue
			if taken {
				require.True(t, p.taken.CompareAndSwap(false, true))
			}
			err := <-answer
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if taken {
				require.NotErrorIs(t, err, transport.ErrNotSent)
			} else {
				require.ErrorIs(t, err, transport.ErrNotSent)
				require.False(t, p.taken.CompareAndSwap(false, true), "the command can still be sent")
			}
		}
		require.Empty(t, l.waiting)
	})
}
