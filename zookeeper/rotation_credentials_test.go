package zookeeper

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
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

// mode returns "leader" or "follower" for a server that serves. own is trusted by it.
func (r *rotatingCluster) mode(s *testcluster.Server, own *testcerts.Authority) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	c, err := (&tls.Dialer{Config: r.AdminTLS(r.t, own)}).DialContext(ctx, "tcp", s.Direct())
	if err != nil {
		return "", err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := io.WriteString(c, "srvr"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	_, mode, ok := strings.Cut(string(answer), "Mode: ")
	if err == nil && !ok {
		err = errors.New("the server does not serve")
	}
	mode, _, _ = strings.Cut(mode, "\n")
	return mode, err
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

// certify gives the servers the certificate of the newer authority at their next start.
// ZooKeeper requires certificate and key in one file.
func (r *rotatingCluster) certify() {
	pair, err := tls.LoadX509KeyPair(r.Newer.Server().Cert, r.Newer.Server().Key)
	require.NoError(r.t, err)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(r.t, err)
	both := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	both = append(both, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})...)
	stores, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(r.Older.File())), "n*", "server.pem"))
	require.NoError(r.t, err)
	require.Len(r.t, stores, 3)
	for _, file := range stores {
		require.NoError(r.t, os.WriteFile(file, both, 0o600))
	}
}

// own makes all nodes belong to a user.
func (r *rotatingCluster) own(user, password string) {
	admin, err := r.Cluster.ZooKeeperAdmin(0)
	require.NoError(r.t, err)
	defer admin.Close()
	var walk func(path string)
	walk = func(path string) {
		if _, err := admin.SetACL(path, zk.DigestACL(zk.PermAll, user, password), -1); !errors.Is(err, zk.ErrNoNode) {
			require.NoError(r.t, err, path)
		}
		children, _, err := admin.Children(path)
		if !errors.Is(err, zk.ErrNoNode) {
			require.NoError(r.t, err, path)
		}
		for _, name := range children {
			walk(path + "/" + name)
		}
	}
	walk("/" + strings.Split(harness.EnvRoot, "/")[0])
}

// openWith opens a Store with credentials in files.
func (r *rotatingCluster) openWith(files dcs.TLSFiles, auth string) *dcs.Store {
	timing := dcs.Timing{}.WithDefaults()
	b, err := New(Config{Endpoints: r.Cluster.Endpoints(), Root: harness.EnvRoot + "/rotation", Timing: timing, TLSFiles: &files, AuthFile: auth})
	require.NoError(r.t, err)
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { store.Close() })
	return store
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
	r.own("me", "new")
	w.After(t, "the nodes belong to the new password")
	write(auth, newer)
	w.After(t, "the client has the new password only")
	r.Run(t, w, func() {
		r.TrustBoth(t)
		r.restart(r.Older)
		w.After(t, "the servers trust both authorities")
		r.certify()
		r.restart(r.Older)
	}, func() {
		r.TrustNewer(t)
		r.restart(r.Newer)
	})
	t.Log(w.Calls())

	refused := func(what string, store *dcs.Store) {
		_, err := store.Get(t.Context(), "workload/key")
		require.ErrorIs(t, err, dcs.ErrUnauthorized, what)
	}
	for what, files := range r.Old() {
		refused(what, r.openWith(files, auth))
	}
	refused("password", r.openWith(r.Files, oldAuth))
}
