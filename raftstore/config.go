package raftstore

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/state"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A Peer is one node of the cluster. ID is its name, which never changes. Addr is the
// address (host:port) at which the other nodes reach it.
type Peer struct {
	ID   string
	Addr string
}

// TLS names the PEM files of mutual TLS between the nodes. Every node must have a
// certificate of the same authority, for both server and client use. A certificate
// proves the identity of its node by a subject alternative name; see Names. Files
// that change are read again for the next connection.
type TLS struct {
	// CertFile is this node's certificate, chain included.
	CertFile string
	// KeyFile is the private key of CertFile.
	KeyFile string
	// CAFile holds the certificates of the authority that signs all nodes.
	CAFile string
	// Names are the names, DNS or IP, that the nodes' certificates must be valid
	// for, by the node's ID. It defaults to the host part of the node's address
	// and must be the same on every node. A node whose certificate is not valid for
	// its name is refused, whether it dials or is dialled. Nodes that have the same
	// name, or whose certificates are valid for each other's names, can impersonate
	// one another.
	Names map[string]string
}

// Config describes one node. ID, Dir and Root are mandatory. Listen is mandatory too
// unless Peers has this node's address.
type Config struct {
	// ID names this node within the cluster: 1 to 64 letters, digits, '.',
	// '_' or '-'. It is written into Dir and must not change.
	ID string
	// Dir is the data directory. It is made (mode 0700) if it is absent. Two
	// processes cannot share a directory, and a node refuses that of another node.
	Dir string
	// Root names the tree that the cluster keeps, like "pg/main". Nodes with
	// different roots refuse each other.
	Root string
	// Listen is the host:port on which this node listens for all connections. It
	// defaults to this node's address in Peers. Port 0 takes any free port, for a
	// single node only. Incoming connections are bounded; see "Network" in the
	// package's documentation.
	Listen string
	// Advertise is the address at which the others reach this node. It defaults to
	// this node's address in Peers, which it must equal, else to Listen.
	Advertise string
	// Peers is for the first start. It must list every node, this one included, and
	// be the same on all of them. All nodes must run at the same time then. Empty
	// means a cluster of this one node. A node that is to be added to a cluster lists
	// itself and at least one member.
	//
	// Afterwards the members and their addresses are those of the replicated
	// configuration; see [Membership] and Status.PeersDiffer. The node then uses
	// Peers only to find the members again, if it has lost its data or all nodes have
	// moved.
	Peers []Peer
	// Rejoin allows this node to give up its data if they are damaged, if the other
	// nodes have replaced this node, or if the incarnation of its cluster has ended
	// (see Recover). The data are moved to a directory lost-… in Dir once a leader of
	// the other nodes has added a new life of this node to the cluster. The node then
	// gets all data from the others before it votes again. Without such a leader
	// nothing is moved. Rejoin may stay set.
	Rejoin bool
	// TLS switches mutual TLS on. Without it the nodes neither authenticate each
	// other nor encrypt, and only loopback addresses are accepted.
	TLS *TLS
	// PlaintextBeyondLoopback allows addresses beyond loopback without TLS. Any
	// process that reaches the port then controls the store.
	PlaintextBeyondLoopback bool
	// Timing must be that of the programs that use this store. Timeouts and keepalive
	// are derived from it; see dcs.Timing.WithDefaults for zero fields.
	Timing dcs.Timing
	// MinTTL is the shortest lease granted. It defaults to HeartbeatTimeout +
	// 2 x ElectionTimeout + 100 ms, but 1 s at least, so that a lease survives an
	// ordinary change of the Raft leader. It may be lowered to 250 ms.
	MinTTL time.Duration
	// HeartbeatTimeout is the silence of the Raft leader after which a follower stands
	// for election. It defaults to TTL/30, 300 ms at least and 1 s at most. A new
	// leader is elected after about twice that time. HeartbeatTimeout must be longer
	// than a round trip between the nodes, and should be five times as long. A dial
	// may take three heartbeat timeouts, with TLS four, within 500 ms and 3 s.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is the time for which a candidate waits for votes. It defaults
	// to HeartbeatTimeout and must not be shorter.
	ElectionTimeout time.Duration
	// SnapshotThreshold is the number of log entries after which a snapshot is made;
	// default 8192.
	SnapshotThreshold uint64
	// SnapshotInterval is how often that number is checked; default 2 minutes.
	SnapshotInterval time.Duration
	// Logger receives the events that an operator should know of. Nil disables
	// logging.
	Logger *slog.Logger
	// Observer receives changes of the leader, of the members and of this node's
	// health. The zero value disables it.
	Observer dcs.Observer
}

const (
	backendName = "raftstore"

	minTimeout        = 50 * time.Millisecond
	maxTimeout        = time.Minute
	minMinTTL         = 250 * time.Millisecond // the safety margin takes 100 ms of every TTL
	defaultMinTTL     = time.Second
	leastHeartbeat    = 300 * time.Millisecond // the default's bounds
	mostHeartbeat     = time.Second
	defaultThreshold  = 8192
	defaultInterval   = 2 * time.Minute
	maxRoot           = 512
	exampleListenAddr = "127.0.0.1:7001"
)

// check returns c with its defaults filled in, or an error with every fault.
func (c Config) check() (Config, error) {
	f := &faults{}
	c.checkNames(f)
	c = c.checkAddresses(f)
	c.checkTLS(f)
	c = c.checkTimes(f)
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	return c, f.err()
}

func (c Config) checkNames(f *faults) {
	if c.ID == "" {
		f.add(`ID is empty: name this node, like "a"`)
	} else if !transport.ValidID(c.ID) {
		f.add(`ID %q: only letters, digits, ".", "_" and "-", at most %d of them, like "node-a"`, c.ID, transport.MaxNodeID)
	}
	if c.Dir == "" {
		f.add(`Dir is empty: name a directory that only this node uses, like "/var/lib/holdfast/a"`)
	}
	checkRoot(f, c.Root)
}

func checkRoot(f *faults, root string) {
	if root == "" {
		f.add(`Root is empty: name the tree that this cluster keeps, like "pg/main"`)
	} else if !validRoot(root) {
		f.add(`Root %q: parts of printable ASCII without spaces, separated by "/", none empty, "." or "..", at most %d bytes, like "pg/main"`, root, maxRoot)
	}
}

// single reports whether the cluster is this one node.
func (c Config) single() bool { return len(c.Peers) <= 1 }

// peerAddr returns the address of the peer named id, or "".
func (c Config) peerAddr(id string) string {
	for _, p := range c.Peers {
		if p.ID == id {
			return p.Addr
		}
	}
	return ""
}

func (c Config) checkAddresses(f *faults) Config {
	c.checkPeers(f)
	own := c.peerAddr(c.ID)
	c.Listen = cmp.Or(c.Listen, own)
	if c.Listen == "" {
		f.add(`Listen is empty: name the host:port on which this node listens, like %q`, exampleListenAddr)
		return c
	}
	port := c.checkAddr(f, "Listen", c.Listen)
	if port == "0" && !c.single() {
		f.add(`Listen %q: port 0 (any free port) is for a single node only, because peers cannot find this node: name a port, like %q`, c.Listen, exampleListenAddr)
	}
	switch {
	case c.Advertise == "":
		c.Advertise = cmp.Or(own, c.Listen)
	case own != "" && c.Advertise != own:
		f.add(`Advertise %q differs from this node's address in Peers, %q: make them equal, or leave Advertise empty`, c.Advertise, own)
	default:
		c.checkAddr(f, "Advertise", c.Advertise)
	}
	if host, _, err := net.SplitHostPort(c.Advertise); err == nil && isWildcard(host) {
		f.add(`Advertise %q is not an address that other nodes can reach: name one, like %q`, c.Advertise, "10.0.0.1:7001")
	}
	return c
}

func (c Config) checkPeers(f *faults) {
	ids, addrs := map[string]bool{}, map[string]string{}
	for i, p := range c.Peers {
		field := fmt.Sprintf("Peers[%d]", i)
		if !transport.ValidID(p.ID) {
			f.add(`%s.ID %q: letters, digits, ".", "_" and "-", 1 to %d of them, like "node-b"`, field, p.ID, transport.MaxNodeID)
		}
		if ids[p.ID] {
			f.add(`%s.ID %q is listed twice: list every node once`, field, p.ID)
		}
		ids[p.ID] = true
		if other, twice := addrs[p.Addr]; twice {
			f.add(`%s.Addr %q is also that of %q: every node has an address of its own`, field, p.Addr, other)
		}
		addrs[p.Addr] = p.ID
		if port := c.checkAddr(f, field+".Addr", p.Addr); port == "0" && len(c.Peers) > 1 {
			f.add(`%s.Addr %q: port 0 cannot be reached: name a port, like %q`, field, p.Addr, exampleListenAddr)
		}
	}
	if len(c.Peers) > 0 && c.ID != "" && !ids[c.ID] {
		f.add(`Peers does not list this node, %q: list this node too, with its address`, c.ID)
	}
}

// checkRemote checks the address of another node.
func (c Config) checkRemote(f *faults, addr string) {
	port := c.checkAddr(f, "Addr", addr)
	if host, _, err := net.SplitHostPort(addr); err == nil && (isWildcard(host) || port == "0") {
		f.add(`Addr %q is not an address that other nodes can reach: name one, like %q`, addr, "10.0.0.1:7001")
	}
}

// checkAddr checks one host:port and returns its port.
func (c Config) checkAddr(f *faults, field, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !validPort(port) {
		f.add(`%s %q is not host:port with a port from 0 to 65535, like %q or "[::1]:7001"`, field, addr, exampleListenAddr)
		return ""
	}
	if c.TLS == nil && !c.PlaintextBeyondLoopback && provablyRemote(host) {
		f.add(`%s %q is beyond loopback and TLS is not set: set TLS, use 127.0.0.1, or set PlaintextBeyondLoopback and accept that any process that reaches the port controls the store`, field, addr)
	}
	return port
}

func (c Config) checkTLS(f *faults) {
	if c.TLS == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.TLS.Names)) {
		if !transport.ValidID(id) {
			f.add(`TLS.Names has a node %q: letters, digits, ".", "_" and "-", 1 to %d of them, like "node-b"`, id, transport.MaxNodeID)
		}
	}
	checkTLSFiles(f, c.TLS)
}

// checkTLSFiles checks the settings of TLS that nodes and clients have in common;
// nil has none.
func checkTLSFiles(f *faults, t *TLS) {
	if t == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(t.Names)) {
		if name := t.Names[id]; name == "" || strings.ContainsAny(name, " ,/*[]") {
			f.add(`TLS.Names[%q] %q: one DNS name or IP address without a port, like "node-a.example"`, id, name)
		}
	}
	for _, file := range []struct{ field, path string }{
		{"TLS.CertFile", t.CertFile}, {"TLS.KeyFile", t.KeyFile}, {"TLS.CAFile", t.CAFile},
	} {
		if file.path == "" {
			f.add(`%s is empty: mutual TLS needs this program's certificate, its key and the authority's certificate, each as a PEM file`, file.field)
		}
	}
}

func (c Config) checkTimes(f *faults) Config {
	c.Timing = c.Timing.WithDefaults()
	c.HeartbeatTimeout = cmp.Or(c.HeartbeatTimeout, min(max(c.Timing.TTL/30, leastHeartbeat), mostHeartbeat))
	c.ElectionTimeout = cmp.Or(c.ElectionTimeout, c.HeartbeatTimeout)
	f.inRange("HeartbeatTimeout", c.HeartbeatTimeout, minTimeout, maxTimeout)
	f.inRange("ElectionTimeout", c.ElectionTimeout, max(minTimeout, c.HeartbeatTimeout), maxTimeout)
	c.MinTTL = cmp.Or(c.MinTTL, max(defaultMinTTL, c.HeartbeatTimeout+2*c.ElectionTimeout+100*time.Millisecond))
	f.inRange("MinTTL", c.MinTTL, minMinTTL, state.MaxTTL)
	f.timing(c.Timing.Validate(dcs.Caps{MinTTL: min(max(c.MinTTL, minMinTTL), state.MaxTTL), MaxTTL: state.MaxTTL}))
	c.SnapshotThreshold = cmp.Or(c.SnapshotThreshold, defaultThreshold)
	c.SnapshotInterval = cmp.Or(c.SnapshotInterval, defaultInterval)
	f.inRange("SnapshotInterval", c.SnapshotInterval, 5*time.Millisecond, 24*time.Hour)
	return c
}

// faults collects the wrong settings, so that an operator can correct all at once.
type faults struct{ list []string }

func (f *faults) add(format string, args ...any) {
	f.list = append(f.list, fmt.Sprintf(format, args...))
}

// timing adds the error of dcs for the Timing.
func (f *faults) timing(err error) {
	var e *dcs.Error
	if errors.As(err, &e) && e.Err != nil {
		err = e.Err
	}
	if err != nil {
		f.add("Timing: %v", err)
	}
}

func (f *faults) inRange(field string, d, least, most time.Duration) {
	if d < least {
		f.add("%s is %v: at least %v", field, d, least)
	}
	if d > most {
		f.add("%s is %v: at most %v", field, d, most)
	}
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return invalid("%s", strings.Join(f.list, "; "))
}

// invalid returns the error for a refused setting. Nothing was opened or written.
func invalid(format string, args ...any) error {
	return openError(dcs.ErrInvalid, format, args...)
}

// openError returns a failure of Open. A %w in the format keeps the cause.
func openError(kind error, format string, args ...any) error {
	return &dcs.Error{Backend: backendName, Op: "Open", Kind: kind, Err: fmt.Errorf(format, args...)}
}
