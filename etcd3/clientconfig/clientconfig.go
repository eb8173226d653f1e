// Package clientconfig makes the settings of package etcd3 from those of etcd's own
// client. It is a package of its own so that other programs do not need that client.
package clientconfig

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/etcd3"
	"github.com/holdfast-dcs/holdfast/internal/backend"
)

// FromClientConfig returns the settings of c for package etcd3: the endpoints with
// http:// or https://, TLS, user, password, token and the options of gRPC. The
// members of the cluster are discovered if AutoSyncInterval is set. Root and Timing
// are the caller's to set. Time limits, keepalive, back-off, retries and message
// sizes are left out, because package etcd3 derives its own from Timing. So are
// Logger and LogConfig; see etcd3.Config.Logger. Settings that cannot be kept are
// ErrInvalid, each by name.
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
		faults.Add("Context: the life of a Backend ends with Close only: leave it out")
	}
	if c.RejectOldCluster {
		faults.Add("RejectOldCluster: known defects of servers are logged and do not refuse a server: leave it out")
	}
	if err := faults.Err("etcd3"); err != nil {
		return etcd3.Config{}, err
	}
	return out, nil
}
