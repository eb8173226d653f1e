package consul

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

func fromURL(t *testing.T, url string) (Config, error) {
	t.Helper()
	u, err := dcs.ParseURL(url)
	require.NoError(t, err)
	return configFromURL(u, dcs.Options{})
}

func TestFromClientConfig(t *testing.T) {
	got, err := FromClientConfig(&api.Config{
		Address: "https://h:1/consul", Datacenter: "d", Token: "t", Namespace: "n", Partition: "p",
		TLSConfig: api.TLSConfig{Address: "db:8501", CAFile: "/ca", CertFile: "/cert", KeyFile: "/key", InsecureSkipVerify: true},
	})
	require.NoError(t, err)
	require.Equal(t, Config{
		Endpoints: []string{"h:1"}, PathPrefix: "/consul", Datacenter: "d", Token: "t", Namespace: "n", Partition: "p",
		TLSFiles: &dcs.TLSFiles{CA: "/ca", Cert: "/cert", Key: "/key", ServerName: "db", InsecureSkipVerify: true},
	}, got)
	got, err = FromClientConfig(&api.Config{Address: "unix:///run/consul.sock", Token: "t", TokenFile: "/f"})
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"unix:///run/consul.sock"}, TokenFile: "/f"}, got)
	got, err = FromClientConfig(&api.Config{})
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"127.0.0.1:8500"}}, got)

	_, err = FromClientConfig(&api.Config{
		Scheme: "https", HttpClient: &http.Client{}, HttpAuth: &api.HttpBasicAuth{Password: "hidden"}, TLSConfig: api.TLSConfig{CAPath: "/d", KeyPEM: []byte("hidden")},
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, says := range []string{"HttpClient", "HttpAuth", "CAPath", "KeyPEM"} {
		require.ErrorContains(t, err, says)
	}
	require.NotContains(t, err.Error(), "hidden")
}

// The environment is read only if the URL asks for it. Options of the URL take
// precedence.
func TestEnvironmentWhenAskedFor(t *testing.T) {
	for name, value := range map[string]string{
		api.HTTPAddrEnvName: "h:1", api.HTTPTokenEnvName: "t", api.HTTPSSLEnvName: "true", api.HTTPCAFile: "/ca", api.HTTPSSLVerifyEnvName: "true",
		api.HTTPNamespaceEnvName: "n", api.HTTPPartitionEnvName: "p",
	} {
		t.Setenv(name, value)
	}
	c, err := fromURL(t, "consul://h/r")
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"h"}, Root: "r"}, c)
	b := fakeClient(t, nil, newFake(t))
	require.Empty(t, b.token.current())

	c, err = fromURL(t, "consul:///r?env=true")
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"h:1"}, Root: "r", Token: "t", Namespace: "n", Partition: "p", TLSFiles: &dcs.TLSFiles{CA: "/ca"}}, c)
	c, err = fromURL(t, "consul://g/r?env=true&token_file=/f&namespace=m&tls_ca=/other")
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"g"}, Root: "r", TokenFile: "/f", Namespace: "m", Partition: "p", TLSFiles: &dcs.TLSFiles{CA: "/other"}}, c)
	t.Setenv(api.HTTPAuthEnvName, "u:hidden")
	_, err = fromURL(t, "consul:///r?env=true")
	require.ErrorContains(t, err, "HttpAuth")
	require.NotContains(t, err.Error(), "hidden")
}

// An agent can be reached through its socket, and behind a proxy with a path prefix.
func TestSocketAndPathPrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	require.NoError(t, err)
	paths := make(chan string, 100)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // G112: a test's
		select {
		case paths <- r.URL.Path:
		default:
		}
		w.Header().Set("X-Consul-Index", "7")
		_, _ = w.Write([]byte("[]"))
	})}}
	s.Start()
	t.Cleanup(s.Close)
	c, err := fromURL(t, "consul:///t?unix="+path+"&path_prefix=/proxy/")
	require.NoError(t, err)
	b := fakeClient(t, func(f *Config) { f.Endpoints, f.PathPrefix = c.Endpoints, c.PathPrefix })
	_, err = b.Snapshot(budget(t), "")
	require.NoError(t, err)
	require.Equal(t, []string{"unix://" + path}, b.Endpoints())
	require.Equal(t, "/proxy/v1/kv/t/"+identityKey, <-paths)
	raw, err := b.Client("")
	require.NoError(t, err)
	_, _, err = raw.KV().Keys("", "", nil)
	require.NoError(t, err)

	for _, c := range []Config{{Endpoints: []string{"unix://x"}}, {Endpoints: []string{"unix:///x"}, TLSFiles: &dcs.TLSFiles{}}, {Endpoints: []string{"h"}, PathPrefix: "x"}} {
		c.Root = "r"
		_, err := New(c)
		require.ErrorIs(t, err, dcs.ErrInvalid)
	}
}

func TestSRV(t *testing.T) {
	c, err := fromURL(t, "consul:///r?srv=example.test&srv_suffix=main")
	require.NoError(t, err)
	c.Resolver = testcluster.SRVResolver("_consul-http-main._tcp.example.test", func() []net.SRV {
		return []net.SRV{{Target: "h1.example.test.", Port: 8500}, {Target: "h2.example.test.", Port: 8500, Priority: 1}}
	})
	b, err := New(c)
	require.NoError(t, err)
	defer b.Close()
	require.ElementsMatch(t, []string{"h1.example.test:8500", "h2.example.test:8500"}, b.Endpoints())
	require.False(t, b.ofAgent(), "the sessions must have a separate node")
}
