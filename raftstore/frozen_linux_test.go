package raftstore

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// ownFileSystem mounts a separate file system, or returns "" if that is not possible.
// freeze makes every write to it hang until thaw.
func ownFileSystem(t *testing.T) (dir string, freeze, thaw func()) {
	base := t.TempDir()
	image := filepath.Join(base, "image")
	dir = filepath.Join(base, "mounted")
	run := func(name string, args ...string) error {
		out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput()
		if err != nil {
			t.Logf("%s %v: %v: %s", name, args, err, out)
		}
		return err
	}
	if os.Getuid() != 0 || os.Mkdir(dir, 0o700) != nil ||
		run("truncate", "-s", "128M", image) != nil || run("mkfs.ext4", "-q", image) != nil || run("mount", "-o", "loop", image, dir) != nil {
		return "", nil, nil
	}
	t.Cleanup(func() { require.NoError(t, run("umount", dir)) })
	frozen := false
	thaw = func() {
		if frozen {
			require.NoError(t, run("fsfreeze", "-u", dir))
		}
		frozen = false
	}
	return dir, func() {
		require.NoError(t, run("fsfreeze", "-f", dir))
		frozen = true
	}, thaw
}

// The file system of the leader is frozen, so that one of its threads hangs in the
// kernel. The others continue, and the node takes part again when its file system does.
func TestFrozenFileSystem(t *testing.T) {
	dir, freeze, thaw := ownFileSystem(t)
	if dir == "" {
		t.Log("no file system of its own here: nothing to freeze")
		return
	}
	rounds, frozen := 1, 4*time.Second
	if os.Getenv("HOLDFAST_PROFILE") == "slow" {
		rounds, frozen = 20, 30*time.Second
	}
	tc := newTestCluster(t, 3, func(i int, c *Config, _ *hooks) {
		if i == 0 {
			c.Dir = filepath.Join(dir, "a")
		}
	})
	t.Cleanup(tc.stopAll) // before the file system goes
	t.Cleanup(thaw)       // and before that
	tc.well()
	frozenNode, other := tc.node[0], tc.node[1]
	var longest, slowest time.Duration
	for range rounds {
		for tc.leader() != 0 {
			_ = tc.node[tc.leader()].node.member().raft.LeadershipTransferToServer(frozenNode.node.member().id, frozenNode.node.member().trans.LocalAddr()).Error() // asked again if refused
		}
		lease, _, err := frozenNode.Grant(testCtx(t), 3*time.Second)
		require.NoError(t, err)
		freeze()
		hung := dcs.Now()
		_ = bounded(t, 100*time.Millisecond, func(ctx context.Context) error {
			_, err := frozenNode.Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", nil)}})
			return err
		})
		tc.eventually(func() bool { return other.Status().LeaderID != "" && other.Status().LeaderID != tc.config[0].ID }, "no other node leads")
		longest = max(longest, hung.Elapsed())
		for n := 1; hung.Elapsed() < frozen; n++ {
			require.NoError(t, bounded(t, testTiming.RetryTimeout, func(ctx context.Context) error {
				_, err := tc.node[n%3].Commit(ctx, dcs.Txn{Then: []dcs.Write{dcs.Put("k", []byte{byte(n)})}})
				return err
			}))
			_, err := lease.Renew(testCtx(t))
			require.NoError(t, err)
			backoff.Sleep(t.Context(), 200*time.Millisecond)
		}
		want, err := other.Snapshot(testCtx(t), "")
		require.NoError(t, err)
		thaw()
		back := dcs.Now()
		tc.eventually(func() bool {
			return frozenNode.Status().Health.State == Well && dcs.Revision(frozenNode.node.state.Applied()) >= want.Revision
		}, "the node does not come back")
		slowest = max(slowest, back.Elapsed())
	}
	t.Logf("%d rounds of %v: another node led after %v at most, and the node was back after %v at most", rounds, frozen, longest.Round(time.Millisecond), slowest.Round(time.Millisecond))
	require.Less(t, longest, 2*time.Second+4*tc.config[0].HeartbeatTimeout)
	require.Less(t, slowest, 10*time.Second)
}
