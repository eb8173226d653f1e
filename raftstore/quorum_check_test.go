package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/stretchr/testify/require"
)

// testVoters is a cluster of voters for the quorumCheck of its leader.
type testVoters struct {
	*quorumCheck
	end context.CancelFunc

	mu      sync.Mutex
	terms   map[string]uint64        // per voter; absent = cut off
	hold    map[string]chan struct{} // answers wait for this after the term was read
	asked   atomic.Int64
	ownTerm uint64
}

func newTestVoters(ids ...raft.ServerID) *testVoters {
	v := &testVoters{terms: map[string]uint64{}, hold: map[string]chan struct{}{}, ownTerm: 5}
	life, end := context.WithCancel(context.Background())
	v.end = end
	var voters []voter
	for _, id := range ids {
		voters = append(voters, voter{id: id, addr: string(id)})
	}
	v.quorumCheck = &quorumCheck{
		term: 5, self: "a", pause: 10 * time.Millisecond, life: life,
		voters:       func() []voter { return voters },
		own:          func() uint64 { return v.ownTerm },
		ask:          v.ask,
		voterPollers: map[raft.ServerID]*voterPoller{},
	}
	return v
}

func (v *testVoters) ask(ctx context.Context, addr string) (uint64, error) {
	v.asked.Add(1)
	v.mu.Lock()
	term, reachable := v.terms[addr]
	hold := v.hold[addr]
	v.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if !reachable {
		return 0, errors.New("cut off")
	}
	return term, nil
}

func (v *testVoters) set(addr string, term uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.terms[addr] = term
}

func (v *testVoters) holdBack(addr string) (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := make(chan struct{})
	v.hold[addr] = held
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.hold, addr)
		close(held)
	}
}

func (v *testVoters) stop() {
	v.end()
	v.close()
}

// begin starts a confirmation and returns the channel of its result.
func (v *testVoters) begin(voted raft.ServerID) <-chan error {
	return begun(time.Minute, func(ctx context.Context) error { return v.confirm(ctx, voted) })
}

// begun starts a call that may take as long as limit, waits until it blocks or ends, and
// returns the channel of its error.
func begun(limit time.Duration, call func(ctx context.Context) error) <-chan error {
	answer := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		answer <- call(ctx)
	}()
	synctest.Wait()
	return answer
}

func pending(t *testing.T, answer <-chan error, why string) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-answer:
		t.Fatalf("answered %v: %s", err, why)
	default:
	}
}

func TestEvidenceOfOneNodeIsItsOwn(t *testing.T) {
	v := newTestVoters("a")
	require.NoError(t, v.confirm(context.Background(), ""))
	require.Zero(t, v.asked.Load())
	v.ownTerm = 6
	require.ErrorIs(t, v.confirm(context.Background(), ""), errSuperseded)
}

// P2: the answer to a question that was asked before the renewal arrived confirms
// nothing, even if it arrives after the renewal. Another leader may have been elected
// meanwhile.
func TestP2AnswerToAnOldQuestionConfirmsNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		defer v.stop()
		v.set("b", 5) // c is cut off
		release := v.holdBack("b")
		first := v.begin("")
		// The old question was answered with the leader's term, and the answer is
		// in a socket buffer. b and c elect another leader.
		v.set("b", 6)
		second := v.begin("")
		release()
		// The first call arrived before its question was sent, so the answer holds.
		require.NoError(t, <-first)
		time.Sleep(time.Second)
		pending(t, second, "on the strength of an answer to an older question")
	})
}

// P2: the answer of a server without a vote proves nothing.
func TestP2NonVotersDoNotCount(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c") // d has no vote
		defer v.stop()
		v.set("d", 5)
		answer := v.begin("d") // its own answer came with the request
		time.Sleep(time.Second)
		pending(t, answer, "by a server without a vote")
		v.set("c", 5)
		require.NoError(t, <-answer)
	})
}

func TestP2CallersOwnAnswerCounts(t *testing.T) {
	v := newTestVoters("a", "b", "c")
	require.NoError(t, v.confirm(context.Background(), "b"))
	require.Zero(t, v.asked.Load(), "two of three voters are a majority")

	five := newTestVoters("a", "b", "c", "d", "e")
	defer five.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, five.confirm(ctx, "b"), context.DeadlineExceeded, "two of five are none")
	five.set("c", 5)
	require.NoError(t, five.confirm(context.Background(), "b"))
}

// An answer with another term, older or newer, is no vote.
func TestP2AnotherTermIsNoVote(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		defer v.stop()
		v.set("b", 4)
		v.set("c", 6)
		answer := v.begin("")
		time.Sleep(time.Second)
		pending(t, answer, "by answers of other terms")
		v.set("b", 5)
		require.NoError(t, <-answer)
	})
}

// The leader's own term is read after the renewal has arrived, like those of the others.
func TestP2OwnTermIsReadAfterTheAnswers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		defer v.stop()
		v.set("b", 5)
		release := v.holdBack("b")
		answer := v.begin("")
		v.ownTerm = 6 // it voted for another
		release()
		require.ErrorIs(t, <-answer, errSuperseded)
	})
}

// A voter that does not answer delays no call, and is asked again after a pause.
func TestEvidenceWithoutOneVoter(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		defer v.stop()
		v.set("b", 5)
		v.holdBack("c")
		begun := time.Now()
		for range 100 {
			require.NoError(t, v.confirm(context.Background(), ""))
		}
		require.Zero(t, time.Since(begun))
		require.Equal(t, int64(101), v.asked.Load())
	})
}

// Calls that wait while a question is in progress share the next one.
func TestEvidenceIsShared(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		defer v.stop()
		v.set("b", 5)
		release := v.holdBack("b")
		answers := []<-chan error{v.begin("")}
		for range 200 {
			answers = append(answers, v.begin(""))
		}
		asked := v.asked.Load()
		release()
		for _, a := range answers {
			require.NoError(t, <-a)
		}
		synctest.Wait()
		require.LessOrEqual(t, v.asked.Load()-asked, int64(2))
	})
}

func TestEvidenceEndsWithItsTermAndItsCaller(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newTestVoters("a", "b", "c")
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan error, 1)
		go func() { gone <- v.confirm(ctx, "") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		require.Empty(t, v.waiting, "a call still waits")
		answer := v.begin("")
		v.stop()
		require.ErrorIs(t, <-answer, errSuperseded)
		require.ErrorIs(t, v.confirm(context.Background(), ""), errSuperseded)
	})
}
