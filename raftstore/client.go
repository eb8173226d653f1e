package raftstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
	"github.com/holdfast-dcs/holdfast/internal/remote"
	"github.com/holdfast-dcs/holdfast/raftstore/internal/transport"
)

// Client is a store on a cluster of nodes in other processes. It has no data
// directory and no vote. Make it with NewClient; close it with Close. All methods
// are safe for concurrent use.
type Client struct {
	frontend
	config  ClientConfig
	conns   *transport.Client
	net     clientNetwork // conns, or what a test made of it
	pool    *endpoint.Pool
	copy    remote.Replica
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

// clientNetwork makes calls to nodes. It is a [transport.Client] but for tests.
type clientNetwork interface {
	Call(ctx context.Context, addr string, op byte, body []byte) ([]byte, error)
	Open(ctx context.Context, addr string, body []byte) (stream, error)
}

// stream is a [transport.Stream] but for tests.
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

// NewClient returns a client. It starts to connect in the background and does not
// wait for it: the first call does, within its budget. Settings that cannot work
// are ErrInvalid, all of them at once.
func NewClient(c ClientConfig) (*Client, error) {
	return newClientOn(c, func(n clientNetwork) clientNetwork { return n })
}

func newClientOn(config ClientConfig, wrap func(clientNetwork) clientNetwork) (*Client, error) {
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
	c.net = wrap(clientConns{conns})
	life, end := context.WithCancelCause(context.Background())
	c.end = end
	c.init(c, life, config.Timing, config.MinTTL)
	c.settlePause = config.Timing.RetryTimeout / 10
	c.copy.Init(c.source())
	o := endpoint.Options{
		Backend: backendName, Seeds: config.Endpoints, Budget: config.Timing.RetryTimeout,
		Judge: remote.Judge, Probe: c.probe, Logger: config.Logger, Observer: c.copy.Observer(config.Observer.Endpoint),
		Lookup: endpoint.LookupBy(config.Resolver), Drop: func(addr string) { conns.Drop(addr, config.Timing.RetryTimeout) },
	}
	if !config.NoDiscovery {
		o.Topology = c.topology
	}
	c.pool = endpoint.New(o)
	c.pool.Start()
	return c, nil
}

// Endpoints returns the addresses of the nodes that are known, the best first.
func (c *Client) Endpoints() []string { return c.pool.Endpoints() }

// Incarnation names the cluster that the client belongs to, as Status does. It is
// empty before the first connection. Nodes of another incarnation are refused.
func (c *Client) Incarnation() string { return incarnationText(c.conns.Incarnation()) }

// Close ends the client. It is idempotent; calls under way return ErrClosed. The
// client's leases run out as those of a process that died.
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

// topology returns the addresses of all nodes, for the Pool. A node that answers
// at an address that is known keeps it: it may be the one of a proxy.
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

// ready asks the store one question, for Open.
func (c *Client) ready(ctx context.Context) error {
	_, err := c.Get(ctx, "holdfast")
	if errors.Is(err, dcs.ErrNotFound) {
		return nil
	}
	return err
}
