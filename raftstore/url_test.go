package raftstore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestURLToConfig(t *testing.T) {
	u, err := dcs.ParseURL("raft:///data/a?id=a&root=pg/main&listen=127.0.0.1:7001&advertise=127.0.0.1:7001" +
		"&peers=a=127.0.0.1:7001,b%40%5B::1%5D:7002&tls_cert=/c.pem&tls_key=/k.pem&tls_ca=/ca.pem&tls_names=a=a.test,b=10.0.0.2&plaintext_beyond_loopback=true&rejoin=true" +
		"&min_ttl=2s&heartbeat_timeout=200ms&election_timeout=250ms&snapshot_threshold=99&snapshot_interval=5s")
	require.NoError(t, err)
	timing := dcs.Timing{TTL: 9 * time.Second, LoopWait: time.Second, RetryTimeout: time.Second}
	c, err := configFromURL(u, dcs.Options{Timing: timing, Logger: slog.Default()})
	require.NoError(t, err)
	require.Equal(t, Config{
		ID: "a", Dir: "/data/a", Root: "pg/main", Listen: "127.0.0.1:7001", Advertise: "127.0.0.1:7001",
		Peers:                   []Peer{{"a", "127.0.0.1:7001"}, {"b", "[::1]:7002"}},
		TLS:                     &TLS{CertFile: "/c.pem", KeyFile: "/k.pem", CAFile: "/ca.pem", Names: map[string]string{"a": "a.test", "b": "10.0.0.2"}},
		PlaintextBeyondLoopback: true, Rejoin: true, Timing: timing, MinTTL: 2 * time.Second,
		HeartbeatTimeout: 200 * time.Millisecond, ElectionTimeout: 250 * time.Millisecond,
		SnapshotThreshold: 99, SnapshotInterval: 5 * time.Second, Logger: slog.Default(),
	}, c)
	for _, p := range (driver{}).Params() {
		if slices.Contains(clientOptions, p) {
			continue
		}
		assert.NotEmpty(t, u.Params[p.Name], "every option is in this test: %s", p.Name)
	}
}

func TestBadURLs(t *testing.T) {
	good := func(more string) string {
		return "raft:///nonexistent/holdfast/a?id=a&root=r&listen=127.0.0.1:0" + more
	}
	for raw, want := range map[string][]string{
		"raft:///d?root=r&listen=127.0.0.1:0":      {"option id is missing", exampleURL},
		"raft:///d?id=a&listen=127.0.0.1:0":        {"option root is missing", exampleURL},
		"raft:///?id=a&root=r&listen=127.0.0.1:0":  {"data directory is missing", exampleURL},
		"raft:///d?id=a&root=r":                    {"listen and peers are both missing", examplePeers},
		"raft:///d?":                               {"option id is missing", "option root is missing", "both missing"},
		"raft://h1:7000,h2:7000/":                  {"the root is missing", exampleClientURL},
		"raft://h1/root?id=a&peers=x":              {"option id is for a node", "option peers is for a node", exampleURL},
		"raft://h1/root?wait=perhaps&discovery=1":  {"option wait=perhaps", "option discovery=1"},
		"raft://h1/root?tls_cert=/c.pem":           {"TLS.KeyFile is empty", "TLS.CAFile is empty"},
		"raft://h1/root?min_ttl=0s":                {"option min_ttl=0s"},
		"raft://192.0.2.1/root":                    {"192.0.2.1:7001", "beyond loopback"},
		good("&discovery=false"):                   {"option discovery is for a client", exampleClientURL},
		good("&peers=a=127.0.0.1:7001,b"):          {`"b" is not id=host:port`, examplePeers},
		good("&peers=b=127.0.0.1:7001"):            {"does not list this node", examplePeers},
		good("&peers="):                            {"is not id=host:port"},
		good("&tls_names=a"):                       {`"a" is not id=name`, exampleNames},
		good("&min_ttl=0s"):                        {"option min_ttl=0s", "like 300ms or 2s"},
		good("&min_ttl=-1s"):                       {"option min_ttl=-1s"},
		good("&heartbeat_timeout=fast"):            {"option heartbeat_timeout=fast"},
		good("&plaintext_beyond_loopback=perhaps"): {"true or false"},
		good("&snapshot_threshold=0"):              {"positive number, like 8192"},
		good("&tls_cert=/c.pem"):                   {"TLS.KeyFile is empty", "TLS.CAFile is empty"},
		good("&unheard_of=1"):                      {"unheard_of"},
		good("&ttl=3s&loop_wait=3s&retry_timeout=3s"): {
			"TTL 3s is less than LoopWait 3s + 2 x RetryTimeout 3s", "works",
		},
		"raft:///d?id=a&root=r&listen=192.0.2.1:7001": {"beyond loopback", "PlaintextBeyondLoopback"},
	} {
		t.Run(raw, func(t *testing.T) {
			s, err := dcs.Open(t.Context(), raw, dcs.Options{})
			require.Nil(t, s)
			require.ErrorIs(t, err, dcs.ErrInvalid)
			for _, text := range want {
				require.ErrorContains(t, err, text)
			}
		})
	}
	_, err := os.Stat("/nonexistent")
	require.ErrorIs(t, err, os.ErrNotExist, "nothing was made")
}

func TestClientURL(t *testing.T) {
	u, err := dcs.ParseURL("raft://h1,h2:7002/pg/main?wait=true&discovery=false&min_ttl=2s&plaintext_beyond_loopback=true&tls_cert=/c.pem&tls_key=/c.key&tls_ca=/ca.pem&tls_names=a=node-a")
	require.NoError(t, err)
	c, err := clientConfigFromURL(u, dcs.Options{})
	require.NoError(t, err)
	require.Equal(t, ClientConfig{
		Endpoints: []string{"h1", "h2:7002"}, Root: "pg/main", NoDiscovery: true, MinTTL: 2 * time.Second, PlaintextBeyondLoopback: true,
		TLS: &TLS{CertFile: "/c.pem", KeyFile: "/c.key", CAFile: "/ca.pem", Names: map[string]string{"a": "node-a"}},
	}, c)
	for _, p := range clientOptions {
		require.NotEmpty(t, u.Params[p.Name], "every option is in this test: %s", p.Name)
	}
	c.Root = "/pg/main/"
	c.TLS = nil
	checked, err := c.check()
	require.NoError(t, err)
	require.Equal(t, []string{"h1:7001", "h2:7002"}, checked.Endpoints)
	require.Equal(t, "pg/main", checked.Root)
	_, err = NewClient(ClientConfig{Endpoints: []string{"a/b"}, Timing: dcs.Timing{TTL: time.Second, LoopWait: 2 * time.Second}})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, fault := range []string{`Endpoints: host 1`, "Root is empty", "Timing"} {
		require.ErrorContains(t, err, fault)
	}
}

func TestOpenByURL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	s, err := dcs.Open(t.Context(), "raft://"+dir+"?id=a&root=r&listen=127.0.0.1:0&ttl=3s&loop_wait=1s&retry_timeout=1s", dcs.Options{})
	require.NoError(t, err)
	defer s.Close()
	b, ok := s.Unwrap().(*Backend)
	require.True(t, ok)
	require.Equal(t, "a", b.Status().ID)

	_, err = dcs.Open(t.Context(), "raft://"+dir+"?id=a&root=r&listen=127.0.0.1:0", dcs.Options{})
	require.ErrorIs(t, err, dcs.ErrUnavailable)
	require.ErrorContains(t, err, "in use by another process")

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = dcs.Open(canceled, "raft://"+dir+"b?id=a&root=r&listen=127.0.0.1:0", dcs.Options{})
	require.ErrorIs(t, err, context.Canceled)
}
