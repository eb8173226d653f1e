package etcd3

import (
	"net"
	"testing"

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

// The environment is read only if the URL asks for it. Options of the URL take
// precedence.
func TestEnvironmentWhenAskedFor(t *testing.T) {
	for name, value := range map[string]string{
		"ETCDCTL_ENDPOINTS": "https://h1:1, https://h2", "ETCDCTL_CACERT": "/ca", "ETCDCTL_CERT": "/cert", "ETCDCTL_KEY": "/key",
		"ETCDCTL_USER": "u:p:w",
	} {
		t.Setenv(name, value)
	}
	c, err := fromURL(t, "etcd3://h/r")
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"h"}, Root: "r"}, c)

	c, err = fromURL(t, "etcd3:///r?env=true")
	require.NoError(t, err)
	want := Config{
		Endpoints: []string{"h1:1", "h2"}, Root: "r", TLSFiles: &dcs.TLSFiles{CA: "/ca", Cert: "/cert", Key: "/key"}, Username: "u", Password: "p:w",
	}
	require.Equal(t, want, c)
	c, err = fromURL(t, "etcd3://h/r?env=true&tls_ca=/other&username=v&password_file=/pw")
	require.NoError(t, err)
	require.Equal(t, Config{Endpoints: []string{"h"}, Root: "r", TLSFiles: &dcs.TLSFiles{CA: "/other"}, Username: "v", PasswordFile: "/pw"}, c)

	t.Setenv("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "perhaps")
	t.Setenv("ETCDCTL_USER", "u")
	_, err = FromEnvironment()
	require.ErrorIs(t, err, dcs.ErrInvalid)
	require.ErrorContains(t, err, "ETCDCTL_INSECURE_SKIP_TLS_VERIFY")
	require.ErrorContains(t, err, "ETCDCTL_PASSWORD")
}

// Each variable of the environment has an effect, and a setting of the URL takes its
// place.
func TestEnvironment(t *testing.T) {
	for name, row := range map[string]struct {
		env  map[string]string
		url  string
		want Config
		says string // the error, in place of want
	}{
		"servers without TLS": {
			env: map[string]string{"ETCDCTL_ENDPOINTS": "http://h1:1/, h2"}, url: "etcd3:///r?env=true",
			want: Config{Endpoints: []string{"h1:1", "h2"}, Root: "r"},
		},
		"the authority switches TLS on": {
			env: map[string]string{"ETCDCTL_CACERT": "/ca"}, url: "etcd3://h/r?env=true",
			want: Config{Endpoints: []string{"h"}, Root: "r", TLSFiles: &dcs.TLSFiles{CA: "/ca"}},
		},
		"unverified": {
			env: map[string]string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "1"}, url: "etcd3://h/r?env=true",
			want: Config{Endpoints: []string{"h"}, Root: "r", TLSFiles: &dcs.TLSFiles{InsecureSkipVerify: true}},
		},
		"user and password apart": {
			env: map[string]string{"ETCDCTL_USER": "u", "ETCDCTL_PASSWORD": "p"}, url: "etcd3://h/r?env=true",
			want: Config{Endpoints: []string{"h"}, Root: "r", Username: "u", Password: "p"},
		},
		"discovery precedes the list": {
			env: map[string]string{"ETCDCTL_DISCOVERY_SRV": "example.test", "ETCDCTL_DISCOVERY_SRV_NAME": "main", "ETCDCTL_ENDPOINTS": "h1"}, url: "etcd3:///r?env=true",
			want: Config{SRV: "example.test", SRVSuffix: "main", Root: "r"},
		},
		"hosts in place of discovery": {
			env: map[string]string{"ETCDCTL_DISCOVERY_SRV": "example.test", "ETCDCTL_DISCOVERY_SRV_NAME": "main"}, url: "etcd3://h/r?env=true",
			want: Config{Endpoints: []string{"h"}, Root: "r"},
		},
		"discovery in place of the list": {
			env: map[string]string{"ETCDCTL_ENDPOINTS": "h1"}, url: "etcd3:///r?env=true&srv=example.test",
			want: Config{SRV: "example.test", Root: "r"},
		},
		"env=false":                 {env: map[string]string{"ETCDCTL_ENDPOINTS": "h1"}, url: "etcd3:///r?env=false", says: "no host"},
		"env=perhaps":               {url: "etcd3://h/r?env=perhaps", says: "env"},
		"two schemes":               {env: map[string]string{"ETCDCTL_ENDPOINTS": "http://h1,https://h2"}, url: "etcd3:///r?env=true", says: "ETCDCTL_ENDPOINTS"},
		"http in spite of TLS":      {env: map[string]string{"ETCDCTL_ENDPOINTS": "http://h1", "ETCDCTL_CACERT": "/ca"}, url: "etcd3:///r?env=true", says: "http://"},
		"a socket":                  {env: map[string]string{"ETCDCTL_ENDPOINTS": "unix:///run/etcd"}, url: "etcd3:///r?env=true", says: "http or https"},
		"a password without a user": {env: map[string]string{"ETCDCTL_PASSWORD": "p"}, url: "etcd3://h/r?env=true", says: "ETCDCTL_USER"},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range row.env {
				t.Setenv(variable, value)
			}
			got, err := fromURL(t, row.url)
			if row.says != "" {
				require.ErrorIs(t, err, dcs.ErrInvalid)
				require.ErrorContains(t, err, row.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

// Each TLS option of a URL sets one field.
func TestTLSOptions(t *testing.T) {
	for option, want := range map[string]*dcs.TLSFiles{
		"tls=false":                     nil,
		"tls=true":                      {},
		"tls_ca=/x":                     {CA: "/x"},
		"tls_cert=/x":                   {Cert: "/x"},
		"tls_key=/x":                    {Key: "/x"},
		"tls_key_password_file=/x":      {KeyPasswordFile: "/x"},
		"tls_server_name=db":            {ServerName: "db"},
		"tls_insecure_skip_verify=true": {InsecureSkipVerify: true},
	} {
		c, err := fromURL(t, "etcd3://h/r?"+option)
		require.NoError(t, err, option)
		require.Equal(t, Config{Endpoints: []string{"h"}, Root: "r", TLSFiles: want}, c, option)
	}
}

func TestSRV(t *testing.T) {
	c, err := fromURL(t, "etcd3:///r?srv=example.test&srv_suffix=main&discovery=false&tls=true")
	require.NoError(t, err)
	require.Equal(t, Config{SRV: "example.test", SRVSuffix: "main", Root: "r", NoDiscovery: true, TLSFiles: &dcs.TLSFiles{}}, c)
	c.Resolver = testcluster.SRVResolver("_etcd-client-ssl-main._tcp.example.test", func() []net.SRV {
		return []net.SRV{{Target: "h1.example.test.", Port: 2379}}
	})
	b, err := New(c)
	require.NoError(t, err)
	require.Equal(t, []string{"h1.example.test:2379"}, b.Endpoints())
	require.NoError(t, b.Close())
	c.SRVSuffix = ""
	_, err = New(c)
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "_etcd-client-ssl._tcp.example.test")

	for url, says := range map[string]string{"etcd3:///r": "no host", "etcd3://h/r?srv_suffix=x": "srv"} {
		_, err := fromURL(t, url)
		require.ErrorContains(t, err, says)
	}
	_, err = New(Config{Endpoints: []string{"h"}, SRV: "example.test", Root: "r"})
	require.ErrorContains(t, err, "exclude each other")
}

// A fixed token is sent with every call.
func TestFixedToken(t *testing.T) {
	f := &fakeAuth{fakeStore: newFakeStore(), valid: "signed"}
	_, store := f.openAs(t, Config{Token: "signed"})
	_, err := store.Get(t.Context(), "k")
	require.Equal(t, dcs.ErrNotFound, dcs.KindOf(err), err)
	require.Zero(t, f.logins.Load())
	_, err = New(Config{Endpoints: []string{"h"}, Root: "r", Token: "t", Username: "u", Password: "p"})
	require.ErrorContains(t, err, "Token and Username")
}
