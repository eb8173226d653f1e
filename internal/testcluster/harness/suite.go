package harness

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance"
	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// Faults returns the operations of the conformance suite on the servers that all kinds
// have. The harness of a kind may add its own operations.
func Faults(c *testcluster.Cluster) *conformance.Cluster {
	return &conformance.Cluster{
		Endpoints:     slices.Clone(c.Endpoints()),
		Election:      c.Election(),
		Leader:        func(testing.TB) int { return c.Leader(context.Background()) },
		Healthy:       func(tb testing.TB) { require.NoError(tb, c.Healthy(context.Background())) },
		RestartAll:    func(tb testing.TB) { require.NoError(tb, c.RestartAll(context.Background())) },
		InjectFault:   func(tb testing.TB, i int, t conformance.ServerFault) func() { return injectFault(tb, c, i, t) },
		Foreign:       func(tb testing.TB) string { return testcluster.New(tb, c.Foreign()).Endpoints()[0] },
		DeadAddresses: func(testing.TB) *net.Resolver { return deadAddresses(c) },
		Wipe:          func(tb testing.TB) { require.NoError(tb, c.Wipe(context.Background())) },
		Backup: func(tb testing.TB) func() {
			dir := tb.TempDir()
			require.NoError(tb, c.Backup(context.Background(), dir))
			return func() { require.NoError(tb, c.RestoreBackup(context.Background(), dir)) }
		},
	}
}

// deadAddresses returns a resolver that adds an unused address of the same network before
// that of each server.
func deadAddresses(c *testcluster.Cluster) *net.Resolver {
	hosts := map[string][]netip.Addr{}
	for _, s := range c.Servers() {
		name, _, _ := net.SplitHostPort(s.Endpoint()) // it is one, as is the next
		at, _, _ := net.SplitHostPort(s.Proxy().Addr())
		addr := netip.MustParseAddr(at)
		dead := addr.As4()
		dead[3] = 250
		hosts[name] = []netip.Addr{netip.AddrFrom4(dead), addr}
	}
	return fault.NewResolver(hosts).Net()
}

func injectFault(tb testing.TB, c *testcluster.Cluster, i int, t conformance.ServerFault) (heal func()) {
	server := c.Servers()[i]
	must := func(err error) { require.NoError(tb, err, "%v", t.Do) }
	switch t.Do {
	case conformance.Killed:
		server.Kill()
		return func() { must(server.Restart()) }
	case conformance.Stopped:
		must(server.Retire())
		server.Stop()
		return func() { must(server.Restart()) }
	case conformance.Frozen:
		thaw, err := server.Process().Freeze()
		must(err)
		return thaw
	case conformance.Refused:
		lift := server.Proxy().Refuse()
		return func() { must(lift()) }
	case conformance.Silent:
		return server.Proxy().Silent()
	case conformance.ResetAll:
		return server.Proxy().Reset()
	case conformance.Delayed:
		return server.Proxy().Delay(t.Delay)
	case conformance.Unresolved:
		return server.Unresolve()
	case conformance.Blackholed:
		lift, err := c.Blackhole(i)
		must(err)
		return func() { must(lift()) }
	case conformance.Partitioned:
		lift, err := c.Partition(i)
		must(err)
		return func() { must(lift()) }
	}
	tb.Fatalf("%v: unknown fault", t.Do)
	return nil
}

// Sockets records the connections of a client, for the Sockets of a harness.
type Sockets struct {
	mu    sync.Mutex
	conns []net.Conn
}

// Dialled records c.
func (s *Sockets) Dialled(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

// Read returns the socket options of the connections that are open.
func (s *Sockets) Read() []conformance.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []conformance.Socket
	for _, c := range s.conns {
		if c.SetDeadline(time.Time{}) == nil {
			out = append(out, conformance.ReadSocket("dialled", c))
		}
	}
	return out
}

// ClientTLS returns the TLS configuration of a client with the credentials of a case, which
// may be valid, invalid or missing. a is the authority of the servers.
func ClientTLS(tb testing.TB, a *testcerts.Authority, creds conformance.Credentials) *tls.Config {
	pair := a.Client()
	if creds == conformance.ExpiredCert {
		pair = a.Expired()
	}
	conf, err := pair.Config(a)
	require.NoError(tb, err)
	switch creds {
	case conformance.NoCert:
		conf.Certificates = nil
	case conformance.WrongHost:
		conf.ServerName = testcerts.OtherName
	case conformance.UnknownCA:
		other, err := testcerts.NewAuthority(filepath.Join(tb.TempDir(), "other"), nil)
		require.NoError(tb, err)
		stranger, err := pair.Config(other)
		require.NoError(tb, err)
		conf.RootCAs = stranger.RootCAs
	}
	return conf
}
