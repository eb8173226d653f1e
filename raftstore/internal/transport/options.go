package transport

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-dcs/holdfast/keepalive"
)

// Options describes the connections of one node. All fields but Root, TLS, Logger
// and PlaintextBeyondLoopback must be set.
type Options struct {
	// ID is the name of this node. Cluster must be the same on every node.
	ID      string
	Cluster ClusterID
	// Root is the ClusterID of the root without names of nodes, by which clients
	// know the cluster.
	Root ClusterID
	// Listen is the host:port to listen on, and Advertise the one that the others
	// reach this node at. Port 0 of Advertise stands for the port listened on.
	Listen    string
	Advertise string
	// Peers has the address of every node by its name. It may lack this one.
	Peers map[string]string
	// TLS switches mutual TLS on.
	TLS *TLS
	// PlaintextBeyondLoopback allows addresses beyond loopback without TLS.
	PlaintextBeyondLoopback bool
	// Keepalive holds on every connection.
	Keepalive keepalive.Config
	// HeartbeatTimeout and ElectionTimeout are those of Raft. The time for a dial,
	// and for what Raft sends to arrive, is derived from them.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	// Logger receives what an operator needs to know; nil means silent.
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

// certName returns the name that the certificate of node id must be valid for,
// or "" if there is no such node.
func (o Options) certName(id string) string {
	addr := o.Peers[id]
	if id == o.ID {
		addr = o.Advertise
	}
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
