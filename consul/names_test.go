package consul

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// If the first of the two addresses of a name is frozen, the second one answers every
// call.
func TestNameWhoseFirstAddressIsFrozen(t *testing.T) {
	t.Parallel()
	alias := testcluster.NewAlias(t, newFake(t).addr())
	alias.Proxies[0].Silent()
	b := fakeClient(t, func(c *Config) { c.Endpoints, c.Resolver = []string{alias.Endpoint}, alias.Names.Net() })
	for i := range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), suiteTiming.RetryTimeout)
		_, err := b.Snapshot(ctx, "k")
		cancel()
		require.NoError(t, err, "call %d", i)
	}
}

// If the name of a frozen server moves to another server, the connections to the
// frozen one are given up.
func TestNameOfAFrozenServerMoves(t *testing.T) {
	t.Parallel()
	alias := testcluster.NewAlias(t, newFake(t).addr())
	alias.Has(0)
	b := fakeClient(t, func(c *Config) { c.Endpoints, c.Resolver = []string{alias.Endpoint}, alias.Names.Net() })
	alias.TestMoves(t, 8*time.Second, func(ctx context.Context) error { _, err := b.Get(ctx, "k"); return err })
	require.Equal(t, []string{alias.Endpoint}, b.Endpoints())
}

// otherNamed returns an agent whose certificate is valid for [testcerts.OtherName] only, and
// its authority.
func otherNamed(t *testing.T) (*testcerts.Authority, *fakeAgent) {
	ca, err := testcerts.NewAuthority(t.TempDir(), nil)
	require.NoError(t, err)
	certificate, err := tls.LoadX509KeyPair(ca.Other().Cert, ca.Other().Key)
	require.NoError(t, err)
	agent := unstartedFake()
	agent.Server = httptest.NewUnstartedServer(agent)
	agent.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	agent.Config.ErrorLog = log.New(io.Discard, "", 0) // of the refused handshakes
	agent.StartTLS()
	t.Cleanup(agent.Close)
	return ca, agent
}

// TLS verifies the name, at each of its addresses. The certificate is valid for the name
// only.
func TestNameIsVerified(t *testing.T) {
	t.Parallel()
	ca, agent := otherNamed(t)
	conf, err := ca.Client().Config(ca)
	require.NoError(t, err)
	alias := testcluster.NewAlias(t, agent.Listener.Addr().String())
	_, port, err := net.SplitHostPort(alias.Endpoint)
	require.NoError(t, err)
	var at []string
	for _, proxy := range alias.Proxies {
		at = append(at, proxy.Addr())
	}
	client := func(host string) *Backend {
		alias.Names.Set(host, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"))
		return fakeClient(t, func(c *Config) {
			c.Endpoints, c.Resolver, c.TLS = []string{net.JoinHostPort(host, port)}, alias.Names.Net(), conf
		})
	}
	read := func(b *Backend, endpoint string) error {
		c, err := b.connected(endpoint)
		require.NoError(t, err)
		_, err = b.read(budget(t), c, "k")
		return err
	}
	b := client(testcerts.OtherName)
	_, err = b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	other := client("other.test")
	for _, address := range at {
		require.Contains(t, b.Endpoints(), testcerts.OtherName+"/"+address)
		require.NoError(t, read(b, testcerts.OtherName+"/"+address))
		err := read(other, "other.test/"+address)
		require.ErrorContains(t, err, "not other.test")
		require.Equal(t, dcs.ErrUnauthorized, dcs.KindOf(err))
		require.ErrorContains(t, read(other, address), "doesn't contain any IP SANs")
	}
}

// The server name of TLSFiles is verified in place of the host. An agent whose certificate
// is not verified is used, with a warning.
func TestServerNameAndUnverifiedServers(t *testing.T) {
	t.Parallel()
	ca, agent := otherNamed(t)
	testcluster.TestTLSFiles(t, ca.File(), func(files dcs.TLSFiles, logger *slog.Logger) dcs.Backend {
		return fakeClient(t, func(c *Config) {
			c.Endpoints, c.TLSFiles, c.Logger = []string{agent.Listener.Addr().String()}, &files, logger
		})
	})
}

// An agent that is configured with two addresses is one endpoint.
func TestAgentWithTwoAddressesIsOneEndpoint(t *testing.T) {
	t.Parallel()
	first, second := newFake(t), newFake(t)
	for id, agent := range map[string]*fakeAgent{"1": first, "2": second} {
		agent.serve = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Consul-Index", "7")
			if r.URL.Path != "/v1/agent/self" {
				_, _ = w.Write([]byte("[]"))
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"Config": map[string]string{"NodeID": id}})
		}
	}
	alias := testcluster.NewAlias(t, first.addr())
	observer, merged := alias.Merged()
	b := fakeClient(t, func(c *Config) {
		c.Endpoints, c.Resolver, c.Observer = []string{first.addr(), alias.Endpoint, second.addr()}, alias.Names.Net(), observer
	})
	require.Eventually(t, func() bool { return merged() && len(b.Endpoints()) == 2 }, time.Minute, time.Millisecond)
	require.ElementsMatch(t, []string{first.addr(), second.addr()}, b.Endpoints())
}
