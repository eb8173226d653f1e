package testcluster

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
)

// Alias is a name with two addresses of one server. Each address is that of a separate
// proxy.
type Alias struct {
	// Endpoint is the name with the port of both proxies.
	Endpoint string
	// Names resolves the name.
	Names *fault.Resolver
	// Proxies are the proxies at 127.0.0.1 and 127.0.0.2.
	Proxies [2]*fault.Proxy
}

// AliasHost is the name of every Alias. The certificate of package httptest is valid
// for it.
const AliasHost = "example.com"

var aliasAddrs = [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}

// NewAlias returns an Alias of the server at target. It skips the test where
// 127.0.0.2 is not an address of this machine.
func NewAlias(tb testing.TB, target string) *Alias {
	tb.Helper()
	a := &Alias{Names: fault.NewResolver(nil)}
	listen := "127.0.0.1:0"
	for i, addr := range aliasAddrs {
		if i > 0 {
			_, port, err := net.SplitHostPort(a.Proxies[0].Addr())
			require.NoError(tb, err)
			listen = net.JoinHostPort(addr.String(), port)
			a.Endpoint = net.JoinHostPort(AliasHost, port)
		}
		p, err := fault.NewProxy(tb.Context(), listen, target, fault.ProxyOptions{})
		if err != nil && i > 0 {
			tb.Skipf("no second loopback address: %v", err)
		}
		require.NoError(tb, err)
		tb.Cleanup(func() { require.NoError(tb, p.Close()) })
		a.Proxies[i] = p
	}
	a.Has(0, 1)
	return a
}

// Address returns the endpoint of one of the name's addresses.
func (a *Alias) Address(proxy int) string { return AliasHost + "/" + a.Proxies[proxy].Addr() }

// Has sets the addresses of the name to those of the given proxies.
func (a *Alias) Has(proxies ...int) {
	var addrs []netip.Addr
	for _, i := range proxies {
		addrs = append(addrs, aliasAddrs[i])
	}
	a.Names.Set(AliasHost, addrs...)
}

// TestMoves requires that a client leaves a frozen server whose name, which must have one
// address, is moved to another server. ask must read a key that does not exist. leaves
// bounds the time until ask is answered again.
func (a *Alias) TestMoves(t *testing.T, leaves time.Duration, ask func(ctx context.Context) error) {
	t.Helper()
	within := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return ask(ctx)
	}
	require.ErrorIs(t, within(10*time.Second), dcs.ErrNotFound) // it connects
	get := func() error { return within(500 * time.Millisecond) }
	a.Proxies[0].Silent()
	for range 3 {
		require.ErrorIs(t, get(), dcs.ErrUnavailable)
	}
	a.Has(1)
	require.Eventually(t, func() bool { return dcs.KindOf(get()) == dcs.ErrNotFound }, leaves, time.Millisecond, "the client does not leave the frozen server") //nolint:errorlint // KindOf returns a sentinel
}

// Merged returns an Observer, and a function that reports whether an address of the name was
// found to be that of a server that is another endpoint too.
func (a *Alias) Merged() (o dcs.Observer, merged func() bool) {
	var removed atomic.Bool
	o.Endpoint = func(ev dcs.EndpointEvent) {
		if ev.Change == dcs.Removed && (ev.From == a.Address(0) || ev.From == a.Address(1)) {
			removed.Store(true)
		}
	}
	return o, removed.Load
}
