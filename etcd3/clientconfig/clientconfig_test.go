package clientconfig

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/etcd3"
)

func TestFromClientConfig(t *testing.T) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	options := []grpc.DialOption{grpc.WithUserAgent("x")}
	got, err := FromClientConfig(clientv3.Config{
		Endpoints: []string{"https://h1:1", "h2", " https://h3:2379/"}, TLS: conf, Username: "u", Password: "p", DialOptions: options,
		AutoSyncInterval: time.Minute, DialTimeout: time.Second, Context: context.Background(),
	})
	require.NoError(t, err)
	require.Len(t, got.DialOptions, 1)
	got.DialOptions = nil
	require.Equal(t, etcd3.Config{Endpoints: []string{"h1:1", "h2", "h3:2379"}, TLS: conf, Username: "u", Password: "p"}, got)
	got.Root = "r"
	b, err := etcd3.New(got)
	require.NoError(t, err)
	require.NoError(t, b.Close())

	got, err = FromClientConfig(clientv3.Config{Endpoints: []string{"https://h"}, Token: "t"})
	require.NoError(t, err)
	require.Equal(t, etcd3.Config{Endpoints: []string{"h"}, TLSFiles: &dcs.TLSFiles{}, Token: "t", NoDiscovery: true}, got)
	got, err = FromClientConfig(clientv3.Config{Endpoints: []string{"http://h"}})
	require.NoError(t, err)
	require.Equal(t, etcd3.Config{Endpoints: []string{"h"}, NoDiscovery: true}, got)
}

func TestFromClientConfigRefuses(t *testing.T) {
	ends, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := FromClientConfig(clientv3.Config{
		Endpoints: []string{"http://h", "unix:///x", "https://h"}, Context: ends, RejectOldCluster: true,
	})
	require.ErrorIs(t, err, dcs.ErrInvalid)
	for _, says := range []string{"http or https", "http://", "Context", "RejectOldCluster"} {
		require.ErrorContains(t, err, says)
	}
}
