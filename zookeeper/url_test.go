package zookeeper

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestURL(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("p:w\n"), 0o600))
	u, err := dcs.ParseURL("zookeeper://h1:1,h2/pg/main?user=me&password_file=" + filepath.ToSlash(secret) + "&acl=world:anyone:r&tick=100ms&max_buffer=2000000&tls=true")
	require.NoError(t, err)
	c, err := configFromURL(u, dcs.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"h1:1", "h2"}, c.Endpoints)
	require.Equal(t, []any{"pg/main", "me", "world:anyone:r", 100 * time.Millisecond}, []any{c.Root, c.User, c.ACL, c.Tick})
	require.Equal(t, 2_000_000, c.MaxBuffer)
	require.Equal(t, &dcs.TLSFiles{}, c.TLSFiles)
	b, err := New(c)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, []string{"h1:1", "h2:2181"}, b.c.Endpoints)
	require.Equal(t, []authInfo{{"digest", "me:p:w"}}, b.c.auth.current(), "the line end is not part of a password")

	for url, want := range map[string]string{
		"zookeeper:///r":                               "no host",
		"zookeeper://h":                                "no root",
		"zookeeper://h/r?wait=perhaps":                 "true or false",
		"zookeeper://h/r?tls_cert=x":                   "tls_key",
		"zookeeper://h/r?tick=soon":                    "tick",
		"zookeeper://h/r?max_buffer=1MiB":              "max_buffer",
		"zookeeper://h/r?max_buffer=1000":              "MaxBuffer",
		"zookeeper://h/r?nosuch=1":                     "nosuch",
		"zookeeper://h/r?user=a":                       "belong together",
		"zookeeper://h/r?user=a&password_file=/no/x/y": "password_file",
		"zookeeper://h/r?password_file=/no/x/y":        "belong together",
		"zookeeper://h/r?user=a:b":                     "colon",
		"zookeeper://h/r?auth_file=/no/x/y":            "AuthFile",
		"zookeeper://h/r?acl=world":                    "ACL: entry \"world\"",
		"zookeeper://h/r?acl=x509:CN=a,O=b:cdrwa":      "entry \"x509:CN=a\"",
		"zookeeper://h/r?tick=-1s":                     "must not be negative",
		"zookeeper://h/r?max_buffer=-1":                "MaxBuffer -1",
		"zookeeper://h/r?slots=many":                   "option slots",
		"zookeeper://h/r?slots=-1":                     "Slots -1",
		"zookeeper://h/r?tls=perhaps":                  "option tls",
		"zookeeper://h/r?tls_insecure_skip_verify=1":   "option tls_insecure_skip_verify",
		"zookeeper://h/r?tls_ca=/no/x/y":               "tls_ca",
		"zookeeper://h/r?tls_key=x":                    "tls_cert",
		"zookeeper://h/r?tls_key_password_file=x":      "tls_key_password_file",
		"zookeeper://h/zookeeper":                      "reserved for ZooKeeper",
		"zookeeper://h,:2181/r":                        "host 2",
		"zookeeper://h:/r":                             "port",
		"zookeeper://h:99999/r":                        "port",
	} {
		_, err := dcs.Open(t.Context(), url, dcs.Options{})
		require.ErrorIs(t, err, dcs.ErrInvalid, url)
		require.ErrorContains(t, err, want, url)
	}
}

// Each option sets its field of Config.
func TestURLOptions(t *testing.T) {
	tested := map[string]bool{}
	for query, want := range map[string]Config{
		"slots=16":                 {Slots: 16},
		"wait=true":                {},
		"tick=1500ms":              {Tick: 1500 * time.Millisecond},
		"max_buffer=2000000":       {MaxBuffer: 2_000_000},
		"user=me&password_file=/x": {User: "me", PasswordFile: "/x"},
		"auth_file=/x":             {AuthFile: "/x"},
		`acl=x509:CN=a%5C,O=b:cdrwa,world:anyone:r`: {ACL: `x509:CN=a\,O=b:cdrwa,world:anyone:r`},
		"tls=false": {},
		"tls=true":  {TLSFiles: &dcs.TLSFiles{}},
		"tls_ca=/x": {TLSFiles: &dcs.TLSFiles{CA: "/x"}},
		"tls_cert=/x&tls_key=/y&tls_key_password_file=/z": {TLSFiles: &dcs.TLSFiles{Cert: "/x", Key: "/y", KeyPasswordFile: "/z"}},
		"tls_server_name=x":              {TLSFiles: &dcs.TLSFiles{ServerName: "x"}},
		"tls_insecure_skip_verify=true":  {TLSFiles: &dcs.TLSFiles{InsecureSkipVerify: true}},
		"tls_insecure_skip_verify=false": {},
	} {
		u, err := dcs.ParseURL("zookeeper://h/r?" + query)
		for name := range u.Params {
			tested[name] = true
		}
		require.NoError(t, err, query)
		got, err := configFromURL(u, dcs.Options{})
		require.NoError(t, err, query)
		want.Endpoints, want.Root = []string{"h"}, "r"
		require.Equal(t, want, got, query)
	}
	for _, p := range params {
		require.True(t, tested[p.Name], p.Name)
	}
}

func TestFromConnectString(t *testing.T) {
	for connect, want := range map[[2]string]Config{
		{"h1:2181, h2,h1/app/x", "pg/main"}: {Endpoints: []string{"h1:2181", "h2:2181"}, Root: "app/x/pg/main"},
		{"h1", "/pg/"}:                      {Endpoints: []string{"h1:2181"}, Root: "pg"},
		{"h1/app", ""}:                      {Endpoints: []string{"h1:2181"}, Root: "app"},
		{"h1:2182/app/", "pg"}:              {Endpoints: []string{"h1:2182"}, Root: "app/pg"},
		{"[::1]:2182,[fe80::1]/app", ""}:    {Endpoints: []string{"[::1]:2182", "[fe80::1]:2181"}, Root: "app"},
		{"h1,H1:2181,h1:2182", "pg"}:        {Endpoints: []string{"h1:2181", "h1:2182"}, Root: "pg"},
	} {
		c, err := FromConnectString(connect[0], connect[1])
		require.NoError(t, err, connect)
		require.Equal(t, want, c, connect)
	}
	for _, bad := range []string{"", "/app", "h1", "h1/", "h:x/app", "h:/app", "h:99999/app", ":2181/app", "h1,,h2/app", "h1,/app", "::1/app", "zk://h1/app", "me:hunter2@h1/app", "h1//app/../x", "h1/app//x"} {
		_, err := FromConnectString(bad, "")
		require.ErrorIs(t, err, dcs.ErrInvalid, bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
