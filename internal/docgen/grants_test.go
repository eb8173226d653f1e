package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/testcluster"
)

// The README's limits of each backend are those of real servers with their
// own default settings.
func TestGrantsOfRealServers(t *testing.T) {
	for store, url := range map[string]func(t *testing.T) string{
		"etcd3":     func(t *testing.T) string { return "etcd3://" + servers(t, testcluster.Etcd) + "/docs" },
		"consul":    func(t *testing.T) string { return "consul://" + servers(t, testcluster.Consul) + "/docs" },
		"zookeeper": func(t *testing.T) string { return "zookeeper://" + servers(t, testcluster.ZooKeeper) + "/docs" },
	} {
		t.Run(store, func(t *testing.T) {
			client, err := dcs.Open(t.Context(), url(t), dcs.Options{})
			require.NoError(t, err)
			granted, err := askGrant(t.Context(), client)
			require.NoError(t, err)
			documented, err := grantOf(t.Context(), store)
			require.NoError(t, err)
			require.Equal(t, granted, documented)
		})
	}
}

// servers returns the user's own servers, or one that is started.
func servers(t *testing.T, kind testcluster.Kind) string {
	t.Helper()
	if external := testcluster.External(kind); external != nil {
		return strings.Join(external, ",")
	}
	o := testcluster.Options{Kind: kind, Nodes: 1, Loopback: true, Defaults: true}
	if kind == testcluster.ZooKeeper {
		o.Flags = []string{"tickTime=2000"}
	}
	return strings.Join(testcluster.New(t, o).Endpoints(), ",")
}
