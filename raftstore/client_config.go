package raftstore

import (
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/keepalive"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// DefaultPort is the port of an endpoint that names none.
const DefaultPort = "7001"

// exampleClientURL is the form of a client's URL.
const exampleClientURL = "raft://10.0.0.1:7001,10.0.0.2:7001,10.0.0.3:7001/pg/main"

// ClientConfig describes a client of a cluster, a program that is not a node and has
// no data directory. Endpoints and Root are mandatory.
type ClientConfig struct {
	// Endpoints are addresses (host:port) of some nodes. DefaultPort is used
	// where the port is left out. The client learns the others from the nodes.
	Endpoints []string
	// Root is the tree that the nodes keep, as in their Config.
	Root string
	// TLS switches mutual TLS on. CertFile is the client's certificate. It must
	// be signed by the authority of the nodes, for client use, and needs no name;
	// see "Certificates" in the package's documentation. Names are those of the
	// nodes. A node without a name there must prove the host of its address.
	TLS *TLS
	// PlaintextBeyondLoopback allows addresses beyond loopback without TLS.
	PlaintextBeyondLoopback bool
	// Timing must be that of the programs that use this store. Timeouts and keepalive
	// are derived from it; see dcs.Timing.WithDefaults for zero fields.
	Timing dcs.Timing
	// MinTTL is the shortest lease granted. It should be that of the nodes. The
	// defaults are equal if the Timings are.
	MinTTL time.Duration
	// NoDiscovery limits the client to Endpoints. It does not ask the nodes for
	// their addresses. Set it if the addresses in the nodes' Peers cannot be reached
	// from here.
	NoDiscovery bool
	// Resolver looks up the hosts' names; nil means the system's. Each address of
	// a name is an endpoint. Names are looked up again when an endpoint fails, and
	// every three RetryTimeouts.
	Resolver *net.Resolver
	// Logger receives the events that an operator should know of. Nil disables
	// logging.
	Logger *slog.Logger
	// Observer receives the decisions about endpoints. The zero value disables it.
	Observer dcs.Observer
}

// check returns c with its defaults filled in, or an error with every fault.
func (c ClientConfig) check() (ClientConfig, error) {
	f := &faults{}
	if len(c.Endpoints) == 0 {
		f.add(`Endpoints is empty: name at least one node, like "10.0.0.1:%s"`, DefaultPort)
	}
	full, err := dcs.ParseHosts(c.Endpoints, DefaultPort)
	if err != nil {
		f.add("Endpoints: %v", err)
	}
	for _, addr := range full {
		Config{TLS: c.TLS, PlaintextBeyondLoopback: c.PlaintextBeyondLoopback}.checkAddr(f, "endpoint", addr)
	}
	c.Endpoints = full
	c.Root = strings.Trim(c.Root, "/")
	checkRoot(f, c.Root)
	checkTLSFiles(f, c.TLS)
	// The bounds and the defaults are those of a node with the same Timing.
	times := Config{Timing: c.Timing, MinTTL: c.MinTTL}.checkTimes(f)
	c.Timing, c.MinTTL = times.Timing, times.MinTTL
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	return c, f.err()
}

// connections returns the options of a client's connections.
func (c ClientConfig) connections(id string) transport.ClientOptions {
	keep, _ := keepalive.Derive(c.Timing.TTL, c.Timing.LoopWait)
	return transport.ClientOptions{
		ID: id, Cluster: transport.NewClusterID(c.Root),
		TLS: (*transport.TLS)(c.TLS), PlaintextBeyondLoopback: c.PlaintextBeyondLoopback,
		Keepalive: keep, DialTimeout: min(max(c.Timing.RetryTimeout/4, leastClientDial), mostClientDial),
		Logger: c.Logger,
	}
}

const (
	// leastClientDial and mostClientDial bound the time of a client's dial.
	leastClientDial = 500 * time.Millisecond
	mostClientDial  = 3 * time.Second
)
