package raftstore

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport/transporttest"
)

// testCA is an authority made for one test.
type testCA struct{ *transporttest.CA }

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	return &testCA{transporttest.NewCA(t)}
}

// issue writes a certificate for the nodes' address, edited, and returns its files.
func (ca *testCA) issue(t testing.TB, name string, edit func(*x509.Certificate)) *TLS {
	t.Helper()
	return (*TLS)(ca.Issue(t, name, func(x *x509.Certificate) {
		x.IPAddresses = append(x.IPAddresses, net.ParseIP(loopback))
		if edit != nil {
			edit(x)
		}
	}))
}

// issueAs returns a node's files with the certificate of the node named id.
func (ca *testCA) issueAs(t testing.TB, c Config, id string) *TLS {
	t.Helper()
	return (*TLS)(ca.IssueAs(t, c.ID, id, c.memberIDs()))
}

// secure gives every node a good certificate.
func (ca *testCA) secure(t testing.TB) func(*Config) {
	return func(c *Config) { c.TLS = ca.issue(t, c.ID, nil) }
}

// named gives every node a certificate for its own name only.
func (ca *testCA) named(t testing.TB) func(*Config) {
	return func(c *Config) { c.TLS = ca.issueAs(t, *c, c.ID) }
}

// secureCluster is two nodes of three that demand certificates of each other. The third
// node was present for the first start. Its place is for clients with wrong
// credentials.
type secureCluster struct {
	t     testing.TB
	once  sync.Once
	suite *suite
	ca    *testCA
	third Config
	place sync.Mutex // held by the client in the third node's place: cases run at the same time
}

// start starts the cluster at its first use. It ends with the test of the suite.
func (s *secureCluster) start() {
	s.ca = newTestCA(s.t)
	tc := &testCluster{t: s.t, config: clusterConfigs(s.t, 3), node: make([]*Backend, 3)}
	for i := range tc.config {
		suiteConfig(&tc.config[i], suiteTiming)
		tc.hooks = append(tc.hooks, testHooks())
		tc.config[i].TLS = s.ca.issue(s.t, tc.config[i].ID, nil)
	}
	s.third = tc.config[2]
	s.t.Cleanup(tc.stopAll)
	for i := range tc.node {
		tc.start(i)
	}
	tc.leader()
	tc.eventually(func() bool { return tc.node[2].Status().Health.State == Well }, "the third node is not founded")
	tc.stop(2)
	tc.node = tc.node[:2]
	tc.leader()
	s.suite = &suite{tc: tc}
}

func (s *secureCluster) open(tb testing.TB, who conformance.Credentials, log *slog.Logger) (dcs.Backend, error) {
	s.once.Do(s.start)
	if who == conformance.Good {
		s.suite.tc.leader()
		return s.suite.open(tb), nil
	}
	c := s.third
	c.Dir = tb.TempDir()
	c.Logger = log
	switch who {
	case conformance.UnknownCA:
		c.TLS = newTestCA(tb).issue(tb, "stranger", nil)
	case conformance.WrongHost:
		c.TLS = s.ca.issue(tb, "elsewhere", func(x *x509.Certificate) {
			x.IPAddresses, x.DNSNames = nil, []string{"elsewhere.example"}
		})
	case conformance.ExpiredCert:
		c.TLS = s.ca.issue(tb, "old", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) })
	case conformance.NoCert:
		c.TLS = nil
	default:
		return nil, fmt.Errorf("raftstore has no clients with a %s", who)
	}
	s.place.Lock()
	tb.Cleanup(s.place.Unlock)
	b, err := newBackend(c, testHooks())
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { require.NoError(tb, b.Close()) })
	return b, nil
}
