package raftstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/watchcache"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// A Client uses a cluster of nodes in other processes as a store. It has no data
// directory and no vote. Callers must make it with NewClient and end it with Close.
// All methods are safe for concurrent use.
type Client struct {
	frontend
	config  ClientConfig
	conns   *transport.Client
	net     clientNetwork // conns, as hooks wrapped it
	pool    *endpoint.Pool
	copy    watchcache.Cache
	end     context.CancelCauseFunc
	closing sync.Once

	leader atomic.Pointer[leaderAt]
	voter  atomic.Pointer[voterAt]

	mu   sync.Mutex
	left string // the address whose stream failed last
}

var (
	_ dcs.Backend = (*Client)(nil)
	_ dcs.Settler = (*Client)(nil)
)

// clientNetwork makes calls to nodes, like a [transport.Client].
type clientNetwork interface {
	Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error)
	Open(ctx context.Context, addr string, body []byte) (stream, error)
}

// stream receives messages, like a [transport.Stream].
type stream interface {
	Recv(ctx context.Context) ([]byte, error)
	Close()
}

// clientConns is a [transport.Client] as a clientNetwork.
type clientConns struct{ *transport.Client }

// Open begins a stream.
func (c clientConns) Open(ctx context.Context, addr string, body []byte) (stream, error) {
	s, err := c.Client.Open(ctx, addr, body)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// NewClient returns a client, which connects in the background. NewClient does not
// wait for a connection. The first call does, within its budget. If settings are
// wrong, the error matches dcs.ErrInvalid and names all of them.
func NewClient(c ClientConfig) (*Client, error) {
	return newClient(c, defaultHooks())
}

func newClient(config ClientConfig, h hooks) (*Client, error) {
	config, err := config.check()
	if err != nil {
		return nil, err
	}
	c := &Client{config: config}
	connections := config.connections("client-" + strings.ToLower(rand.Text()[:10]))
	connections.Address = func(ctx context.Context, addr string) (string, error) { return c.pool.Address(ctx, addr) }
	connections.Host = endpoint.Host
	conns, err := transport.NewClient(connections)
	if err != nil {
		return nil, connectionError(err)
	}
	c.conns = conns
	c.net = h.network(clientConns{conns})
	life, end := context.WithCancelCause(context.Background())
	c.end = end
	c.init(c, life, config.Timing, config.MinTTL)
	c.settlePause = config.Timing.RetryTimeout / 10
	o := endpoint.Options{
		Backend: backendName, Seeds: config.Endpoints, Budget: config.Timing.RetryTimeout,
		Judge: backend.Judge, Probe: c.probe, Logger: config.Logger, Observer: c.copy.Observer(config.Observer.Endpoint),
		Lookup: endpoint.LookupBy(config.Resolver), Drop: func(addr string) { conns.Drop(addr, config.Timing.RetryTimeout) },
	}
	if !config.NoDiscovery {
		o.Topology = c.topology
	}
	c.pool = endpoint.New(o)
	c.copy.Init(c.source())
	c.pool.Start()
	return c, nil
}

// Endpoints returns the known addresses of the nodes, the best first.
func (c *Client) Endpoints() []string { return c.pool.Endpoints() }

// Incarnation names the cluster that the client belongs to, as Status does. It is
// empty before the first connection. Nodes of another incarnation are refused.
func (c *Client) Incarnation() string { return incarnationText(c.conns.Incarnation()) }

// Close ends the client. It is idempotent. Calls in progress return ErrClosed. The
// client's leases expire like those of a process that died.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.end(dcs.ErrClosed)
		c.settles.close()
		c.pool.Close()
		c.copy.Close()
		c.running.Wait()
		c.conns.Close()
	})
	return nil
}

// topology returns the addresses of all nodes, for the Pool. A node that answers at a
// known address keeps it, because it may be the address of a proxy.
func (c *Client) topology(ctx context.Context) ([]endpoint.Listed, error) {
	o := c.ask(ctx, &request{op: opMembership, change: memberRequest{verb: verbList}})
	if o.err != nil {
		return nil, o.err
	}
	var listed []endpoint.Listed
	for _, m := range o.reply.members {
		at := m.Addr
		if known := c.conns.Reaches(m.ID); len(known) > 0 && !slices.Contains(known, at) {
			at = known[0]
		}
		listed = append(listed, endpoint.Listed{Endpoint: at, Server: m.ID})
	}
	slices.SortFunc(listed, func(a, b endpoint.Listed) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	return listed, nil
}

// ready sends one request to the store, for Open.
func (c *Client) ready(ctx context.Context) error {
	return backend.Readable(ctx, c)
}
