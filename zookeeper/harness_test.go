package zookeeper

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// suiteTiming leaves room in a budget for an election of the servers, which
// takes 2.5 s at most.
var suiteTiming = dcs.Timing{TTL: 15 * time.Second, LoopWait: time.Second, RetryTimeout: 7 * time.Second}

// shared holds the servers that all tests share, and secured the one with TLS.
var (
	shared  = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.ZooKeeper, Domain: "zookeeper.test"}}
	secured = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.ZooKeeper, Nodes: 1, Security: true, Loopback: true}}
)

func TestMain(m *testing.M) {
	conformance.Process()
	code := m.Run()
	shared.Close()
	secured.Close()
	os.Exit(code)
}

// suite is the environment of the conformance suite.
type suite struct {
	harness.Env

	mu       sync.Mutex
	clients  []*Backend
	refusing sync.Map // the error with which a server refuses all requests, by endpoint
}

// fresh returns the suite with a tree of its own.
func (s *suite) fresh(tb testing.TB) *suite { return &suite{Env: s.Fresh(tb)} }

func newSuite(tb testing.TB) *suite { return &suite{Env: harness.NewEnv(tb, &shared)} }

// admin runs f with a client that has all permissions and does not use a proxy.
func (s *suite) admin(tb testing.TB, f func(c *zk.Conn)) {
	tb.Helper()
	if s.Cluster == nil {
		c, _, err := zk.Connect(s.Endpoints, 10*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}))
		require.NoError(tb, err)
		defer c.Close()
		f(c)
		return
	}
	c, err := s.Cluster.ZooKeeperAdmin(0)
	require.NoError(tb, err)
	defer c.Close()
	f(c)
}

// suiteClient is a client with a fault injector in front of the library.
type suiteClient struct {
	*Backend
	injector *testInjector
	conns    harness.Sockets
}

func (s *suite) config(o conformance.Opening) Config {
	c := Config{
		Endpoints: s.Endpoints, Root: s.Root, Timing: cmp.Or(o.Timing, suiteTiming), Logger: o.Logger, Observer: o.Observer, Resolver: cmp.Or(o.Resolver, s.Resolver()),
	}
	if o.Endpoints != nil {
		c.Endpoints = o.Endpoints
	}
	if s.Cluster != nil {
		// The longest session of the test servers is not 20 ticks.
		c.Tick, c.MinTTL, c.MaxTTL = testcluster.ZooKeeperTick, 2*testcluster.ZooKeeperTick, time.Minute
	}
	return c
}

func (s *suite) openWith(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
	client := &suiteClient{injector: &testInjector{refusing: &s.refusing}}
	for _, f := range o.Faults {
		client.injector.Inject(f)
	}
	c, h := s.config(o), hooks{intercept: client.injector.send, dialled: client.conns.Dialled}
	create := func() (*Backend, error) { return newBackend(c, h) }
	var err error
	if o.Endpoints == nil && !o.Wait {
		client.Backend, err = create()
	} else {
		client.Backend, err = backend.Connect(tb.Context(), c.Timing, c.Logger, o.Wait, create, (*Backend).ready)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, client.Backend)
	return client, nil
}

func (s *suite) open(tb testing.TB) dcs.Backend {
	b, err := s.openWith(tb, conformance.Opening{})
	require.NoError(tb, err)
	return b
}

func (s *suite) url(testing.TB) string {
	options := "wait=false"
	if s.Cluster != nil {
		options = "tick=" + testcluster.ZooKeeperTick.String()
	}
	return s.URL("zookeeper", suiteTiming, options)
}

func requests(b dcs.Backend) int64 { return b.(*suiteClient).injector.Requests() }

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	return b.(*suiteClient).injector.Inject(f)
}

// sockets reads the options of a client's connections.
func sockets(b dcs.Backend) []conformance.Socket { return b.(*suiteClient).conns.Read() }

// dropBookkeeping removes every marker, like the end of the markers' session.
func (s *suite) dropBookkeeping(tb testing.TB) {
	s.admin(tb, func(c *zk.Conn) {
		names, _, err := c.Children("/" + s.Root + "/" + markers)
		if !errors.Is(err, zk.ErrNoNode) {
			require.NoError(tb, err)
		}
		for _, n := range names {
			if err := c.Delete("/"+s.Root+"/"+markers+"/"+n, -1); !errors.Is(err, zk.ErrNoNode) {
				require.NoError(tb, err)
			}
		}
	})
}

// testInjector applies the suite's faults to every call. A request that must
// arrive after its sender has closed the connection is sent on another one.
type testInjector struct {
	conformance.FaultInjector
	refusing *sync.Map // of the suite
}

// refusal returns the error with which the server of a session refuses all
// requests, or nil.
func (t *testInjector) refusal(s *session) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return nil
	}
	if err, ok := t.refusing.Load(endpoint.HostPort(s.live.addr)); ok {
		return err.(error)
	}
	return nil
}

func (t *testInjector) send(ctx context.Context, r request, s *session, send func(c *zk.Conn) error) error {
	if err := t.refusal(s); err != nil {
		return err
	}
	return t.Pass(ctx, conformance.Request{Op: r.op, Keys: r.keys}, func(now context.Context) error {
		switch {
		case s == nil:
			return send(nil)
		case now == ctx || !s.o.once || s.ended() == nil:
			return send(s.conn)
		}
		c, _, err := zk.Connect([]string{"late"}, 10*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(s.late))
		if err != nil {
			return err
		}
		defer c.Close()
		return send(c)
	})
}

const (
	secretUser   = "suite"
	readingUser  = "reader"
	readerSecret = "reads-only"
)

// secure opens a client of the server with TLS and users.
func secure(tb testing.TB, who conformance.Credentials, log *slog.Logger) (dcs.Backend, error) {
	cluster := secured.Get(tb)
	owners(tb, cluster)
	c := Config{
		Endpoints: cluster.Endpoints(), Root: harness.EnvRoot, User: secretUser, Password: conformance.Secret, Timing: suiteTiming,
		Tick: testcluster.ZooKeeperTick, MinTTL: 2 * testcluster.ZooKeeperTick, MaxTTL: time.Minute,
		Logger: log, TLS: harness.ClientTLS(tb, cluster.Authority(), who),
	}
	switch who {
	case conformance.WrongPassword:
		c.Password = "wrong-" + conformance.Secret
	case conformance.MissingRight:
		c.User, c.Password = readingUser, readerSecret
	}
	b, err := New(c)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// owners makes the root of the suite's tree. It belongs to one user, and
// another user may read it.
func owners(tb testing.TB, cluster *testcluster.Cluster) {
	c, err := cluster.ZooKeeperAdmin(0)
	require.NoError(tb, err)
	defer c.Close()
	acl := append(zk.DigestACL(zk.PermAll, secretUser, conformance.Secret), zk.DigestACL(zk.PermRead, readingUser, readerSecret)...)
	for _, path := range append(parents("/"+harness.EnvRoot), "/"+harness.EnvRoot) {
		if _, err := c.Create(path, nil, 0, acl); !errors.Is(err, zk.ErrNodeExists) {
			require.NoError(tb, err)
		}
	}
}
