package raftstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/bubble"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
)

// proposed returns the commands that the leader has proposed since, other than
// the first of its term.
func (l *testLeader) proposed() (out []state.Command) {
	synctest.Wait()
	for {
		select {
		case p := <-l.queue:
			c, err := state.DecodeCommand(p.data)
			require.NoError(l.t, err)
			out = append(out, c)
		default:
			return out
		}
	}
}

// A leader raises the feature level only when every server understands the new one, and
// not above the level that it understands itself.
func TestLeaderRaisesTheLevel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.understands = state.Level + 1
		var understood byte
		var err error
		l.levels = func(context.Context) (byte, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return understood, err
		}
		set := func(level byte, failed error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			understood, err = level, failed
		}
		set(state.Level+1, nil)
		l.elect(1)
		time.Sleep(time.Minute)
		require.Equal(t, state.KindTerm, l.applyNext().Kind, "before the term's first entry")

		set(state.Level, nil)
		time.Sleep(levelPause)
		l.proposed()
		time.Sleep(time.Minute)
		require.Empty(t, l.proposed(), "a server is of the old release")
		set(state.Level+1, errors.New("no answer"))
		time.Sleep(time.Minute)
		require.Empty(t, l.proposed(), "a server does not answer")
		set(state.Level+2, nil)
		time.Sleep(levelPause)
		require.Equal(t, []state.Command{{Kind: state.KindLevel, Level: state.Level + 1}}, l.proposed())
		l.changed(0)
		time.Sleep(time.Minute)
		require.Empty(t, l.proposed(), "after the term")
	})
}

// At its own level a leader does not ask other servers.
func TestLeaderAsksForNoLevel(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newTestLeader(t)
		defer l.stop()
		l.levels = func(context.Context) (byte, error) {
			t.Error("it asked")
			return 0, nil
		}
		l.lead(1)
		time.Sleep(time.Minute)
	})
}

// Every server of the configuration is asked.
func TestLeastLevel(t *testing.T) {
	tc := newTestCluster(t, 3, nil)
	leader := tc.node[tc.leader()].node
	ctx := testCtx(t)
	level, err := leader.member().leastLevel(ctx)
	require.NoError(t, err)
	require.EqualValues(t, state.Level, level)
	require.NoError(t, tc.node[tc.follower()].Close())
	soon, cancel := context.WithTimeout(ctx, levelPause)
	defer cancel()
	_, err = leader.member().leastLevel(soon)
	require.ErrorContains(t, err, "the feature level of server")
}

func TestVoterState(t *testing.T) {
	want := voterState{term: 1 << 40, level: 7, well: true}
	got, err := decodeVoterState(want.encode())
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, bad := range [][]byte{nil, want.encode()[:8], append(want.encode(), 0)} {
		_, err := decodeVoterState(bad)
		require.Error(t, err)
	}
}
