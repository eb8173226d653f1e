package etcd3

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// rotatingCluster is a cluster with users whose authority and certificates are replaced.
type rotatingCluster struct {
	t            *testing.T
	c            *testcluster.Cluster
	older, newer *testcerts.Authority
	olderCA      string // the file of the older authority, which is not replaced
}

func newRotatingCluster(t *testing.T) *rotatingCluster {
	dir := t.TempDir()
	r := &rotatingCluster{t: t, olderCA: filepath.Join(dir, "older.pem")}
	r.c = testcluster.New(t, testcluster.Options{
		Kind: testcluster.Etcd, Version: os.Getenv("HOLDFAST_ETCD_VERSION"), Security: true, Loopback: true,
	})
	r.older = r.c.Authority()
	testcluster.WriteFile(t, r.olderCA, r.older.File())
	var err error
	r.newer, err = testcerts.NewAuthority(filepath.Join(dir, "newer"), r.c.Hosts())
	require.NoError(t, err)
	return r
}

// admin makes a call to one server, with the certificate own.
func (r *rotatingCluster) admin(s *testcluster.Server, own *testcerts.Authority, do func(ctx context.Context, cc *grpc.ClientConn) error) error {
	conf, err := own.Client().Config(r.newer)
	require.NoError(r.t, err)
	conf.RootCAs.AddCert(r.older.Certificate())
	cc, err := grpc.NewClient("passthrough:///"+s.Direct(), grpc.WithTransportCredentials(credentials.NewTLS(conf)), grpc.WithNoProxy())
	require.NoError(r.t, err)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	return do(ctx, cc)
}

// trust makes the servers trust the authorities in files, which etcd reads at its start. It
// restarts one server after the other. own is trusted before and after it.
func (r *rotatingCluster) trust(own *testcerts.Authority, files ...string) {
	testcluster.WriteFile(r.t, r.older.File(), files...)
	for _, s := range r.c.Servers() {
		s.Stop()
		require.NoError(r.t, s.Restart())
		require.Eventually(r.t, func() bool {
			return r.admin(s, own, func(ctx context.Context, cc *grpc.ClientConn) error {
				status, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{})
				if err == nil && (status.Leader == 0 || len(status.Errors) > 0) {
					err = errors.New("the server does not serve")
				}
				return err
			}) == nil
		}, time.Minute, 20*time.Millisecond, "server %s", s.Direct())
	}
}

// reconnect breaks the connections of the client, to one server after the other.
func (r *rotatingCluster) reconnect() {
	for _, s := range r.c.Servers() {
		s.Proxy().Reset()()
	}
}

// changePassword gives the user of the suite another password.
func (r *rotatingCluster) changePassword(to string) {
	require.NoError(r.t, r.admin(r.c.Servers()[0], r.newer, func(ctx context.Context, cc *grpc.ClientConn) error {
		auth := pb.NewAuthClient(cc)
		root, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: testcluster.Root, Password: testcluster.Password})
		if err == nil {
			ctx = outgoing(ctx, authToken{value: root.Token})
			_, err = auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: testcluster.Suite, Password: to})
		}
		return err
	}))
}

// openWith opens a Store with credentials in files.
func (r *rotatingCluster) openWith(files dcs.TLSFiles, password string) *dcs.Store {
	timing := dcs.Timing{}.WithDefaults()
	b, err := New(Config{
		Endpoints: r.c.Endpoints(), Root: harness.EnvRoot + "/rotation", Timing: timing,
		TLSFiles: &files, Username: testcluster.Suite, PasswordFile: password,
	})
	require.NoError(r.t, err)
	store, err := dcs.New(b, dcs.Options{Timing: timing})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { store.Close() })
	return store
}

// No call of any kind fails while the authority, the certificates of servers and clients,
// and the password are replaced one after the other, with two restarts of every server.
// Afterwards nobody can use the old ones.
func TestRotationOfAllCredentialsCostsNoCall(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("the servers are restarted six times: set HOLDFAST_PROFILE=slow")
	}
	r := newRotatingCluster(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	files := dcs.TLSFiles{CA: file("ca"), Cert: file("cert"), Key: file("key")}
	oldPair, newPair := r.older.Client(), r.newer.Client()
	testcluster.WriteFile(t, files.CA, r.olderCA)
	testcluster.WriteFile(t, files.Cert, oldPair.Cert)
	testcluster.WriteFile(t, files.Key, oldPair.Key)
	require.NoError(t, os.WriteFile(file("password"), []byte(testcluster.Password), 0o600))
	w := testcluster.StartWorkload(t, r.openWith(files, file("password")))
	w.After(t, "nothing has changed")

	testcluster.WriteFile(t, files.CA, r.olderCA, r.newer.File())
	r.reconnect()
	w.After(t, "the client trusts both authorities")
	r.trust(r.older, r.olderCA, r.newer.File())
	w.After(t, "the servers trust both authorities")
	testcluster.WriteFile(t, r.older.Server().Cert, r.newer.Server().Cert)
	testcluster.WriteFile(t, r.older.Server().Key, r.newer.Server().Key)
	r.reconnect()
	w.After(t, "the servers have their new certificates")
	testcluster.WriteFile(t, files.Cert, newPair.Cert)
	testcluster.WriteFile(t, files.Key, newPair.Key)
	r.reconnect()
	w.After(t, "the client has its new certificate")
	r.trust(r.newer, r.newer.File())
	w.After(t, "the servers trust the new authority only")
	testcluster.WriteFile(t, files.CA, r.newer.File())
	r.reconnect()
	w.After(t, "the client trusts the new authority only")
	r.changePassword("another-" + testcluster.Password)
	require.NoError(t, os.WriteFile(file("password"), []byte("another-"+testcluster.Password), 0o600))
	w.After(t, "the password has changed")
	t.Log(w.Calls())

	require.NoError(t, os.WriteFile(file("old-password"), []byte(testcluster.Password), 0o600))
	for name, old := range map[string]struct {
		files    dcs.TLSFiles
		password string
	}{
		"authority":   {dcs.TLSFiles{CA: r.olderCA, Cert: files.Cert, Key: files.Key}, file("password")},
		"certificate": {dcs.TLSFiles{CA: files.CA, Cert: oldPair.Cert, Key: oldPair.Key}, file("password")},
		"password":    {files, file("old-password")},
	} {
		_, err := r.openWith(old.files, old.password).Get(t.Context(), "workload/key")
		require.ErrorIs(t, err, dcs.ErrUnauthorized, name)
	}
}
