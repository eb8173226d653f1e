package transport

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-dcs/holdfast/keepalive"
)

// Options describes the connections of one node. All fields but TLS, Logger and
// PlaintextBeyondLoopback must be set.
type Options struct {
	// ID is the name of this node. Cluster must be the same on every node.
	ID      string
	Cluster ClusterID
	// Listen is the host:port to listen on, and Advertise the one that the others
	// reach this node at. Port 0 of Advertise stands for the port listened on.
	Listen    string
	Advertise string
	// Peers has the addresses of the other nodes by their names, as the settings
	// have them. [Network.UseNodes] replaces it once the nodes of the cluster are
	// known.
	Peers map[string]string
	// TLS switches mutual TLS on.
	TLS *TLS
	// PlaintextBeyondLoopback allows addresses beyond loopback without TLS.
	PlaintextBeyondLoopback bool
	// Keepalive holds on every connection.
	Keepalive keepalive.Config
	// HeartbeatTimeout and ElectionTimeout are those of Raft. The time for a dial,
	// and for Raft's messages to arrive, is derived from them.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	// Logger receives the messages for an operator; nil means silent.
	Logger *slog.Logger
}

// TLS names the PEM files of mutual TLS between the nodes. Files that change are
// read again for the next connection.
type TLS struct {
	// CertFile is this node's certificate, chain included.
	CertFile string
	// KeyFile is the private key of CertFile.
	KeyFile string
	// CAFile holds the certificates of the authority that signs all nodes.
	CAFile string
	// Names are the names that the nodes' certificates must be valid for, by the
	// node's ID. It defaults to the host part of the node's address.
	Names map[string]string
}

// certName returns the name that the certificate of node id at addr must be
// valid for, or "" if addr is no address.
func (o Options) certName(id, addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	if o.TLS != nil && o.TLS.Names[id] != "" {
		return o.TLS.Names[id]
	}
	return host
}

// OptionsError reports options that cannot be used on this machine.
type OptionsError struct {
	// Err names the option, its value and the remedy.
	Err error
}

// Error returns the message of e.Err.
func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *OptionsError) Unwrap() error { return e.Err }

func unusable(format string, args ...any) error {
	return &OptionsError{Err: fmt.Errorf(format, args...)}
}
