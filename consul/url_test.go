package consul

import (
	"crypto/tls"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Each option of the URL sets its field of Config, and no other one.
func TestEachOption(t *testing.T) {
	one := []string{"h"}
	rows := map[string]struct {
		url  string
		want Config
	}{
		"token_file":               {"consul://h/r?token_file=/t", Config{Endpoints: one, TokenFile: "/t"}},
		"node":                     {"consul://h/r?node=n", Config{Endpoints: one, Node: "n"}},
		"checks":                   {"consul://h/r?checks=serfHealth,disk", Config{Endpoints: one, Checks: []string{"serfHealth", "disk"}}},
		"lock_delay":               {"consul://h/r?lock_delay=15s", Config{Endpoints: one, LockDelay: 15 * time.Second}},
		"dc":                       {"consul://h/r?dc=d", Config{Endpoints: one, Datacenter: "d"}},
		"namespace":                {"consul://h/r?namespace=n", Config{Endpoints: one, Namespace: "n"}},
		"partition":                {"consul://h/r?partition=p", Config{Endpoints: one, Partition: "p"}},
		"slots":                    {"consul://h/r?slots=16", Config{Endpoints: one, Slots: 16}},
		"unix":                     {"consul:///r?unix=/run/c.sock", Config{Endpoints: []string{"unix:///run/c.sock"}}},
		"path_prefix":              {"consul://h/r?path_prefix=/consul", Config{Endpoints: one, PathPrefix: "/consul"}},
		"env":                      {"consul://h/r?env=false", Config{Endpoints: one}},
		"wait":                     {"consul://h/r?wait=true", Config{Endpoints: one}},
		"srv":                      {"consul:///r?srv=example.test", Config{SRV: "example.test"}},
		"srv_suffix":               {"consul:///r?srv=example.test&srv_suffix=main", Config{SRV: "example.test", SRVSuffix: "main"}},
		"tls":                      {"consul://h/r?tls=true", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{}}},
		"tls_ca":                   {"consul://h/r?tls_ca=/ca", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{CA: "/ca"}}},
		"tls_cert":                 {"consul://h/r?tls_cert=/c", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{Cert: "/c"}}},
		"tls_key":                  {"consul://h/r?tls_key=/k", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{Key: "/k"}}},
		"tls_key_password_file":    {"consul://h/r?tls_key_password_file=/p", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{KeyPasswordFile: "/p"}}},
		"tls_server_name":          {"consul://h/r?tls_server_name=s", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{ServerName: "s"}}},
		"tls_insecure_skip_verify": {"consul://h/r?tls_insecure_skip_verify=true", Config{Endpoints: one, TLSFiles: &dcs.TLSFiles{InsecureSkipVerify: true}}},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			row.want.Root = "r"
			got, err := fromURL(t, row.url)
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
	for _, p := range params {
		require.Contains(t, rows, p.Name, "an option without a row")
	}
	require.Len(t, rows, len(params))
}

// An invalid value is refused with an error that names the option.
func TestInvalidOptions(t *testing.T) {
	for url, want := range map[string]string{
		"consul://h/r?env=perhaps":                      "env=perhaps",
		"consul://h/r?slots=many":                       "slots=many",
		"consul://h/r?slots=-1":                         "Slots -1",
		"consul://h/r?lock_delay=2m":                    "LockDelay 2m0s",
		"consul://h/r?tls=1":                            "tls=1",
		"consul://h/r?tls_insecure_skip_verify=perhaps": "tls_insecure_skip_verify",
		"consul://h/r?tls_ca=/no/such/ca":               "/no/such/ca",
		"consul://h/r?tls_key=/no/such/key":             "Cert",
		"consul://h/r?path_prefix=consul":               "PathPrefix",
		"consul:///r?unix=run/c.sock":                   "must be absolute",
		"consul:///r?unix=/run/c.sock&tls=true":         "TLS",
		"consul:///r?unix=/run/c.sock&srv=example.test": "SRV",
		"consul://h/r?srv=example.test":                 "SRV",
		"consul://h/r?srv_suffix=main":                  "SRV",
	} {
		c, err := fromURL(t, url)
		if err == nil {
			_, err = c.check()
		}
		require.ErrorIs(t, err, dcs.ErrInvalid, url)
		require.ErrorContains(t, err, want, url)
	}
}

// Lists of servers follow the same rules in a URL and in Config.
func TestListsOfServers(t *testing.T) {
	for list, want := range map[string][]string{
		" h1, h2:1 ":           {"h1:8500", "h2:1"},
		"h1,h1:8500,H1,h1:1":   {"h1:8500", "h1:1"},
		"[::1],[::1]:8500,h:1": {"[::1]:8500", "h:1"},
		"":                     nil,
		" ":                    nil,
		":8500":                nil,
		"h1,:8500":             nil,
		"h:":                   nil,
		"h:0":                  nil,
		"h:99999":              nil,
		"h:port":               nil,
		"h1,,h2":               nil,
		"h1,":                  nil,
		"h 1":                  nil,
	} {
		configured, err := Config{Endpoints: strings.Split(list, ","), Root: "r"}.check()
		if want == nil {
			require.ErrorIs(t, err, dcs.ErrInvalid, "%q", list)
		} else {
			require.NoError(t, err, "%q", list)
			require.Equal(t, want, configured.Endpoints, "%q", list)
		}
		u, err := dcs.ParseURL("consul://" + strings.ReplaceAll(list, " ", "%20") + "/r")
		var c Config
		if err == nil {
			c, err = configFromURL(u, dcs.Options{})
		}
		if err == nil {
			c, err = c.check()
		}
		if want == nil {
			require.ErrorIs(t, err, dcs.ErrInvalid, "%q", list)
		} else {
			require.NoError(t, err, "%q", list)
			require.Equal(t, want, c.Endpoints, "%q", list)
		}
	}
	sockets, err := Config{Endpoints: []string{"unix:///s", " unix:///s ", "unix:///t"}, Root: "r"}.check()
	require.NoError(t, err)
	require.Equal(t, []string{"unix:///s", "unix:///t"}, sockets.Endpoints)
	one, err := Config{Endpoints: []string{"unix:///s", "unix:///s"}, Root: "r"}.check()
	require.NoError(t, err)
	require.Empty(t, one.Node, "one agent has the sessions on its own node")
}

// clearEnvironment removes every variable that Consul's programs read.
func clearEnvironment(t *testing.T) {
	for _, name := range []string{
		api.HTTPAddrEnvName, api.HTTPTokenEnvName, api.HTTPTokenFileEnvName, api.HTTPAuthEnvName, api.HTTPSSLEnvName, api.HTTPSSLVerifyEnvName, api.HTTPCAFile,
		api.HTTPCAPath, api.HTTPClientCert, api.HTTPClientKey, api.HTTPTLSServerName, api.HTTPNamespaceEnvName, api.HTTPPartitionEnvName,
	} {
		t.Setenv(name, "") // restores it at the end
		require.NoError(t, os.Unsetenv(name))
	}
}

// Each variable of the environment sets its field of Config, and no other one.
func TestEachVariable(t *testing.T) {
	local := []string{"127.0.0.1:8500"}
	type env = map[string]string
	secure := func(name, value string) env { return env{api.HTTPSSLEnvName: "true", name: value} }
	for name, row := range map[string]struct {
		set  env
		want Config
	}{
		"none":                   {env{}, Config{Endpoints: local}},
		"address":                {env{api.HTTPAddrEnvName: "h:1"}, Config{Endpoints: []string{"h:1"}}},
		"address with http":      {env{api.HTTPAddrEnvName: "http://h:1"}, Config{Endpoints: []string{"h:1"}}},
		"address with https":     {env{api.HTTPAddrEnvName: "https://h:1"}, Config{Endpoints: []string{"h:1"}, TLSFiles: &dcs.TLSFiles{}}},
		"address with a path":    {env{api.HTTPAddrEnvName: "http://h:1/consul"}, Config{Endpoints: []string{"h:1"}, PathPrefix: "/consul"}},
		"address of a socket":    {env{api.HTTPAddrEnvName: "unix:///run/c.sock"}, Config{Endpoints: []string{"unix:///run/c.sock"}}},
		"token":                  {env{api.HTTPTokenEnvName: "t"}, Config{Endpoints: local, Token: "t"}},
		"token file":             {env{api.HTTPTokenFileEnvName: "/t"}, Config{Endpoints: local, TokenFile: "/t"}},
		"token and token file":   {env{api.HTTPTokenEnvName: "t", api.HTTPTokenFileEnvName: "/t"}, Config{Endpoints: local, TokenFile: "/t"}},
		"TLS":                    {env{api.HTTPSSLEnvName: "1"}, Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{}}},
		"no TLS":                 {env{api.HTTPSSLEnvName: "false", api.HTTPCAFile: "/ca"}, Config{Endpoints: local}},
		"no verification":        {secure(api.HTTPSSLVerifyEnvName, "false"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{InsecureSkipVerify: true}}},
		"verification":           {secure(api.HTTPSSLVerifyEnvName, "true"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{}}},
		"authorities":            {secure(api.HTTPCAFile, "/ca"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{CA: "/ca"}}},
		"certificate":            {secure(api.HTTPClientCert, "/c"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{Cert: "/c"}}},
		"key":                    {secure(api.HTTPClientKey, "/k"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{Key: "/k"}}},
		"server name":            {secure(api.HTTPTLSServerName, "s"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{ServerName: "s"}}},
		"server name and a port": {secure(api.HTTPTLSServerName, "s:1"), Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{ServerName: "s"}}},
		"namespace":              {env{api.HTTPNamespaceEnvName: "n"}, Config{Endpoints: local, Namespace: "n"}},
		"partition":              {env{api.HTTPPartitionEnvName: "p"}, Config{Endpoints: local, Partition: "p"}},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnvironment(t)
			for k, v := range row.set {
				t.Setenv(k, v)
			}
			got, err := FromEnvironment()
			require.NoError(t, err)
			require.Equal(t, row.want, got)
			row.want.Root = "r"
			got, err = fromURL(t, "consul:///r?env=true")
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

// A variable whose value has no counterpart is refused by name, and no secret is quoted.
func TestInvalidVariables(t *testing.T) {
	for name, value := range map[string]string{
		api.HTTPAuthEnvName: "user:hidden", api.HTTPSSLEnvName: "hidden", api.HTTPSSLVerifyEnvName: "hidden", api.HTTPAddrEnvName: "ftp://hidden", api.HTTPCAPath: "/hidden",
	} {
		t.Run(name, func(t *testing.T) {
			clearEnvironment(t)
			t.Setenv(api.HTTPSSLEnvName, "true")
			t.Setenv(name, value)
			_, err := FromEnvironment()
			require.ErrorIs(t, err, dcs.ErrInvalid)
			require.NotContains(t, err.Error(), "hidden")
		})
	}
}

// The TLS settings of a transport are refused by name, because they cannot be kept. Those
// of a client that api.NewClient has completed are refused, too.
func TestTransportWithTLSIsRefused(t *testing.T) {
	clearEnvironment(t)
	own := &api.Config{Scheme: "https", Transport: &http.Transport{TLSClientConfig: &tls.Config{ServerName: "s"}}}
	completed := api.DefaultConfig()
	_, err := FromClientConfig(completed)
	require.NoError(t, err)
	completed.Scheme = "https"
	_, err = api.NewClient(completed)
	require.NoError(t, err)
	for _, c := range []*api.Config{own, completed} {
		_, err := FromClientConfig(c)
		require.ErrorIs(t, err, dcs.ErrInvalid)
		require.ErrorContains(t, err, "Transport.TLSClientConfig")
	}
}

// Each setting of Consul's own client sets its field of Config.
func TestEachClientSetting(t *testing.T) {
	local := []string{"127.0.0.1:8500"}
	for name, row := range map[string]struct {
		set  api.Config
		want Config
	}{
		"scheme":       {api.Config{Scheme: "https"}, Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{}}},
		"plain scheme": {api.Config{Scheme: "http"}, Config{Endpoints: local}},
		"path prefix":  {api.Config{PathPrefix: "/consul"}, Config{Endpoints: local, PathPrefix: "/consul"}},
		"the path of the address": {
			api.Config{Address: "http://h:1/own", PathPrefix: "/consul"}, Config{Endpoints: []string{"h:1"}, PathPrefix: "/own"},
		},
		"a transport": {
			api.Config{Scheme: "https", Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}, Config{Endpoints: local, TLSFiles: &dcs.TLSFiles{}},
		},
		"a transport without TLS": {api.Config{Transport: &http.Transport{TLSClientConfig: &tls.Config{}}}, Config{Endpoints: local}},
		"TLS files without TLS":   {api.Config{TLSConfig: api.TLSConfig{CAFile: "/ca"}}, Config{Endpoints: local}},
		"wait time":               {api.Config{WaitTime: time.Minute}, Config{Endpoints: local}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FromClientConfig(&row.set)
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}
