// Package testcluster starts real clusters of etcd, Consul, ZooKeeper and the
// embedded store for
// tests and benchmarks, with faults: three servers on this machine, each behind
// a proxy and, where root and ip(8) allow it, in a network of its own whose
// packets can be dropped. What a cluster starts ends with it, also when the
// test's process is killed.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-dcs/holdfast/conformance/fault"
)

// Kind is a store.
type Kind string

// The kinds.
const (
	Etcd      Kind = "etcd"
	Consul    Kind = "consul"
	ZooKeeper Kind = "zookeeper"
	// Raft is the embedded store, in processes that are the test binary itself:
	// its TestMain must call [RaftNode.Main].
	Raft Kind = "raft"
)

// Options say what to start. Kind is required.
type Options struct {
	Kind Kind
	// Version is "" for the pinned one, or, for etcd, "3.5".
	Version string
	// Nodes is how many servers; zero means three.
	Nodes int
	// Election is the store's election timeout: zero means 500 ms for etcd. A
	// new leader may take up to twice as long.
	Election time.Duration
	// Loopback puts the servers on loopback addresses even where they could
	// have a network of their own.
	Loopback bool
	// Security switches on mutual TLS and users (etcd), or mutual TLS and ACLs
	// with Token as the management token (Consul). ZooKeeper's digest authentication needs no
	// setting of its servers'.
	Security bool
	// Domain gives the servers' proxies names below it, which only
	// [Cluster.Resolver] knows and which etcd advertises.
	Domain string
	// Defaults leaves a server's own times as they are: with Consul the shortest
	// session, and how long a new server has to be there before it votes; with
	// ZooKeeper the tick and what is counted in ticks.
	Defaults bool
	// Flags are added to each server's command line (etcd and Consul), or as
	// lines to its configuration (ZooKeeper).
	Flags []string
}

// Cluster is a running cluster.
type Cluster struct {
	o       Options
	dir     string
	network *fault.Network // nil on loopback
	drv     driver
	ca      *Authority
	names   *fault.Resolver // with a Domain

	mu      sync.Mutex
	servers []*Server
	agents  []*Server // that serve clients and are no members
	made    int       // servers made so far, for names
	ill     bool      // it was given up
}

// Server is one server of a Cluster.
type Server struct {
	c     *Cluster
	name  string
	label string // of its name in the Domain
	agent bool   // it is in front of the servers
	host  *fault.Host
	dir   string
	ports map[string]int
	proxy *fault.Proxy

	mu     sync.Mutex
	proc   *fault.Process
	output *os.File
	off    time.Duration // of its wall clock
}

// driver is what differs between the kinds.
type driver interface {
	// ports names the ports that a server needs; "client" is one.
	ports() map[string]int
	// command is a server's, joining the cluster that is there when join.
	command(ctx context.Context, c *Cluster, s *Server, join bool) (*exec.Cmd, error)
	// ready asks the server whether it serves, and whether it leads.
	ready(ctx context.Context, c *Cluster, s *Server) (leads bool, err error)
	// started is called once every server is ready, for users and rights.
	started(ctx context.Context, c *Cluster) error
	// election is the longest that the servers need for a new leader.
	election(o Options) time.Duration
}

// ErrMissing is wrapped by the error of Start when a server's program is not
// on this machine.
var ErrMissing = errors.New("testcluster: a server's program is missing")

// Start starts a cluster and returns when every server serves.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	c := &Cluster{o: o}
	switch o.Kind {
	case Etcd:
		c.drv = &etcd{}
	case Consul:
		c.drv = &consul{}
	case ZooKeeper:
		c.drv = &zookeeper{}
	case Raft:
		c.drv = &raft{}
	default:
		return nil, fmt.Errorf("testcluster: unknown kind %q", o.Kind)
	}
	if _, err := program(o.Kind, o.Version); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.dir, err = os.MkdirTemp("", "holdfast-"+string(o.Kind)+"-"); err != nil {
		return nil, err
	}
	if err := c.wire(ctx); err != nil {
		return nil, err
	}
	for _, s := range c.servers {
		if err := s.start(false); err != nil {
			return nil, err
		}
	}
	if err := c.Healthy(ctx); err != nil {
		return nil, err
	}
	return c, c.drv.started(ctx, c)
}

// wire makes the network, the servers' places in it and their proxies.
func (c *Cluster) wire(ctx context.Context) error {
	if !c.o.Loopback {
		n, err := fault.NewNetwork(ctx, 2*c.o.Nodes+1) // each may be replaced, and an agent be in front
		if err != nil && !errors.Is(err, fault.ErrUnsupported) {
			return err
		}
		c.network = n
	}
	if c.o.Domain != "" {
		c.names = fault.NewResolver(nil)
	}
	for range c.o.Nodes {
		s, err := c.newServer(ctx)
		if err != nil {
			return err
		}
		c.servers = append(c.servers, s)
	}
	if !c.o.Security {
		return nil
	}
	var addrs []string
	for _, s := range c.servers {
		addrs = append(addrs, s.host.Addr())
	}
	var err error
	c.ca, err = NewAuthority(filepath.Join(c.dir, "tls"), addrs)
	return err
}

func (c *Cluster) newServer(ctx context.Context) (*Server, error) {
	s := &Server{c: c, name: fmt.Sprintf("n%d", c.made), host: fault.Loopback(), ports: c.drv.ports()}
	if c.network != nil {
		s.host = c.network.Host(c.made)
	} else {
		for name := range s.ports {
			p, err := freePort(ctx)
			if err != nil {
				return nil, err
			}
			s.ports[name] = p
		}
	}
	s.label = s.name
	c.made++
	s.dir = filepath.Join(c.dir, s.name)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	listen := s.host.Addr() + ":0"
	if c.network != nil {
		listen = fmt.Sprintf("%s:%d", s.host.Addr(), s.ports["client"]+10000)
	}
	var err error
	s.proxy, err = fault.NewProxy(ctx, listen, s.Direct(), fault.ProxyOptions{Listen: s.host.Listen, Dial: s.host.Dial})
	if err == nil && c.names != nil {
		c.names.Set(s.hostName(), netip.MustParseAddr(s.host.Addr()))
	}
	return s, err
}

// hostName is the proxy's name in the Domain.
func (s *Server) hostName() string { return s.label + "." + s.c.o.Domain }

func freePort(ctx context.Context) (int, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// Endpoint is the address that clients use, which leads through the Proxy: by
// name with a Domain.
func (s *Server) Endpoint() string {
	if s.c.names == nil {
		return s.proxy.Addr()
	}
	_, port, _ := net.SplitHostPort(s.proxy.Addr())
	return net.JoinHostPort(s.hostName(), port)
}

// Unresolve makes the Server's name unknown, and resets the connections there
// are.
func (s *Server) Unresolve() (lift func()) {
	lift = s.c.names.Fail(s.hostName())
	s.proxy.Reset()()
	return lift
}

// Direct is the server's own address for clients.
func (s *Server) Direct() string { return s.addr("client") }

// Proxy is what stands between clients and the server.
func (s *Server) Proxy() *fault.Proxy { return s.proxy }

// Host is where the server runs.
func (s *Server) Host() *fault.Host { return s.host }

func (s *Server) addr(port string) string { return fmt.Sprintf("%s:%d", s.host.Addr(), s.ports[port]) }

// start runs the server's program.
func (s *Server) start(join bool) error {
	cmd, err := s.c.drv.command(context.Background(), s.c, s, join)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.output == nil {
		if s.output, err = os.Create(filepath.Join(s.dir, "output.log")); err != nil {
			return err
		}
	}
	cmd.Stdout, cmd.Stderr = s.output, s.output
	s.proc, err = fault.StartProcess(cmd)
	return err
}

// Process is the server's running program.
func (s *Server) Process() *fault.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() { s.Process().Kill() }

// Stop ends it in an orderly way.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.Process().Terminate(ctx)
}

// Restart starts it again with its data. It does not wait until it serves.
func (s *Server) Restart() error { return s.start(true) }

// Output is what the server has printed.
func (s *Server) Output() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "output.log"))
	return string(b)
}

// Servers are those there are.
func (c *Cluster) Servers() []*Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Server(nil), c.servers...)
}

// Endpoints are the addresses for clients, one a server.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, s := range c.Servers() {
		out = append(out, s.Endpoint())
	}
	return out
}

// Resolver knows the names of a cluster with a Domain.
func (c *Cluster) Resolver() *net.Resolver { return c.names.Net() }

// HasNetwork reports whether packets can be dropped.
func (c *Cluster) HasNetwork() bool { return c.network != nil }

// Authority has the certificates of a cluster with Security.
func (c *Cluster) Authority() *Authority { return c.ca }

// Election is the longest that the servers need for a new leader when the old
// one stops, as their settings have it.
func (c *Cluster) Election() time.Duration { return c.drv.election(c.o) }

// RestartAll kills every server at once and starts them again.
func (c *Cluster) RestartAll(ctx context.Context) error {
	for _, s := range c.Servers() {
		s.Kill()
	}
	for _, s := range c.Servers() {
		if err := s.Restart(); err != nil {
			return err
		}
	}
	return c.Healthy(ctx)
}

// Close ends everything.
func (c *Cluster) Close() {
	for _, s := range append(c.Servers(), c.agents...) {
		if p := s.Process(); p != nil {
			p.Kill()
		}
		if s.proxy != nil {
			s.proxy.Close()
		}
		if s.output != nil {
			s.output.Close()
		}
	}
	if c.network != nil {
		c.network.Close()
	}
	os.RemoveAll(c.dir)
}
