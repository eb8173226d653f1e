package raftstore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// recoverWalk is one walk. A cluster loses its quorum in a state that a seed chooses, is
// recovered on a node that may lack entries, and its old nodes come back in some order,
// with or without their data.
type recoverWalk struct {
	*testCluster
	rand  *rand.Rand
	cut   bool // a follower is cut off
	acked map[string]dcs.Revision
	top   dcs.Revision // the highest revision that any call returned
}

// TestRecoverWalk is walked with HOLDFAST_RECOVER_ROUNDS seeds, 2 by default and
// 20 in the slow profile.
func TestRecoverWalk(t *testing.T) {
	t.Parallel()
	rounds := 2
	if slowProfile() {
		rounds = 20
	}
	if s := os.Getenv("HOLDFAST_RECOVER_ROUNDS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := &recoverWalk{testCluster: newTestCluster(t, 3, nil), rand: rand.New(rand.NewPCG(seed, 23)), acked: map[string]dcs.Revision{}}
			w.run()
		})
	}
}

func (w *recoverWalk) run() {
	t := w.t
	w.leader()
	for i := range 1 + w.rand.IntN(2) {
		w.commit(fmt.Sprint("both", i), w.leader())
		w.lag(i)
	}
	w.stopAll()
	at := w.rand.IntN(3)
	report := w.recovered(at)
	old := report.Incarnation
	require.Greater(t, report.FirstRevision, w.top)
	require.Len(t, report.Servers, 3)

	// One old node may run before the recovered one does. Alone it has no effect.
	others := []int{(at + 1) % 3, (at + 2) % 3}
	if w.rand.IntN(2) == 0 {
		others[0], others[1] = others[1], others[0]
	}
	early := w.rand.IntN(3) == 0
	if early {
		w.start(others[0])
	}
	w.start(at)
	require.Equal(t, at, w.leader())
	w.lose(at, report.LastIndex)
	w.commit("new", at)
	if early {
		w.eventually(func() bool { return w.node[others[0]].Status().Health.State == Replaced }, "an old node does not detect the new incarnation")
		w.stop(others[0])
	}
	for _, i := range others {
		w.comeBack(i, old)
		w.commit(fmt.Sprint("with", i), i)
	}
	w.holds(w.acked)
	require.Len(t, w.node[w.leader()].Status().Voters, 3)
	w.kill(at) // the others have a majority without it now
	w.commit("without", others[0])
	w.holds(w.acked)
	for _, i := range others {
		require.Equal(t, report.NewIncarnation, w.node[i].Status().Incarnation)
	}
}

// commit makes some commits over a node and checks that revisions rise.
func (w *recoverWalk) commit(prefix string, at int) {
	w.t.Helper()
	for key, rev := range w.commits(at, 1+w.rand.IntN(5), prefix) {
		require.NotContains(w.t, w.acked, key)
		w.acked[key] = rev
	}
	for _, rev := range w.acked {
		w.top = max(w.top, rev)
	}
}

// lag makes the cluster continue without one follower, which may stay behind.
func (w *recoverWalk) lag(round int) {
	if w.cut {
		return
	}
	back := w.isolate(w.follower())
	w.commit(fmt.Sprint("lag", round), w.leader())
	if w.cut = w.rand.IntN(2) == 0; !w.cut {
		back()
		w.settled()
	}
}

// lose removes the acknowledged commits that the survivor had not stored from the
// expected ones. The report must list them, and all others must be present.
func (w *recoverWalk) lose(at int, last uint64) {
	for key, rev := range w.acked {
		e, err := w.node[at].Get(testCtx(w.t), key)
		if uint64(rev) > last {
			delete(w.acked, key)
			require.ErrorIs(w.t, err, dcs.ErrNotFound)
			continue
		}
		require.NoError(w.t, err)
		require.Equal(w.t, rev, e.Modified)
	}
}

// comeBack starts an old node. With its data it is refused at first.
func (w *recoverWalk) comeBack(at int, old string) {
	if w.rand.IntN(2) == 0 {
		w.wipe(at)
	} else {
		_, err := newBackend(w.config[at], w.hooks[at])
		require.ErrorContains(w.t, err, "incarnation "+old+" of the cluster has ended")
		w.config[at].Rejoin = true
	}
	w.startAsVoter(at)
}
