// Package testcluster starts real clusters of etcd, Consul, ZooKeeper and the
// embedded store for tests and benchmarks, and injects faults into them. By default a
// cluster has three servers on this machine, each behind a proxy. Where root and ip(8)
// allow it, each server has its own network, in which packets can be dropped. All
// processes of a cluster end with it, even if the process of the test is killed.
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
	"github.com/holdfast-dcs/holdfast/internal/testcerts"
)

// Kind is the kind of a store.
type Kind string

// The kinds.
const (
	Etcd      Kind = "etcd"
	Consul    Kind = "consul"
	ZooKeeper Kind = "zookeeper"
	// Raft is the embedded store. Its processes are the test binary itself, whose
	// TestMain must call [RaftNode.Main].
	Raft Kind = "raft"
)

// Options configures a Cluster. Kind is required.
type Options struct {
	Kind Kind
	// Version is the version of the servers. Empty means the pinned one. For etcd it
	// may also be "3.5".
	Version string
	// Nodes is the number of servers. Zero means three.
	Nodes int
	// Election is the store's election timeout. Zero means 500 ms for etcd. The
	// election of a new leader may take twice as long.
	Election time.Duration
	// Loopback gives the servers loopback addresses even where they could have their
	// own network.
	Loopback bool
	// Security switches on mutual TLS, and also users (etcd) or ACLs with Token as
	// the management token (Consul). The digest authentication of ZooKeeper needs no
	// setting of the servers.
	Security bool
	// Domain gives the proxies of the servers names below it. Only
	// [Cluster.Resolver] resolves them, and etcd advertises them.
	Domain string
	// Defaults keeps the store's default times. For Consul these are the minimum
	// session TTL and the time before a new server votes. For ZooKeeper they are the
	// tick and the limits that are counted in ticks.
	Defaults bool
	// Flags are added to the command line of each server (etcd and Consul), or to
	// its configuration as lines (ZooKeeper).
	Flags []string
}

// Cluster is a running cluster.
type Cluster struct {
	o       Options
	dir     string
	network *fault.Network // nil on loopback addresses
	drv     driver
	ca      *testcerts.Authority
	names   *fault.Resolver // with a Domain

	mu        sync.Mutex
	servers   []*Server
	agents    []*Server // serve clients and are not members
	made      int       // number of servers created so far, for names
	unhealthy bool      // Shared must start another cluster
}

// Server is one server of a Cluster.
type Server struct {
	c     *Cluster
	name  string
	label string // first label of its name in the Domain
	agent bool   // a Consul agent in front of the servers
	host  *fault.Host
	dir   string
	ports map[string]int
	proxy *fault.Proxy

	mu     sync.Mutex
	proc   *fault.Process
	output *os.File
	off    time.Duration // offset of its wall clock
}

// driver implements the operations that differ between the kinds.
type driver interface {
	// ports returns the ports that a server needs by name. "client" must be one.
	ports() map[string]int
	// command returns the command that runs s. If join is set, s joins the running
	// cluster.
	command(ctx context.Context, c *Cluster, s *Server, join bool) (*exec.Cmd, error)
	// ready returns an error unless the server serves, and reports whether it leads.
	ready(ctx context.Context, c *Cluster, s *Server) (leads bool, err error)
	// started is called once every server is ready. It creates users and rights.
	started(ctx context.Context, c *Cluster) error
	// election returns the longest time that the servers need to elect a leader.
	election(o Options) time.Duration
}

// ErrMissing is wrapped by the error of Start if the program of a server is not
// installed.
var ErrMissing = errors.New("testcluster: the program of a server is missing")

// Start starts a cluster and returns once every server serves. The caller must call
// Close.
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

// wire creates the network, the servers in it and their proxies.
func (c *Cluster) wire(ctx context.Context) error {
	if !c.o.Loopback {
		n, err := fault.NewNetwork(ctx, 2*c.o.Nodes+1) // each may be replaced once, and there may be an agent
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
	var err error
	c.ca, err = testcerts.NewAuthority(filepath.Join(c.dir, "tls"), c.Hosts())
	return err
}

func (c *Cluster) newServer(ctx context.Context) (*Server, error) {
	s := &Server{c: c, name: fmt.Sprintf("n%d", c.made), host: fault.Loopback(), ports: c.drv.ports()}
	s.ports[proxyPort] = s.ports["client"] + 10000
	if c.network != nil {
		s.host = c.network.Host(c.made)
	} else if err := s.choosePorts(ctx); err != nil {
		return nil, err
	}
	s.label = s.name
	c.made++
	s.dir = filepath.Join(c.dir, s.name)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	s.proxy, err = fault.NewProxy(ctx, s.addr(proxyPort), s.Direct(), fault.ProxyOptions{Listen: s.host.Listen, Dial: s.host.Dial})
	if err == nil && c.names != nil {
		c.names.Set(s.hostName(), netip.MustParseAddr(s.host.Addr()))
	}
	return s, err
}

// proxyPort is the name of the port of a server's proxy.
const proxyPort = "proxy"

// choosePorts replaces the ports of a server on a loopback address with free ones.
func (s *Server) choosePorts(ctx context.Context) error {
	free, err := s.host.FreePorts(ctx, len(s.ports))
	if err != nil {
		return err
	}
	for name := range s.ports {
		s.ports[name], free = free[0], free[1:]
	}
	return nil
}

// hostName returns the name of the proxy in the Domain.
func (s *Server) hostName() string { return s.label + "." + s.c.o.Domain }

// Endpoint returns the address for clients, which is that of the Proxy. With a Domain
// it has the name of the server.
func (s *Server) Endpoint() string {
	if s.c.names == nil {
		return s.proxy.Addr()
	}
	_, port, _ := net.SplitHostPort(s.proxy.Addr())
	return net.JoinHostPort(s.hostName(), port)
}

// Unresolve makes lookups of the server's name fail until lift is called, and resets
// its connections.
func (s *Server) Unresolve() (lift func()) {
	lift = s.c.names.Fail(s.hostName())
	s.proxy.Reset()()
	return lift
}

// Direct returns the address of the server itself, without the Proxy.
func (s *Server) Direct() string { return s.addr("client") }

// Proxy returns the proxy between clients and the server.
func (s *Server) Proxy() *fault.Proxy { return s.proxy }

// Host returns the host on which the server runs.
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

// Process returns the latest process of the server, or nil before it was started.
func (s *Server) Process() *fault.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() { s.Process().Kill() }

// Stop ends the server with an orderly shutdown.
func (s *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.Process().Terminate(ctx)
}

// Restart starts the server again with its data. It does not wait until the server
// serves.
func (s *Server) Restart() error { return s.start(true) }

// Output returns the output of the server.
func (s *Server) Output() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "output.log"))
	return string(b)
}

// Servers returns the current servers.
func (c *Cluster) Servers() []*Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Server(nil), c.servers...)
}

// Endpoints returns the addresses for clients, one for each server.
func (c *Cluster) Endpoints() []string {
	var out []string
	for _, s := range c.Servers() {
		out = append(out, s.Endpoint())
	}
	return out
}

// Hosts returns the IP addresses of the current servers.
func (c *Cluster) Hosts() []string {
	var out []string
	for _, s := range c.Servers() {
		out = append(out, s.host.Addr())
	}
	return out
}

// Resolver returns a resolver for the names of a cluster with a Domain.
func (c *Cluster) Resolver() *net.Resolver { return c.names.Net() }

// HasNetwork reports whether packets can be dropped.
func (c *Cluster) HasNetwork() bool { return c.network != nil }

// Authority returns the issuer of the certificates of a cluster with Security.
func (c *Cluster) Authority() *testcerts.Authority { return c.ca }

// Election returns the longest time that the servers need to elect a new leader after
// the old one has stopped, according to their settings.
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

// Close ends all processes and removes all files of the cluster.
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
