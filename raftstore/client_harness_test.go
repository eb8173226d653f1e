package raftstore

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
	"github.com/holdfast-dcs/holdfast/internal/testcluster/harness"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// clientTiming leaves an election of the cluster's, 1 s at most, room in a budget.
var clientTiming = dcs.Timing{TTL: 6500 * time.Millisecond, LoopWait: 400 * time.Millisecond, RetryTimeout: 3 * time.Second}

// sharedNodes is the cluster that the tests of clients share, and securedNodes
// the one that demands certificates.
var (
	sharedNodes  = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Raft, Domain: "raft.test"}}
	securedNodes = testcluster.Shared{Options: testcluster.Options{Kind: testcluster.Raft, Nodes: 1, Security: true, Loopback: true}}
)

// raftNode lets the test binary be a node of those clusters.
var raftNode = testcluster.RaftNode{
	Leads: func(b dcs.Backend) bool { return b.(*Backend).node.lead.leading.Load() },
	Orders: map[string]func(b dcs.Backend, args url.Values) error{
		"revoke": func(b dcs.Backend, args url.Values) error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return (&leaseHandle{b: &b.(*Backend).frontend, id: dcs.LeaseID(args.Get("lease"))}).Revoke(ctx)
		},
		"move": func(b dcs.Backend, args url.Values) error {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			return b.(*Backend).Membership().Move(ctx, args.Get("id"), args.Get("addr"))
		},
		"cut": func(b dcs.Backend, args url.Values) error {
			var reason error
			if args.Get("off") == "true" {
				reason = errCut
			}
			for _, k := range []transport.Kind{transport.KindRaft, transport.KindCall, transport.KindSetup} {
				b.(*Backend).node.net.Gate(k, reason)
			}
			return nil
		},
	},
}

// clientSuite has the nodes on which the conformance suite of clients runs.
type clientSuite struct{ harness.Env }

func newClientSuite(tb testing.TB) *clientSuite {
	return (&clientSuite{harness.NewEnv(tb, &sharedNodes)}).fresh(tb)
}

func (s *clientSuite) fresh(tb testing.TB) *clientSuite {
	site := s.Fresh(tb)
	site.Root = testcluster.RaftRoot // a cluster keeps one tree
	return &clientSuite{site}
}

// faultyClient is a client with a fault injector in its connections.
type faultyClient struct {
	*Client
	faults *faultyNetwork
}

func (s *clientSuite) openWith(tb testing.TB, o conformance.Opening) (dcs.Backend, error) {
	config := ClientConfig{
		Endpoints: s.Endpoints, Root: s.Root, Timing: cmp.Or(o.Timing, clientTiming), MinTTL: time.Second,
		PlaintextBeyondLoopback: true, NoDiscovery: true, // the nodes know no proxies
		Logger: o.Logger, Observer: o.Observer, Resolver: cmp.Or(o.Resolver, s.Resolver()),
	}
	if o.Endpoints != nil {
		config.Endpoints, config.NoDiscovery = o.Endpoints, len(o.Endpoints) < len(s.Endpoints)
	}
	t := &faultyClient{faults: &faultyNetwork{}}
	for _, f := range o.Faults {
		t.faults.Inject(f)
	}
	h := defaultHooks()
	h.network = func(n clientNetwork) clientNetwork { t.faults.clientNetwork = n; return t.faults }
	c, err := newClient(config, h)
	require.NoError(tb, err)
	t.Client = c
	if o.Endpoints == nil && !o.Wait {
		return t, nil
	}
	return backend.Open[dcs.Backend](tb.Context(), t, c.config.Timing, c.config.Logger, o.Wait, c.ready)
}

func (s *clientSuite) open(tb testing.TB) dcs.Backend {
	b, err := s.openWith(tb, conformance.Opening{})
	require.NoError(tb, err)
	return b
}

func (s *clientSuite) url(testing.TB) string {
	return s.URL("raft", clientTiming, "discovery=false&plaintext_beyond_loopback=true&min_ttl=1s")
}

func clientRequests(b dcs.Backend) int64 { return b.(*faultyClient).faults.Requests() }

func clientInject(b dcs.Backend, f conformance.Fault) (lift func()) {
	return b.(*faultyClient).faults.Inject(f)
}

func clientSockets(b dcs.Backend) []conformance.Socket {
	var out []conformance.Socket
	for _, c := range b.(*faultyClient).conns.Conns() {
		out = append(out, socketOf("dialled", c.Keepalive))
	}
	return out
}

// faults returns the nodes for the fault cases.
func (s *clientSuite) faults() *conformance.Cluster {
	c := harness.Faults(s.Cluster)
	strike := c.InjectFault
	c.InjectFault = func(tb testing.TB, i int, t conformance.ServerFault) func() {
		if t.Do == conformance.Partitioned && !s.Cluster.HasNetwork() {
			return s.cut(tb, i)
		}
		return strike(tb, i, t)
	}
	c.Replace = func(tb testing.TB, i int) string {
		require.NoError(tb, s.Cluster.Replace(context.Background(), i))
		s.Endpoints = s.Cluster.Endpoints()
		return s.Endpoints[i]
	}
	c.EndLease = func(tb testing.TB, id dcs.LeaseID) {
		s.order(tb, 0, "revoke", url.Values{"lease": {string(id)}})
	}
	return c
}

func (s *clientSuite) order(tb testing.TB, i int, name string, args url.Values) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(tb, s.Cluster.Servers()[i].Order(ctx, name, args))
}

// cut makes a node close every connection with the others and make no more. It replaces
// a network namespace where none can be made.
func (s *clientSuite) cut(tb testing.TB, i int) (restore func()) {
	s.order(tb, i, "cut", url.Values{"off": {"true"}})
	return func() { s.order(tb, i, "cut", url.Values{"off": {"false"}}) }
}

// secureClient opens a client of the cluster that demands certificates.
func secureClient(tb testing.TB, who conformance.Credentials, log *slog.Logger) (dcs.Backend, error) {
	cluster := securedNodes.Get(tb)
	ca := cluster.Authority()
	files := func(a *testcerts.Authority, p testcerts.Pair) *TLS {
		return &TLS{CertFile: p.Cert, KeyFile: p.Key, CAFile: a.File()}
	}
	config := ClientConfig{
		Endpoints: cluster.Endpoints(), Root: testcluster.RaftRoot, Timing: clientTiming, MinTTL: time.Second,
		TLS: files(ca, ca.Client()), NoDiscovery: true, Logger: log,
	}
	switch who {
	case conformance.ExpiredCert:
		config.TLS = files(ca, ca.Expired())
	case conformance.NoCert:
		config.TLS = nil
	case conformance.WrongHost:
		config.TLS.Names = map[string]string{"n0": "elsewhere.test"}
	case conformance.UnknownCA:
		other, err := testcerts.NewAuthority(filepath.Join(tb.TempDir(), "other"), nil)
		require.NoError(tb, err)
		config.TLS = files(other, other.Client())
	}
	c, err := NewClient(config)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// faultyNetwork injects faults into a client's connections. The messages of a stream
// answer no request of the client, so the faults of Waits also apply to pushes.
type faultyNetwork struct {
	conformance.FaultInjector
	pushes conformance.FaultInjector
	clientNetwork
}

// Inject puts a fault between the client and the nodes.
func (t *faultyNetwork) Inject(f conformance.Fault) (lift func()) {
	own := t.FaultInjector.Inject(f)
	if f.Do == conformance.Pass || f.When != nil && !f.When(conformance.Request{Op: "Wait"}) {
		return own
	}
	also := t.pushes.Inject(f)
	return func() {
		own()
		also()
	}
}

// Call makes a call with the faults in force.
func (t *faultyNetwork) Call(ctx context.Context, addr string, op byte, body []byte) (answer []byte, err error) {
	var mu sync.Mutex
	err = t.Pass(ctx, describe(op, body), func(ctx context.Context) error {
		got, err := t.clientNetwork.Call(ctx, addr, op, body)
		mu.Lock()
		defer mu.Unlock()
		answer = got
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	return answer, err
}

// Open opens a stream with the faults in force.
func (t *faultyNetwork) Open(ctx context.Context, addr string, body []byte) (stream, error) {
	r := conformance.Request{Op: "Wait"}
	if f, err := decodeFeedRequest(body); err == nil && f.kind == feedTree {
		r = conformance.Request{Op: "Snapshot", Keys: []string{f.prefix}}
	}
	f := t.Judge(r)
	if f.LoseRequest {
		return silentStream{}, nil
	}
	if err := f.AwaitRequest(ctx); err != nil {
		return nil, err
	}
	s, err := t.clientNetwork.Open(ctx, addr, body)
	return &faultyStream{stream: s, pushes: &t.pushes, action: f}, err
}

// silentStream never delivers a message.
type silentStream struct{}

func (silentStream) Recv(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (silentStream) Close() {}

// faultyStream applies its action and the faults in force to the messages of a stream.
// After a lost message it stays silent.
type faultyStream struct {
	stream
	pushes *conformance.FaultInjector
	action conformance.Action
	silent bool
}

func (s *faultyStream) Recv(ctx context.Context) ([]byte, error) {
	if s.silent = s.silent || s.action.LoseAnswer; s.silent {
		return silentStream{}.Recv(ctx)
	}
	body, err := s.stream.Recv(ctx)
	now := s.pushes.Judge(conformance.Request{Op: "Wait"})
	if s.silent = now.LoseAnswer || now.LoseRequest; s.silent {
		return silentStream{}.Recv(ctx)
	}
	for _, f := range []conformance.Action{s.action, now} {
		if late := errors.Join(f.AwaitRequest(ctx), f.AwaitAnswer(ctx)); late != nil {
			return nil, late
		}
	}
	return body, err
}
