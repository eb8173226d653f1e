package zookeeper

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// rotatingCluster is a cluster whose authority, certificates and passwords are replaced.
type rotatingCluster struct {
	*testcluster.ClusterRotation
	t *testing.T
}

// mode returns the mode of a server that serves. own is trusted by it.
func (r *rotatingCluster) mode(s *testcluster.Server, own *testcerts.Authority) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	return s.ZooKeeperMode(ctx, r.AdminTLS(r.t, own))
}

// restart restarts one server after the other, the leader last, because ZooKeeper reads its
// files at its start. own is trusted before and after it.
func (r *rotatingCluster) restart(own *testcerts.Authority) {
	servers := r.Cluster.Servers()
	modes := map[*testcluster.Server]string{}
	for _, s := range servers {
		mode, err := r.mode(s, own)
		require.NoError(r.t, err)
		modes[s] = mode
	}
	slices.SortStableFunc(servers, func(a, b *testcluster.Server) int {
		return strings.Compare(modes[a], modes[b]) // followers first
	})
	for _, s := range servers {
		s.Stop()
		require.NoError(r.t, s.Restart())
		for _, other := range servers {
			var err error
			require.Eventually(r.t, func() bool { _, err = r.mode(other, own); return err == nil }, 2*time.Minute, 50*time.Millisecond, "server %s", other.Direct())
		}
	}
}

// openWith opens a Store with credentials in files.
func (r *rotatingCluster) openWith(files dcs.TLSFiles, auth string) *dcs.Store {
	timing := dcs.Timing{}.WithDefaults()
	b, err := New(Config{Endpoints: r.Cluster.Endpoints(), Root: harness.EnvRoot + "/rotation", Timing: timing, TLSFiles: &files, AuthFile: auth})
	require.NoError(r.t, err)
	return testcluster.OpenStore(r.t, b, timing)
}

// No call of any kind fails while the password, the authority, and the certificates of
// servers and clients are replaced one after the other, with three restarts of every server.
// Afterwards nobody can use the old ones.
func TestRotationOfAllCredentialsCostsNoCall(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("the servers are restarted nine times: set HOLDFAST_PROFILE=slow")
	}
	r := &rotatingCluster{testcluster.NewClusterRotation(t, testcluster.Options{Kind: testcluster.ZooKeeper}), t}
	dir := t.TempDir()
	auth, oldAuth := filepath.Join(dir, "auth"), filepath.Join(dir, "old-auth")
	const older, newer = "digest:me:old\n", "digest:me:new\n"
	write := func(file, text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(auth, older)
	write(oldAuth, older)
	w := testcluster.StartWorkload(t, r.openWith(r.Files, auth))
	w.After(t, "nothing has changed")
	write(auth, older+newer)
	w.After(t, "the client has both passwords")
	require.NoError(t, r.Cluster.ZooKeeperSetACL(zk.DigestACL(zk.PermAll, "me", "new"), "/"+strings.Split(harness.EnvRoot, "/")[0]))
	w.After(t, "the nodes belong to the new password")
	write(auth, newer)
	w.After(t, "the client has the new password only")
	r.Run(t, w, func() {
		r.TrustBoth(t)
		r.restart(r.Older)
		w.After(t, "the servers trust both authorities")
		r.Certify(t)
		r.restart(r.Older)
	}, func() {
		r.TrustNewer(t)
		r.restart(r.Newer)
	})
	t.Log(w.Calls())
	r.RefusesOld(t, r.openWith, auth, oldAuth)
}
