package backend_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

func TestSRVLookUp(t *testing.T) {
	r := testcluster.SRVResolver("_etcd-client-main._tcp.example.test", func() []net.SRV {
		return []net.SRV{{Target: "h2.example.test.", Port: 2, Priority: 2}, {Target: "h1.example.test.", Port: 1, Priority: 1}}
	})
	hosts, err := backend.SRV{Service: "etcd-client", Suffix: "main", Domain: "example.test", Resolver: r}.LookUp(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"h1.example.test:1", "h2.example.test:2"}, hosts)
	_, err = backend.SRV{Service: "etcd-client", Domain: "example.test", Resolver: r}.LookUp(t.Context())
	require.ErrorContains(t, err, "_etcd-client._tcp.example.test")
}

func TestSchemes(t *testing.T) {
	for _, c := range []struct {
		list   []string
		tls    bool
		want   []string
		secure bool
		bad    bool
	}{
		{[]string{"h1", " http://h2:1/"}, false, []string{"h1", "h2:1"}, false, false},
		{[]string{"h1", "https://h2"}, false, []string{"h1", "h2"}, true, false},
		{[]string{"h1"}, true, []string{"h1"}, true, false},
		{list: []string{"http://h1", "https://h2"}, bad: true},
		{list: []string{"http://h1"}, tls: true, bad: true},
		{list: []string{"unix:///x"}, bad: true},
	} {
		var f backend.Faults
		hosts, secure := f.Schemes("X", c.list, c.tls)
		require.Equal(t, c.bad, len(f) > 0, "%v: %v", c.list, f)
		if !c.bad {
			require.Equal(t, []any{c.want, c.secure}, []any{hosts, secure})
		}
	}
}
