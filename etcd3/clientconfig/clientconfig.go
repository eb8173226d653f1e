// Package clientconfig converts settings of etcd's own client to those of package
// etcd3. It is a separate package so that other programs do not depend on that client.
package clientconfig

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// FromClientConfig returns the settings of c for package etcd3: the endpoints with
// http:// or https://, TLS, user, password, token and the options of gRPC. The members
// of the cluster are discovered if AutoSyncInterval is set. The caller must set Root
// and may set Timing. Time limits, keepalive, back-off, retries and message sizes are
// left out, because package etcd3 derives its own from Timing. So are Logger and
// LogConfig; see etcd3.Config.Logger. If a setting cannot be converted, the error is
// ErrInvalid and names each such setting.
func FromClientConfig(c clientv3.Config) (etcd3.Config, error) {
	var faults backend.Faults
	out := etcd3.Config{
		Username: c.Username, Password: c.Password, Token: c.Token, TLS: c.TLS, DialOptions: c.DialOptions,
		NoDiscovery: c.AutoSyncInterval <= 0,
	}
	var secure bool
	if out.Endpoints, secure = faults.Schemes("Endpoints", c.Endpoints, c.TLS != nil); secure && c.TLS == nil {
		out.TLSFiles = &dcs.TLSFiles{}
	}
	if c.Context != nil && c.Context.Done() != nil {
		faults.Add("Context cannot be converted, because only Close ends a Backend: leave it nil")
	}
	if c.RejectOldCluster {
		faults.Add("RejectOldCluster cannot be converted, because a server with known defects is logged and not rejected: leave it false")
	}
	if err := faults.Err("etcd3"); err != nil {
		return etcd3.Config{}, err
	}
	return out, nil
}
