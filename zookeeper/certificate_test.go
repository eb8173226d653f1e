package zookeeper

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// presenting returns the TLS configuration of a server with the certificate p.
func presenting(t *testing.T, p testcerts.Pair) *tls.Config {
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// authority returns an authority, and the TLS configuration of its clients.
func authority(t *testing.T) (*testcerts.Authority, *tls.Config) {
	ca, err := testcerts.NewAuthority(t.TempDir(), nil)
	require.NoError(t, err)
	conf, err := ca.Client().Config(ca)
	require.NoError(t, err)
	return ca, conf
}

// The server of a Wait restarts with a certificate that has expired, and so does
// the one to which the Wait moves. The Wait returns the next change from the third
// server.
func TestBadCertificateEndsNoWait(t *testing.T) {
	t.Parallel()
	ca, conf := authority(t)
	f := newFakeServer(t)
	f.put("/r", parentValue)
	f.put("/r/"+identityKey, []byte("x"))
	good, bad := f.listen(presenting(t, ca.Server())), f.listen(presenting(t, ca.Expired()))
	proxies := map[string]*fault.Proxy{}
	var endpoints []string
	for range 3 {
		p, err := fault.NewProxy(t.Context(), "127.0.0.1:0", good, fault.ProxyOptions{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		proxies[p.Addr()], endpoints = p, append(endpoints, p.Addr())
	}
	c := Config{
		Endpoints: endpoints, Root: "r", Timing: suiteTiming, TLS: conf,
		Tick: 2 * time.Second, MinTTL: 4 * time.Second, MaxTTL: time.Minute,
	}
	ejected := make(chan dcs.EndpointEvent, 10)
	c.Observer.Endpoint = func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Ejected {
			ejected <- ev
		}
	}
	var watched atomic.Pointer[string] // the server of the watch
	b, err := newBackend(c, hooks{intercept: func(ctx context.Context, r request, s *session, send func(*zk.Conn) error) error {
		if r.op == "Probe" && s != nil && s.o.event != nil {
			at := s.connected()
			watched.Store(&at)
		}
		return sendOnce(ctx, r, s, send)
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	seen, err := b.Wait(budget(t), "", 0)
	require.NoError(t, err)
	type result struct {
		dcs.Snapshot
		error
	}
	waited := make(chan result, 1)
	go func() {
		s, err := b.Wait(t.Context(), "", seen.Revision)
		waited <- result{s, err}
	}()
	expired := []string{*watched.Load()}
	for _, next := range b.Endpoints() {
		if len(expired) < 2 && next != expired[0] {
			expired = append(expired, next)
		}
	}
	for _, at := range expired {
		proxies[at].Retarget(bad)
	}
	for refused := false; !refused; {
		select {
		case ev := <-ejected: // others for their broken connections, or because the machine is busy
			refused = strings.Contains(ev.Reason, "certificate has expired")
		case r := <-waited:
			require.Fail(t, "the Wait ended without a change", "%v", r.error)
		case <-time.After(20 * time.Second):
			refused = true // a busy machine: each was ejected for its broken connections
		}
	}
	f.put("/r/k", []byte("v"))
	r := <-waited
	require.NoError(t, r.error)
	require.Len(t, r.Entries, 1)
}

// TLS verifies the name, which has two addresses and is all that the certificate
// is valid for.
func TestNameIsVerified(t *testing.T) {
	t.Parallel()
	ca, conf := authority(t)
	f := newFakeServer(t)
	alias := testcluster.NewAlias(t, f.listen(presenting(t, ca.Other())))
	_, port, err := net.SplitHostPort(alias.Endpoint)
	require.NoError(t, err)
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	alias.Names.Set(testcerts.OtherName, addrs...)
	client := func(host string, ejected func(dcs.EndpointEvent)) *Backend {
		return identityClient(t, func(c *Config) {
			c.Resolver, c.TLS, c.Observer.Endpoint = alias.Names.Net(), conf, ejected
		}, net.JoinHostPort(host, port))
	}
	b := client(testcerts.OtherName, nil)
	_, err = b.Get(budget(t), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.True(t, strings.HasPrefix(b.Endpoints()[0], testcerts.OtherName+"/127.0.0."), b.Endpoints()[0])

	alias.Names.Set("one.test", addrs[:1]...)
	alias.Names.Set("two.test", addrs...)
	for _, host := range []string{"one.test", "two.test", "127.0.0.1"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		reasons := make(chan string, 100)
		b := client(host, func(ev dcs.EndpointEvent) { reasons <- ev.Reason })
		go func() {
			_, err := b.Get(ctx, "k")
			reasons <- err.Error() // at the end of ctx at the latest
		}()
		for why := ""; !strings.Contains(why, "x509: "); {
			select {
			case why = <-reasons:
				require.NotContains(t, why, "not found", host)
			case <-time.After(2 * time.Minute):
				require.Fail(t, "the certificate is not refused", host)
			}
		}
		cancel()
	}
}

// The server name of TLSFiles is verified in place of the host. A server whose certificate
// is not verified is used, with a warning.
func TestServerNameAndUnverifiedServers(t *testing.T) {
	t.Parallel()
	ca, _ := authority(t)
	addr := newFakeServer(t).listen(presenting(t, ca.Other()))
	testcluster.TestTLSFiles(t, ca.File(), func(files dcs.TLSFiles, logger *slog.Logger) dcs.Backend {
		return identityClient(t, func(c *Config) { c.TLSFiles, c.Logger = &files, logger }, addr)
	})
}
