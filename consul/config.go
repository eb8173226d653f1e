package consul

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Config says how to reach Consul. Endpoints and Root are mandatory.
type Config struct {
	// Endpoints are host:port of Consul's HTTP API, the port 8500 where it is
	// left out: of the agent on this machine, or of several servers or agents.
	// The socket of an agent on this machine is written unix:///run/consul.sock.
	Endpoints []string
	// SRV is a domain whose SRV records name the endpoints, in their place: those
	// of _consul-http._tcp, or of _consul-https._tcp with TLS. New looks them up
	// within RetryTimeout, and they are looked up again from time to time.
	// SRVSuffix follows the service's name after a hyphen.
	SRV, SRVSuffix string
	// PathPrefix comes before the path of each request, like "/consul", for an
	// agent behind a proxy that takes it away.
	PathPrefix string
	// Root is the tree to work in, like "pg/main": every key is kept below
	// "pg/main/". Stores with different roots do not see each other.
	Root string
	// Node is the catalog node that sessions belong to: they end with it. With
	// one endpoint empty means the agent's own node. With several it means a
	// node that only this root has: "holdfast-" and the root, in which "/" is
	// written "--", and any other character that is no lower-case letter and no
	// digit is written "-" and two hexadecimal digits. A node that is not in the
	// catalog is registered, without checks. The node of another root is
	// ErrInvalid.
	Node string
	// Checks are health checks of that node which a session ends with, like
	// "serfHealth". None is the default: a check that fails because of a slow
	// network costs a healthy primary its lock.
	Checks []string
	// Token is the ACL token; empty means TokenFile's.
	Token string
	// TokenFile holds the ACL token. It is read again when Consul refuses the
	// token or denies it a right.
	TokenFile string
	// Datacenter is where the keys and sessions are; empty means the agent's.
	Datacenter string
	// Namespace and Partition are Consul Enterprise's; empty means none.
	Namespace, Partition string
	// LockDelay is how long nobody gets a key after its session was ended by
	// the store. Consul's own default is 15 s, zero here means the shortest,
	// 1 ms: whoever led knows by its own deadline that it does not any more.
	LockDelay time.Duration
	// MinTTL is the servers' session_ttl_min. Zero means that Open asks for it;
	// a Backend that New made says 10 s then, Consul's default.
	MinTTL time.Duration
	// TLS switches TLS on. Nil means plain text, unless TLSFiles is set.
	TLS *tls.Config
	// TLSFiles switches TLS on, in place of TLS, with files that are read again.
	TLSFiles *dcs.TLSFiles
	// Timing is what the programs on this store use; timeouts and keepalive
	// are derived from it. See dcs.Timing.WithDefaults for zero fields.
	Timing dcs.Timing
	// Slots is the number of Commits in flight at once; further ones wait. Zero
	// means that it follows the load, from 8 to 64. See [attempt.Options].
	Slots int
	// Resolver looks up the hosts' names; nil means the system's. Each address of
	// a name is an endpoint. Names are looked up again when an endpoint fails, and
	// every three RetryTimeouts.
	Resolver *net.Resolver
	// Logger gets what an operator needs to know; nil means silent.
	Logger *slog.Logger
	// Observer is told of every decision about an endpoint; the zero value is
	// off.
	Observer dcs.Observer

	tls   *credentials.TLS // nil: plain text
	token *credentials.Secret

	// A test's: what stands between us and the network, who is told of each
	// connection made, and a name for what a call is made for.
	wrap    func(roundTripper) roundTripper
	dialled func(net.Conn)
	name    func(ctx context.Context, op string) context.Context
}

const (
	backendName = "consul"
	defaultPort = "8500"

	// What Consul accepts with its default settings: session_ttl_min 10 s,
	// structs.SessionTTLMax 24 h, 128 operations and 512 KiB of JSON a
	// transaction, in which values are base64.
	defaultMinTTL = 10 * time.Second
	maxTTL        = 24 * time.Hour
	maxValue      = 368 << 10
	maxTxnOps     = 60
	maxTxnBytes   = maxValue + 2<<10

	shortestDelay = time.Millisecond
)

func (c Config) check() (Config, error) {
	var faults backend.Faults
	c.Endpoints, c.Root = c.checkEndpoints(&faults), faults.Root(c.Root)
	if c.PathPrefix = strings.TrimRight(c.PathPrefix, "/"); c.PathPrefix != "" && c.PathPrefix[0] != '/' {
		faults.Add("PathPrefix %q: it begins with a slash, like /consul", c.PathPrefix)
	}
	if c.Node == "" && (len(c.Endpoints) > 1 || c.SRV != "") {
		c.Node = nodeOf(c.Root)
	}
	if c.LockDelay < 0 || c.LockDelay > time.Minute {
		faults.Add("LockDelay %v: it is between 0 and 1m0s, Consul's limit", c.LockDelay)
	}
	c.LockDelay = max(c.LockDelay, shortestDelay)
	if c.MinTTL < 0 || c.MinTTL > maxTTL {
		faults.Add("MinTTL %v: it is between 0 and %v", c.MinTTL, maxTTL)
	}
	if c.MinTTL == 0 {
		c.MinTTL = defaultMinTTL
	}
	faults.Slots(c.Slots)
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	c.token = faults.Secret("Token", c.Token, c.TokenFile, c.Logger)
	c.tls = faults.TLS(c.TLS, c.TLSFiles, c.Logger)
	c.Timing = faults.Timing(c.Timing, c.caps())
	if c.wrap == nil {
		c.wrap = func(r roundTripper) roundTripper { return r }
	}
	if c.name == nil {
		c.name = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	return c, faults.Err(backendName)
}

const unixScheme = endpoint.SocketScheme

// checkEndpoints returns the endpoints with their ports.
func (c Config) checkEndpoints(faults *backend.Faults) []string {
	var hosts, sockets []string
	for _, e := range c.Endpoints {
		path, unix := strings.CutPrefix(strings.TrimSpace(e), unixScheme)
		switch {
		case !unix:
			hosts = append(hosts, e)
		case !strings.HasPrefix(path, "/"):
			faults.Add("Endpoints: the path of a socket is absolute, like unix:///run/consul.sock")
		default:
			sockets = append(sockets, unixScheme+path)
		}
	}
	if len(sockets) == 0 {
		return faults.Servers(hosts, defaultPort, c.SRV, c.SRVSuffix)
	}
	if c.TLS != nil || c.TLSFiles != nil || c.SRV != "" {
		faults.Add("Endpoints: a socket has no TLS and no SRV records")
	}
	if len(hosts) > 0 {
		hosts = faults.Servers(hosts, defaultPort, "", "")
	}
	return append(sockets, hosts...)
}

// srv is the discovery of SRV.
func (c Config) srv() backend.SRV {
	service := "consul-http"
	if c.TLS != nil || c.TLSFiles != nil {
		service = "consul-https"
	}
	return backend.SRV{Service: service, Suffix: c.SRVSuffix, Domain: c.SRV, Resolver: c.Resolver}
}

func (c Config) caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: c.MinTTL, MaxTTL: maxTTL, MaxValue: maxValue, MaxTxnOps: maxTxnOps, MaxTxnBytes: maxTxnBytes,
		Rebind: true, SelfExpiry: true,
	}
}
