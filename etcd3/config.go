package etcd3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Config says how to reach etcd. Endpoints and Root are mandatory.
type Config struct {
	// Endpoints are host:port of some members, the port 2379 where it is left
	// out. The others are learnt from etcd itself.
	Endpoints []string
	// Root is the tree to work in, like "pg/main": every key is kept below
	// "/pg/main/". Stores with different roots do not see each other.
	Root string
	// Username and Password log in where etcd's authentication is on. A new
	// token is fetched inside the budget of the call that finds the old one
	// expired.
	Username, Password string
	// TLS switches TLS on. Nil means plain text.
	TLS *tls.Config
	// Timing is what the programs on this store use; timeouts and keepalive
	// are derived from it. See dcs.Timing.WithDefaults for zero fields.
	Timing dcs.Timing
	// Resolver looks up the hosts' names; nil means the system's.
	Resolver *net.Resolver
	// NoDiscovery keeps to Endpoints and does not ask etcd for its members:
	// for servers whose advertised addresses cannot be reached from here.
	NoDiscovery bool
	// Logger gets what an operator needs to know; nil means silent.
	Logger *slog.Logger
	// Observer is told of every decision about a server; the zero value is off.
	Observer dcs.Observer

	// A test's: options of connections, who is told of each one made, and a
	// name for what a call is made for.
	dial    []grpc.DialOption
	dialled func(net.Conn)
	name    func(ctx context.Context, op string) context.Context
}

const (
	backendName = "etcd3"
	defaultPort = "2379"

	// What etcd accepts with its default settings: --max-request-bytes 1.5 MiB,
	// --max-txn-ops 128, lease.MaxLeaseTTL.
	minTTL      = time.Second
	maxTTL      = 9_000_000_000 * time.Second
	maxValue    = 1 << 20
	maxTxnOps   = 120
	maxTxnBytes = maxValue + 128<<10
	maxRoot     = 256
)

func (c Config) check() (Config, error) {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Endpoints) == 0 {
		add(`Endpoints is empty: name at least one member, like "10.0.0.1:2379"`)
	}
	endpoints := make([]string, 0, len(c.Endpoints))
	for _, e := range c.Endpoints {
		addr, err := address(e)
		if err != nil {
			add("endpoint %q: %w", e, err)
		}
		endpoints = append(endpoints, addr)
	}
	c.Endpoints = endpoints
	c.Root = strings.Trim(c.Root, "/")
	if err := dcs.CheckKey(c.Root); err != nil || len(c.Root) > maxRoot {
		add(`Root %q: it is a key of at most %d bytes, like "pg/main"`, c.Root, maxRoot)
	}
	if (c.Username == "") != (c.Password == "") {
		add("Username and Password belong together: set both or neither")
	}
	c.Timing = c.Timing.WithDefaults()
	if err := c.Timing.Validate(caps); err != nil {
		faults = append(faults, err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.name == nil {
		c.name = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	if len(faults) > 0 {
		return c, &dcs.Error{Backend: backendName, Op: "Open", Kind: dcs.ErrInvalid, Err: errors.Join(faults...)}
	}
	return c, nil
}

// address is host:port with the port filled in.
func address(e string) (string, error) {
	if strings.Contains(e, "/") {
		return e, errors.New("it is host:port, without a scheme or path")
	}
	if _, _, err := net.SplitHostPort(e); err == nil {
		return e, nil
	}
	e = net.JoinHostPort(strings.Trim(e, "[]"), defaultPort)
	host, _, err := net.SplitHostPort(e)
	if err == nil && host == "" {
		err = errors.New("the host is missing")
	}
	return e, err
}

var caps = dcs.Caps{
	MinTTL: minTTL, MaxTTL: maxTTL, MaxValue: maxValue, MaxTxnOps: maxTxnOps, MaxTxnBytes: maxTxnBytes,
	Rebind: true, SelfExpiry: true,
}
