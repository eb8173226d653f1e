package raftstore

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/disk"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// copyDir saves or puts back a node's directory, as a backup does.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(to))
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
}

// An older copy of a whole directory lacks entries that the node acknowledged later. A
// running leader knows that.
func TestOlderCopyIsNotVotedWith(t *testing.T) {
	parallel(t)
	for name, sameRun := range map[string]bool{"made while the node ran": true, "made before an earlier start": false} {
		t.Run(name, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.follower()
			tc.commits(at, 3, "k")
			tc.settled()
			kept := t.TempDir()
			if !sameRun {
				tc.stop(at)
			}
			copyDir(t, tc.config[at].Dir, kept)
			if !sameRun {
				tc.start(at)
				tc.becomesVoter(at)
			}
			revs := tc.commits(at, 5, "later")
			tc.settled()
			old := tc.node[at].node.net.Greeting().Life
			tc.stop(at)
			copyDir(t, kept, tc.config[at].Dir)
			tc.start(at)
			tc.becomesVoter(at)
			require.NotEqual(t, old, tc.node[at].node.net.Greeting().Life, "the node votes with the copy")
			tc.holds(revs)
		})
	}
}

// The copy of a leader is detected by the entries that it had sent, even without a
// leader.
func TestOlderCopyOfALeaderIsNotVotedWith(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.leader()
	behind := (at + 1) % 3
	tc.commits(at, 3, "k")
	tc.settled()
	kept := t.TempDir()
	copyDir(t, tc.config[at].Dir, kept)
	back := tc.isolate(behind)
	revs := tc.commits(at, 5, "later") // acknowledged by the third node
	old := tc.node[at].node.net.Greeting().Life
	tc.kill(at)
	copyDir(t, kept, tc.config[at].Dir)
	back()
	tc.start(at)
	tc.becomesVoter(at)
	require.NotEqual(t, old, tc.node[at].node.net.Greeting().Life, "the node votes with the copy")
	tc.holds(revs)
}

// The knowledge of the others decides whether a node may vote with its data. Without any
// it votes.
func TestStartIsJudged(t *testing.T) {
	end := disk.LogEnd{Index: 10, Term: 3}
	said := func(s setupMessage) map[string]introReply {
		return map[string]introReply{"b": {said: s}, "c": {err: errNoLeader}}
	}
	for name, tc := range map[string]struct {
		said setupMessage
		want string
	}{
		"nothing":         {setupMessage{}, ""},
		"earlier start":   {setupMessage{Seen: transport.Start{Starts: 6, Boot: 1}}, ""},
		"later start":     {setupMessage{Seen: transport.Start{Starts: 8, Boot: 1}}, "has seen start 8 of this node, and this is start 7"},
		"other boot":      {setupMessage{Seen: transport.Start{Starts: 7, Boot: 1}}, "has seen start 7"},
		"this very one":   {setupMessage{Seen: transport.Start{Starts: 7, Boot: 2}}, ""},
		"the same entry":  {setupMessage{Proven: transport.ProvenState{Term: 5, Log: end}}, ""},
		"less":            {setupMessage{Proven: transport.ProvenState{Term: 5, Log: disk.LogEnd{Index: 12, Term: 2}}}, ""},
		"an earlier term": {setupMessage{Proven: transport.ProvenState{Term: 4, Log: disk.LogEnd{Index: 19, Term: 4}}}, ""},
		"a later entry":   {setupMessage{Proven: transport.ProvenState{Term: 5, Log: disk.LogEnd{Index: 11, Term: 3}}}, "node b has seen that this node has entry 11 of term 3"},
		"a newer term's":  {setupMessage{Proven: transport.ProvenState{Term: 5, Log: disk.LogEnd{Index: 9, Term: 4}}}, "has entry 9 of term 4"},
		"a newer term":    {setupMessage{Proven: transport.ProvenState{Term: 6}}, "has seen this node in term 6, and the directory is of term 5"},
	} {
		left, err := judgeStart(7, 2, 5, end, said(tc.said))
		require.Zero(t, left)
		if tc.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, errOlderCopy, name)
			require.ErrorContains(t, err, tc.want, name)
		}
	}
	left, err := judgeStart(7, 2, 5, end, said(setupMessage{Replaced: newLife}))
	require.NoError(t, err)
	require.Equal(t, newLife, left.Replaced)
	left, err = judgeStart(7, 2, 5, end, said(setupMessage{Removed: true}))
	require.NoError(t, err)
	require.True(t, left.Removed)
}

// A node that is down with its data while another life of it becomes a voter has lost its
// place. It reports that, and joins again if Rejoin allows it.
func TestReplacedNode(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.follower()
	revs := tc.commits(at, 3, "k")
	tc.settled()
	kept := t.TempDir()
	tc.stop(at)
	copyDir(t, tc.config[at].Dir, kept)
	tc.wipe(at)
	tc.start(at)
	tc.becomesVoter(at)
	second := tc.node[at].node.net.Greeting().Life
	tc.stop(at)
	copyDir(t, kept, tc.config[at].Dir)
	b, err := newBackend(tc.config[at], tc.hooks[at])
	if err == nil { // the leader could not confirm within a question's time that it leads
		tc.eventually(func() bool { return b.Status().Health.State == Replaced }, "the node does not detect it")
		err = b.Status().Health.Err
		require.NoError(t, b.Close())
	} else {
		require.ErrorIs(t, err, dcs.ErrUnavailable)
	}
	require.ErrorContains(t, err, "have replaced life")
	require.ErrorContains(t, err, "start this node once with rejoin=true")
	tc.config[at].Rejoin = true
	tc.start(at)
	tc.becomesVoter(at)
	require.NotEqual(t, second, tc.node[at].node.net.Greeting().Life)
	tc.holds(revs)
	tc.oldLivesAreRemoved()
}

// A running node detects the same, if it was cut off while another process took its
// place.
func TestReplacedWhileItRuns(t *testing.T) {
	parallel(t)
	tc := newTestCluster(t, 3, nil)
	at := tc.follower()
	tc.commits(at, 3, "k")
	tc.settled()
	m := tc.node[tc.leader()].node.member()
	back := tc.isolate(at)
	require.NoError(t, m.raft.RemoveServer(tc.node[at].node.member().id, 0, time.Second).Error())
	require.NoError(t, m.raft.AddVoter(transport.ServerID(tc.config[at].ID, newLife), "x", 0, time.Second).Error())
	back()
	tc.eventually(func() bool { return tc.node[at].Status().Health.State == Replaced }, "the node does not detect it")
	require.Nil(t, tc.node[at].node.member())
	require.ErrorContains(t, tc.node[at].Status().Health.Err, "rejoin=true")
	short, cancel := contextFor(300 * time.Millisecond)
	defer cancel()
	_, err := tc.node[at].Get(short, "k/0")
	require.ErrorContains(t, err, "have replaced life")
}

// A damaged directory is refused with the file's name. With Rejoin the node gets all data
// from the others.
func TestDamagedNodeRejoins(t *testing.T) {
	parallel(t)
	for name, spoil := range map[string]func(dir string) (file string){
		"identity": func(dir string) string { return filepath.Join(dir, "identity.json") },
		"log":      func(dir string) string { return filepath.Join(dir, "log", "0000000000000001.seg") },
	} {
		t.Run(name, func(t *testing.T) {
			tc := newTestCluster(t, 3, nil)
			at := tc.follower()
			revs := tc.commits(at, 3, "k")
			tc.settled()
			tc.stop(at)
			file := spoil(tc.config[at].Dir)
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			data[150] ^= 4
			require.NoError(t, os.WriteFile(file, data, 0o600)) //nolint:gosec // G703: in a directory of the test
			_, err = newBackend(tc.config[at], tc.hooks[at])
			require.ErrorIs(t, err, dcs.ErrUnavailable)
			require.ErrorContains(t, err, file)
			require.ErrorContains(t, err, "start this node once with rejoin=true")
			tc.config[at].Rejoin = true
			tc.start(at)
			tc.becomesVoter(at)
			tc.holds(revs)
			tc.stop(at)
			tc.start(at) // the setting may stay
			tc.becomesVoter(at)
			lost, err := filepath.Glob(filepath.Join(tc.config[at].Dir, "lost-*"))
			require.NoError(t, err)
			require.Len(t, lost, 1)
		})
	}
}
