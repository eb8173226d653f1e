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
	*testcluster.ClusterRotation
	t *testing.T
}

func newRotatingCluster(t *testing.T) *rotatingCluster {
	t.Helper()
	return &rotatingCluster{testcluster.NewClusterRotation(t, testcluster.Options{
		Kind: testcluster.Etcd, Version: os.Getenv("HOLDFAST_ETCD_VERSION"),
	}), t}
}

// admin makes a call to one server, with the certificate own.
func (r *rotatingCluster) admin(s *testcluster.Server, own *testcerts.Authority, do func(ctx context.Context, cc *grpc.ClientConn) error) error {
	cc, err := grpc.NewClient("passthrough:///"+s.Direct(), grpc.WithTransportCredentials(credentials.NewTLS(r.AdminTLS(r.t, own))), grpc.WithNoProxy())
	require.NoError(r.t, err)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	return do(ctx, cc)
}

// restart restarts one server after the other, because etcd reads the authorities at its
// start. own is trusted before and after it.
func (r *rotatingCluster) restart(own *testcerts.Authority) {
	for _, s := range r.Cluster.Servers() {
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

// changePassword gives the user of the suite another password.
func (r *rotatingCluster) changePassword(to string) {
	require.NoError(r.t, r.admin(r.Cluster.Servers()[0], r.Newer, func(ctx context.Context, cc *grpc.ClientConn) error {
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
		Endpoints: r.Cluster.Endpoints(), Root: harness.EnvRoot + "/rotation", Timing: timing,
		TLSFiles: &files, Username: testcluster.Suite, PasswordFile: password,
	})
	require.NoError(r.t, err)
	return testcluster.OpenStore(r.t, b, timing)
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
	password := filepath.Join(dir, "password")
	require.NoError(t, os.WriteFile(password, []byte(testcluster.Password), 0o600))
	w := testcluster.StartWorkload(t, r.openWith(r.Files, password))
	w.After(t, "nothing has changed")
	r.Run(t, w, func() {
		r.TrustBoth(t)
		r.restart(r.Older)
		w.After(t, "the servers trust both authorities")
		r.Certify(t)
		r.Reconnect()
	}, func() {
		r.TrustNewer(t)
		r.restart(r.Newer)
	})
	r.changePassword("another-" + testcluster.Password)
	require.NoError(t, os.WriteFile(password, []byte("another-"+testcluster.Password), 0o600))
	w.After(t, "the password has changed")
	t.Log(w.Calls())

	oldPassword := filepath.Join(dir, "old-password")
	require.NoError(t, os.WriteFile(oldPassword, []byte(testcluster.Password), 0o600))
	r.RefusesOld(t, r.openWith, password, oldPassword)
}

// No call of any kind fails while authentication is disabled and enabled on a running
// cluster (etcd #10753).
func TestSwitchingAuthenticationCostsNoCall(t *testing.T) {
	if os.Getenv("HOLDFAST_PROFILE") != "slow" {
		t.Skip("a cluster with users is started: set HOLDFAST_PROFILE=slow")
	}
	r := newRotatingCluster(t)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte(testcluster.Password), 0o600))
	w := testcluster.StartWorkload(t, r.openWith(r.Files, password))
	w.After(t, "nothing has changed")
	for range 4 {
		r.switchAuthentication(false)
		w.After(t, "authentication is disabled")
		r.switchAuthentication(true)
		w.After(t, "authentication is enabled")
	}
	t.Log(w.Calls())
}

// switchAuthentication enables or disables authentication.
func (r *rotatingCluster) switchAuthentication(on bool) {
	require.NoError(r.t, r.admin(r.Cluster.Servers()[0], r.Older, func(ctx context.Context, cc *grpc.ClientConn) error {
		auth := pb.NewAuthClient(cc)
		if on {
			_, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
			return err
		}
		root, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: testcluster.Root, Password: testcluster.Password})
		if err == nil {
			_, err = auth.AuthDisable(outgoing(ctx, authToken{value: root.Token}), &pb.AuthDisableRequest{})
		}
		return err
	}))
}
