package etcd3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// If the first of the two addresses of a name is frozen, the second one answers every
// call.
func TestNameWhoseFirstAddressIsFrozen(t *testing.T) {
	t.Parallel()
	f := newFakeStore()
	alias := testcluster.NewAlias(t, serve(t, f.register))
	alias.Proxies[0].Silent()
	_, store := f.clientAt(t, alias.Endpoint, Config{Resolver: alias.Names.Net()})
	for i := range 8 {
		_, err := store.Get(t.Context(), "k")
		require.ErrorIs(t, err, dcs.ErrNotFound, "call %d", i)
	}
}

// If the name of a frozen server moves to another server, the connection to the frozen
// one is given up.
func TestNameOfAFrozenServerMoves(t *testing.T) {
	t.Parallel()
	f := newFakeStore()
	alias := testcluster.NewAlias(t, serve(t, f.register))
	alias.Has(0)
	b, store := f.clientAt(t, alias.Endpoint, Config{Resolver: alias.Names.Net()})
	alias.TestMoves(t, 5*time.Second, func(ctx context.Context) error { _, err := store.Get(ctx, "k"); return err })
	require.Equal(t, []string{alias.Endpoint}, b.Endpoints())
}

// TLS verifies the name, even if the certificate is valid for the address that is
// dialled.
func TestNameIsVerified(t *testing.T) {
	t.Parallel()
	certificate := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(certificate.Close)
	f := newFakeStore()
	alias := testcluster.NewAlias(t, serve(t, f.register, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: certificate.TLS.Certificates}))))
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Certificate())
	config := Config{Resolver: alias.Names.Net(), TLS: &tls.Config{RootCAs: roots}}
	b, store := f.clientAt(t, alias.Endpoint, config)
	_, err := store.Get(t.Context(), "k")
	require.ErrorIs(t, err, dcs.ErrNotFound)
	require.Contains(t, b.Endpoints()[0], testcluster.AliasHost+"/127.0.0.")

	_, port, err := net.SplitHostPort(alias.Endpoint)
	require.NoError(t, err)
	for _, addrs := range [][]string{{"127.0.0.1"}, {"127.0.0.1", "::1"}} {
		var list []netip.Addr
		for _, a := range addrs {
			list = append(list, netip.MustParseAddr(a))
		}
		alias.Names.Set("other.test", list...)
		_, store = f.clientAt(t, net.JoinHostPort("other.test", port), config)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err = store.Get(ctx, "k")
		cancel()
		require.ErrorIs(t, err, dcs.ErrUnavailable)
		require.ErrorContains(t, err, "not other.test")
	}
}

// A member that is configured by address and lists its name is one endpoint with one
// connection.
func TestMemberIsOneEndpoint(t *testing.T) {
	t.Parallel()
	names := fault.NewResolver(nil)
	var members []*pb.Member
	var config Config
	var accepted [2]atomic.Int64
	var listed atomic.Int64
	for i := range 2 {
		f := newFakeStore()
		f.member = uint64(i + 1)
		addr := serve(t, func(g *grpc.Server) {
			f.register(g)
			pb.RegisterClusterServer(g, memberList{id: f.member, members: &members, asked: &listed})
		}, grpc.StatsHandler(connCounter{&accepted[i]}))
		host := fmt.Sprintf("member%d.test", i+1)
		names.Set(host, netip.MustParseAddr("127.0.0.1"))
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		config.Endpoints = append(config.Endpoints, addr)
		members = append(members, &pb.Member{ID: f.member, ClientURLs: []string{"http://" + net.JoinHostPort(host, port)}})
	}
	config.Root, config.Timing, config.Resolver = "t", suiteTiming, names.Net()
	b, err := New(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	// The connections that were made before the members were identified are closed too. The
	// names are resolved, each for both families, when the list is in use.
	require.Eventually(t, func() bool {
		each := accepted[0].Load() == 1 && accepted[1].Load() == 1
		return listed.Load() > 0 && names.Asked() >= 4 && each && slices.Equal(sorted(config.Endpoints), sorted(b.Endpoints()))
	}, time.Minute, 10*time.Millisecond)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

type memberList struct {
	pb.UnimplementedClusterServer
	id      uint64 // of the member that answers, which each answer of etcd has
	members *[]*pb.Member
	asked   *atomic.Int64
}

func (m memberList) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	m.asked.Add(1)
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{ClusterId: 1, MemberId: m.id}, Members: *m.members}, nil
}

// connCounter counts a server's connections.
type connCounter struct{ open *atomic.Int64 }

func (connCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (connCounter) HandleRPC(context.Context, stats.RPCStats)                         {}
func (connCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (c connCounter) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.open.Add(1)
	case *stats.ConnEnd:
		c.open.Add(-1)
	}
}
