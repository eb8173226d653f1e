package consul

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
)

// suiteTiming has budgets in which an election of the servers fits, which takes at most
// 4.5 s.
var suiteTiming = dcs.Timing{TTL: 13 * time.Second, LoopWait: time.Second, RetryTimeout: 6 * time.Second}

// shared are the servers that all tests share, and secured is the server with TLS and
// ACLs.
var (
	shared  = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Consul, Domain: "consul.test"}}
	secured = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Consul, Nodes: 1, Security: true, Loopback: true}}
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
	agent    string   // "": the clients use the servers
	refusing sync.Map // the refusal with which a server answers all requests, by endpoint
}

// fresh returns the suite with a tree of its own.
func (s *suite) fresh(tb testing.TB) *suite {
	own := &suite{Env: s.Fresh(tb), agent: s.agent}
	if s.agent != "" {
		own.Endpoints = []string{s.agent}
	}
	return own
}

func newSuite(tb testing.TB) *suite {
	s := &suite{Env: harness.NewEnv(tb, &shared)}
	commonNode.Do(func() { s.registerNode(tb) })
	return s
}

func (s *suite) registerNode(tb testing.TB) {
	_, err := s.admin(tb).Catalog().Register(&api.CatalogRegistration{Node: suiteNode, Address: nodeAddress}, nil)
	require.NoError(tb, err)
}

// suiteNode is the catalog node of all roots of the suite. They may share it, because it
// was registered like one of an operator.
const suiteNode = "holdfast-suite"

var commonNode sync.Once

// admin is a client with every permission that bypasses the proxies.
func (s *suite) admin(tb testing.TB) *api.Client {
	if s.Cluster == nil {
		c, err := api.NewClient(&api.Config{Address: s.Endpoints[0]})
		require.NoError(tb, err)
		return c
	}
	c, err := s.Cluster.ConsulAdmin(0)
	require.NoError(tb, err)
	return c
}

// suiteClient is a client with injected faults.
type suiteClient struct {
	*Backend
	faults *faultInjector
	conns  harness.Sockets
}

func (s *suite) config(o conformance.Opening) Config {
	c := Config{
		Endpoints: s.Endpoints, Root: s.Root, Node: suiteNode, MinTTL: time.Second,
		Timing: cmp.Or(o.Timing, suiteTiming), Logger: o.Logger, Observer: o.Observer, Resolver: cmp.Or(o.Resolver, s.Resolver()),
	}
	if s.agent != "" {
		c.Node = ""
	}
	if o.Endpoints != nil {
		c.Endpoints = o.Endpoints
	}
	return c
}

func (s *suite) openWith(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
	c, client := s.config(o), &suiteClient{faults: &faultInjector{root: s.Root + "/", refusing: &s.refusing}}
	for _, f := range o.Faults {
		client.faults.Inject(f)
	}
	h := hooks{transport: client.faults.wrap, dialled: client.conns.Dialled, named: named}
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
	return client, nil
}

func (s *suite) open(tb testing.TB) dcs.Backend {
	b, err := s.openWith(tb, conformance.Opening{})
	require.NoError(tb, err)
	return b
}

func (s *suite) url(testing.TB) string {
	if s.agent != "" {
		site := harness.Env{Endpoints: s.Endpoints, Root: s.Root}
		return site.URL("consul", suiteTiming, "lock_delay=1ms")
	}
	return s.URL("consul", suiteTiming, "node=holdfast-suite")
}

func requests(b dcs.Backend) int64 { return b.(*suiteClient).faults.Requests() }

func inject(b dcs.Backend, f conformance.Fault) (lift func()) {
	return b.(*suiteClient).faults.Inject(f)
}

// sockets returns the socket options of a client's connections.
func sockets(b dcs.Backend) []conformance.Socket {
	return b.(*suiteClient).conns.Read()
}

// dropBookkeeping deletes every marker, like the end of their sessions.
func (s *suite) dropBookkeeping(tb testing.TB) {
	_, err := s.admin(tb).KV().DeleteTree(s.Root+"/.op/", nil)
	require.NoError(tb, err)
}

// secure opens a client of the server with TLS and ACLs.
func secure(tb testing.TB, who conformance.Credentials, log *slog.Logger) (dcs.Backend, error) {
	cluster := secured.Get(tb)
	rules := testcluster.ConsulRules("holdfast-suite")
	if who == conformance.MissingRight {
		rules = testcluster.ConsulReader
	}
	t := &tokens{tb: tb, admin: (&suite{Env: harness.Env{Cluster: cluster}}).admin(tb), file: filepath.Join(tb.TempDir(), "token")}
	switch who {
	case conformance.WrongPassword:
		t.write("wrong-" + conformance.Secret)
	case conformance.ShortToken:
		t.renew(rules)
		t.keepRenewing(rules)
	default:
		t.renew(rules)
	}
	return openSecure(cluster, harness.ClientTLS(tb, cluster.Authority(), who), t.file, log)
}

func openSecure(cluster *testcluster.Cluster, conf *tls.Config, tokenFile string, log *slog.Logger) (dcs.Backend, error) {
	b, err := New(Config{
		Endpoints: cluster.Endpoints(), Root: harness.EnvRoot, Node: suiteNode, MinTTL: time.Second,
		Timing: suiteTiming, Logger: log, TLS: conf, TokenFile: tokenFile,
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// tokens is a file that has one ACL token at a time.
type tokens struct {
	tb    testing.TB
	admin *api.Client
	file  string
	last  string // the accessor of the token in the file
}

// write replaces the file, so that nobody reads a part of it.
func (t *tokens) write(secret string) {
	require.NoError(t.tb, os.WriteFile(t.file+".new", []byte(secret+"\n"), 0o600))
	require.NoError(t.tb, os.Rename(t.file+".new", t.file))
}

// renew writes a new token to the file and deletes the old token in Consul.
func (t *tokens) renew(rules string) {
	name := "suite-" + strings.ToLower(rand.Text()[:12])
	_, _, err := t.admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	require.NoError(t.tb, err)
	token, _, err := t.admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
	require.NoError(t.tb, err)
	t.write(token.SecretID)
	if t.last != "" {
		_, err := t.admin.ACL().TokenDelete(t.last, nil)
		require.NoError(t.tb, err)
	}
	t.last = token.AccessorID
}

// keepRenewing makes every token invalid several times within a TTL.
func (t *tokens) keepRenewing(rules string) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		tick := time.NewTicker(600 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				t.renew(rules)
			}
		}
	}()
	t.tb.Cleanup(func() { cancel(); done.Wait() })
}
