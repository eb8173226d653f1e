package consul

import (
	"crypto/tls"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
	"github.com/holdfast-dcs/holdfast/internal/endpoint"
)

// Config configures a [Backend]. Endpoints, or SRV in their place, and Root are
// required.
type Config struct {
	// Endpoints are the addresses of Consul's HTTP API as host:port. They are that of
	// the agent on this machine, or those of several servers or agents. The default
	// port is 8500. The socket of an agent on this machine is written
	// unix:///run/consul.sock.
	Endpoints []string
	// SRV is a domain whose SRV records name the endpoints, in place of Endpoints. The
	// records are those of _consul-http._tcp, or of _consul-https._tcp with TLS. New
	// looks them up within RetryTimeout, and they are looked up again from time to
	// time. SRVSuffix is appended to the name of the service after a hyphen.
	SRV, SRVSuffix string
	// PathPrefix is put before the path of each request, like "/consul", for an agent
	// behind a proxy that removes it.
	PathPrefix string
	// Root is the tree of the Store, like "pg/main". Every key is stored below
	// "pg/main/". Stores with different roots do not see each other.
	Root string
	// Node is the catalog node that sessions belong to. They end when the node is
	// deregistered. With one endpoint, empty means the agent's own node. With several,
	// empty means a node that only this root has. Its name is "holdfast-" and the
	// root, in which "/" is replaced by "--", and any other character that is neither
	// a lower-case letter nor a digit by "-" and two hexadecimal digits. A node that is
	// not in the catalog is registered without checks. The node of another root is
	// ErrInvalid.
	Node string
	// Checks are the health checks of Node, like "serfHealth", whose failure ends a
	// session. The default is none, because a check that fails on a slow network takes
	// the lock from a healthy primary.
	Checks []string
	// Token is the ACL token. Empty means the token in TokenFile.
	Token string
	// TokenFile holds the ACL token. It is read again when Consul refuses the
	// token or denies it a permission.
	TokenFile string
	// Datacenter is the datacenter of the keys and sessions. Empty means the agent's.
	Datacenter string
	// Namespace and Partition require Consul Enterprise. Empty means none.
	Namespace, Partition string
	// LockDelay is the time for which no session can lock a key after Consul ended the
	// session that held it. Zero means the minimum of 1 ms. A Hold ends at its own deadline,
	// and does not need Consul's own default of 15 s.
	LockDelay time.Duration
	// MinTTL is the servers' session_ttl_min. Zero means that Open reads it. A Backend
	// made by New then starts with 10 s, Consul's default.
	MinTTL time.Duration
	// TLS enables TLS. Nil means plain text, unless TLSFiles is set.
	TLS *tls.Config
	// TLSFiles enables TLS, in place of TLS, with files that are read again for each
	// connection.
	TLSFiles *dcs.TLSFiles
	// Timing has the TTL, LoopWait and RetryTimeout of the programs on this store.
	// Timeouts and keepalive are derived from it. See dcs.Timing.WithDefaults for the
	// values of zero fields.
	Timing dcs.Timing
	// Slots is the number of Commits that may be in flight at once. Further ones wait.
	// Zero means that the number follows the load, from 8 to 64. See [attempt.Options].
	Slots int
	// Resolver looks up the names of hosts. Nil means the system's resolver. Each
	// address of a name is an endpoint. Names are looked up again when an endpoint
	// fails, and every three RetryTimeouts.
	Resolver *net.Resolver
	// Logger receives the records that an operator needs. Nil means no logging.
	Logger *slog.Logger
	// Observer is notified of every decision about an endpoint. The zero value ignores
	// them.
	Observer dcs.Observer

	tls   *credentials.TLS // nil: plain text
	token *credentials.Secret
}

const (
	backendName = "consul"
	defaultPort = "8500"

	// The limits of Consul's default settings are session_ttl_min 10 s,
	// structs.SessionTTLMax 24 h, and 128 operations and 512 KiB of JSON, in which
	// values are base64, in a transaction.
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
		faults.Add("PathPrefix %q must begin with a slash, like /consul", c.PathPrefix)
	}
	if c.Node == "" && (len(c.Endpoints) > 1 || c.SRV != "") {
		c.Node = nodeOf(c.Root)
	}
	if c.LockDelay < 0 || c.LockDelay > time.Minute {
		faults.Add("LockDelay %v must be between 0 and 1m0s, Consul's limit", c.LockDelay)
	}
	c.LockDelay = max(c.LockDelay, shortestDelay)
	if c.MinTTL < 0 || c.MinTTL > maxTTL {
		faults.Add("MinTTL %v must be between 0 and %v", c.MinTTL, maxTTL)
	}
	if c.MinTTL == 0 {
		c.MinTTL = defaultMinTTL
	}
	faults.Slots(c.Slots)
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	c.token = faults.Secret("Token", c.Token, c.TokenFile, c.Logger)
	c.tls = faults.TLS(c.TLS, c.TLSFiles, c.Logger)
	c.Timing = faults.Timing(c.Timing, c.caps())
	return c, faults.Err(backendName)
}

const unixScheme = endpoint.SocketScheme

// checkEndpoints returns the endpoints with ports, and adds their faults.
func (c Config) checkEndpoints(faults *backend.Faults) []string {
	var hosts, sockets []string
	for _, e := range c.Endpoints {
		path, unix := strings.CutPrefix(strings.TrimSpace(e), unixScheme)
		switch {
		case !unix:
			hosts = append(hosts, e)
		case !strings.HasPrefix(path, "/"):
			faults.Add("Endpoints: the path of a socket must be absolute, like unix:///run/consul.sock")
		case !slices.Contains(sockets, unixScheme+path):
			sockets = append(sockets, unixScheme+path)
		}
	}
	if len(sockets) == 0 {
		return faults.Servers(hosts, defaultPort, c.SRV, c.SRVSuffix)
	}
	if c.TLS != nil || c.TLSFiles != nil || c.SRV != "" {
		faults.Add("Endpoints: a socket cannot be combined with TLS or SRV: leave TLS, TLSFiles and SRV empty")
	}
	if len(hosts) > 0 {
		hosts = faults.Servers(hosts, defaultPort, "", "")
	}
	return append(sockets, hosts...)
}

// srv returns the discovery of the endpoints by SRV records.
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
