package raftstore

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
)

func TestConfigDefaults(t *testing.T) {
	three := []Peer{{"a", "127.0.0.1:7001"}, {"b", "127.0.0.1:7002"}, {"c", "127.0.0.1:7003"}}
	c, err := Config{ID: "b", Dir: "d", Root: "r", Peers: three}.check()
	require.NoError(t, err)
	require.NotNil(t, c.Logger)
	c.Logger, c.Observer = nil, dcs.Observer{} // detached
	require.Equal(t, Config{
		ID: "b", Dir: "d", Root: "r", Listen: "127.0.0.1:7002", Advertise: "127.0.0.1:7002", Peers: three,
		Timing: dcs.DefaultTiming, HeartbeatTimeout: time.Second, ElectionTimeout: time.Second,
		MinTTL: 3100 * time.Millisecond, SnapshotThreshold: 8192, SnapshotInterval: 2 * time.Minute,
	}, c)

	c, err = Config{ID: "a", Dir: "d", Root: "r", Listen: "127.0.0.1:0", Timing: dcs.Timing{TTL: 3 * time.Second}}.check()
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:0", c.Advertise)
	require.Equal(t, 300*time.Millisecond, c.HeartbeatTimeout)
	require.Equal(t, 300*time.Millisecond, c.ElectionTimeout)
	require.Equal(t, time.Second, c.MinTTL)

	c, err = Config{ID: "a", Dir: "d", Root: "r", Listen: "0.0.0.0:7001", TLS: &TLS{CertFile: "c", KeyFile: "k", CAFile: "a"}, Advertise: "db1.test:7001"}.check()
	require.NoError(t, err)
	require.Equal(t, "db1.test:7001", c.Advertise)

	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	again, err := c.check()
	require.NoError(t, err)
	require.Equal(t, c, again, "settings that are filled in do not change")
}

func TestConfigFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"no ID":             {func(c *Config) { c.ID, c.Peers = "", nil }, `ID is empty: name this node, like "a"`},
		"bad ID":            {func(c *Config) { c.ID = "a b" }, `ID "a b"`},
		"long ID":           {func(c *Config) { c.ID = strings.Repeat("x", 65) }, "at most 64"},
		"no Dir":            {func(c *Config) { c.Dir = "" }, "Dir is empty"},
		"no Root":           {func(c *Config) { c.Root = "" }, "Root is empty"},
		"Root slash":        {func(c *Config) { c.Root = "/pg" }, `Root "/pg"`},
		"Root dots":         {func(c *Config) { c.Root = "pg/../x" }, `Root "pg/../x"`},
		"Root space":        {func(c *Config) { c.Root = "p g" }, `like "pg/main"`},
		"long Root":         {func(c *Config) { c.Root = strings.Repeat("x", 513) }, "at most 512 bytes"},
		"no Listen":         {func(c *Config) { c.Listen, c.Peers = "", nil }, "Listen is empty"},
		"Listen form":       {func(c *Config) { c.Listen = "127.0.0.1" }, "is not host:port"},
		"Listen port":       {func(c *Config) { c.Listen = "127.0.0.1:65536" }, "from 0 to 65535"},
		"Listen remote":     {func(c *Config) { c.Listen = "10.1.2.3:7001" }, `Listen "10.1.2.3:7001" is beyond loopback and TLS is not set`},
		"Listen everywhere": {func(c *Config) { c.Listen = ":7001" }, "beyond loopback"},
		"Listen mapped":     {func(c *Config) { c.Listen = "[::ffff:10.1.2.3]:7001" }, "beyond loopback"},
		"port 0 of three":   {func(c *Config) { c.Listen = "127.0.0.1:0" }, "port 0 (any free port) is for a single node only"},
		"peer remote":       {func(c *Config) { c.Peers[1].Addr = "10.1.2.3:7001" }, `Peers[1].Addr "10.1.2.3:7001" is beyond loopback`},
		"peer port 0":       {func(c *Config) { c.Peers[1].Addr = "127.0.0.1:0" }, "port 0 cannot be reached"},
		"peer form":         {func(c *Config) { c.Peers[1].Addr = "b" }, `Peers[1].Addr "b" is not host:port`},
		"peer ID":           {func(c *Config) { c.Peers[1].ID = "" }, `Peers[1].ID ""`},
		"peer twice":        {func(c *Config) { c.Peers[1].ID = "a" }, "listed twice"},
		"address twice":     {func(c *Config) { c.Peers[1].Addr = c.Peers[0].Addr }, `is also that of "a"`},
		"not a peer":        {func(c *Config) { c.ID = "z" }, `Peers does not list this node, "z"`},
		"Advertise differs": {func(c *Config) { c.Advertise = "127.0.0.1:9" }, "differs from this node's address in Peers"},
		"Advertise anywhere": {func(c *Config) {
			c.Peers, c.Listen, c.PlaintextBeyondLoopback = nil, "0.0.0.0:7001", true
		}, "is not an address that other nodes can reach"},
		"TLS files":      {func(c *Config) { c.TLS = &TLS{} }, "TLS.CertFile is empty"},
		"TLS names":      {func(c *Config) { c.TLS = &TLS{Names: map[string]string{"z z": "z.test"}} }, `TLS.Names has a node "z z"`},
		"TLS name":       {func(c *Config) { c.TLS = &TLS{Names: map[string]string{"a": "*.test"}} }, `TLS.Names["a"] "*.test": one DNS name or IP address`},
		"TLS name empty": {func(c *Config) { c.TLS = &TLS{Names: map[string]string{"a": ""}} }, `TLS.Names["a"] ""`},
		"TTL negative":   {func(c *Config) { c.Timing.TTL = -1 }, "TTL -1ns is negative"},
		"Timing rule":    {func(c *Config) { c.Timing = dcs.Timing{TTL: 3e9, LoopWait: 3e9, RetryTimeout: 3e9} }, "LoopWait 3s + 2 x RetryTimeout 3s"},
		"heartbeat":      {func(c *Config) { c.HeartbeatTimeout = time.Millisecond }, "HeartbeatTimeout is 1ms: at least 50ms"},
		"long heartbeat": {func(c *Config) { c.HeartbeatTimeout = time.Hour }, "HeartbeatTimeout is 1h0m0s: at most 1m0s"},
		"election":       {func(c *Config) { c.ElectionTimeout = 100 * time.Millisecond }, "ElectionTimeout is 100ms: at least 1s"},
		"MinTTL":         {func(c *Config) { c.MinTTL = time.Millisecond }, "MinTTL is 1ms: at least 250ms"},
		"MinTTL sign":    {func(c *Config) { c.MinTTL = -time.Second }, "MinTTL is -1s"},
		"MinTTL long":    {func(c *Config) { c.MinTTL = 25 * time.Hour }, "MinTTL is 25h0m0s: at most 24h"},
		"interval":       {func(c *Config) { c.SnapshotInterval = -1 }, "SnapshotInterval is -1ns: at least 5ms"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{
				ID: "a", Dir: "d", Root: "r",
				Peers: []Peer{{"a", "127.0.0.1:7001"}, {"b", "127.0.0.1:7002"}, {"c", "127.0.0.1:7003"}},
			}
			tc.edit(&c)
			_, err := c.check()
			require.ErrorIs(t, err, dcs.ErrInvalid)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	_, err := Config{Timing: dcs.Timing{TTL: -1}, HeartbeatTimeout: 1, MinTTL: 1, TLS: &TLS{}}.check()
	for _, field := range []string{
		"ID", "Dir", "Root", "Listen", "TLS.CertFile", "TLS.KeyFile", "TLS.CAFile", "HeartbeatTimeout", "MinTTL", "Timing",
	} {
		require.ErrorContains(t, err, field)
	}
}
