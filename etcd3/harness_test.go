package etcd3

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// suiteTiming has budgets in which an election of the cluster fits, which takes at most
// 1 s. etcd grants whole seconds.
var suiteTiming = dcs.Timing{TTL: 9 * time.Second, LoopWait: 500 * time.Millisecond, RetryTimeout: 4 * time.Second}

// shared is the cluster that all tests share, and secured is the cluster with users.
var (
	shared  = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Etcd, Version: os.Getenv("HOLDFAST_ETCD_VERSION"), Domain: "etcd.test"}}
	secured = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Etcd, Version: os.Getenv("HOLDFAST_ETCD_VERSION"), Nodes: 1, Security: true, Loopback: true}}
)

func TestMain(m *testing.M) {
	conformance.Process()
	code := m.Run()
	shared.Close()
	secured.Close()
	os.Exit(code)
}

// suite is the harness of the conformance suite.
type suite struct {
	harness.Env
	refusing sync.Map // the error with which a server refuses all requests, by endpoint
}

// fresh returns the suite with a tree of its own.
func (s *suite) fresh(tb testing.TB) *suite { return &suite{Env: s.Fresh(tb)} }

func newSuite(tb testing.TB) *suite { return &suite{Env: harness.NewEnv(tb, &shared)} }

// byHand makes a call that no Backend makes, on a connection that is closed afterwards.
func (s *suite) byHand(tb testing.TB, do func(ctx context.Context, cc *grpc.ClientConn) error) {
	addr := s.Endpoints[0]
	if s.Cluster != nil {
		addr = s.Cluster.Servers()[0].Direct()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	require.NoError(tb, err)
	defer cc.Close()
	require.NoError(tb, do(ctx, cc))
}

// suiteClient is a client with injected faults.
type suiteClient struct {
	*Backend
	faults *faultInjector
	conns  harness.Sockets
}

func (s *suite) config(o conformance.Opening) Config {
	c := Config{
		Endpoints: s.Endpoints, Root: s.Root, Timing: cmp.Or(o.Timing, suiteTiming),
		Logger: o.Logger, Observer: o.Observer, Resolver: cmp.Or(o.Resolver, s.Resolver()),
	}
	return c
}

func (s *suite) newClient(c Config, faults ...conformance.Fault) (*suiteClient, error) {
	client := &suiteClient{faults: &faultInjector{root: "/" + c.Root + "/", refusing: &s.refusing}}
	for _, f := range faults {
		client.faults.Inject(f)
	}
	c.DialOptions = client.faults.options()
	b, err := newBackend(c, hooks{dialled: client.conns.Dialled, named: named})
	if err != nil {
		return nil, err
	}
	client.Backend = b
	return client, nil
}

func (s *suite) openWith(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
	c := s.config(o)
	if o.Endpoints != nil {
		c.Endpoints, c.NoDiscovery = o.Endpoints, len(o.Endpoints) < len(s.Endpoints)
	}
	b, err := s.newClient(c, o.Faults...)
	require.NoError(tb, err)
	if o.Endpoints == nil && !o.Wait {
		return b, nil
	}
	return backend.Open[dcs.Backend](tb.Context(), b, b.c.Timing, b.c.Logger, o.Wait, b.ready)
}

func (s *suite) open(tb testing.TB) dcs.Backend {
	b, err := s.openWith(tb, conformance.Opening{})
	require.NoError(tb, err)
	return b
}

func (s *suite) url(testing.TB) string { return s.URL("etcd3", suiteTiming, "discovery=false") }

func requests(b dcs.Backend) int64 { return b.(*suiteClient).faults.Requests() }

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	return b.(*suiteClient).faults.Inject(f)
}

// sockets returns the socket options of a client's connections.
func sockets(b dcs.Backend) []conformance.Socket {
	return b.(*suiteClient).conns.Read()
}

// dropBookkeeping deletes every marker, like the end of their leases.
func (s *suite) dropBookkeeping(tb testing.TB) {
	dir := "/" + s.Root + "/.op/"
	s.byHand(tb, func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := pb.NewKVClient(cc).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(dir), RangeEnd: below(dir)})
		return err
	})
}

// secure opens a client of the cluster with users.
func secure(tb testing.TB, who conformance.Credentials, log *slog.Logger) (dcs.Backend, error) {
	cluster := secured.Get(tb)
	user, password := testcluster.Suite, testcluster.Password
	switch who {
	case conformance.WrongPassword:
		password = "wrong-" + testcluster.Password
	case conformance.MissingRight:
		user = testcluster.Reader
	case conformance.ShortToken:
		outdateTokens(tb, cluster)
	}
	return openSecure(cluster, harness.ClientTLS(tb, cluster.Authority(), who), user, password, log)
}

func openSecure(cluster *testcluster.Cluster, conf *tls.Config, user, password string, log *slog.Logger) (dcs.Backend, error) {
	b, err := New(Config{
		Endpoints: cluster.Endpoints(), Root: harness.EnvRoot, Timing: suiteTiming, Logger: log,
		TLS: conf, Username: user, Password: password,
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// outdateTokens makes every token invalid several times within a TTL, because a token in
// use does not expire by itself.
func outdateTokens(tb testing.TB, cluster *testcluster.Cluster) {
	admin, err := cluster.Admin(tb.Context())
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		t := time.NewTicker(600 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			_, _ = admin.RoleAdd(ctx, "short-lived")
			_, _ = admin.RoleDelete(ctx, "short-lived")
		}
	}()
	tb.Cleanup(func() {
		cancel()
		done.Wait()
		admin.Close()
	})
}
