package etcd3

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// Config says how to reach etcd. Endpoints and Root are mandatory.
type Config struct {
	// Endpoints are host:port of some members, the port 2379 where it is left
	// out. The others are learnt from etcd itself.
	Endpoints []string
	// SRV is a domain whose SRV records name the members, in place of Endpoints:
	// those of _etcd-client._tcp, or of _etcd-client-ssl._tcp with TLS. New looks
	// them up within RetryTimeout. SRVSuffix follows the service's name after a
	// hyphen.
	SRV, SRVSuffix string
	// Root is the tree to work in, like "pg/main": every key is kept below
	// "/pg/main/". Stores with different roots do not see each other.
	Root string
	// Username and Password log in where etcd's authentication is on. A new
	// token is fetched inside the budget of the call that finds the old one
	// expired.
	Username, Password string
	// PasswordFile holds the password, in place of Password. It is read again
	// for each login. While a password changes, logins are tried with the new
	// one and with the last one that etcd accepted, and again for RetryTimeout.
	PasswordFile string
	// Token is a token that etcd accepts as it is, such as a signed one, in place
	// of Username and Password. It is not renewed.
	Token string
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
	// NoDiscovery keeps to Endpoints and does not ask etcd for its members:
	// for servers whose advertised addresses cannot be reached from here.
	NoDiscovery bool
	// DialOptions are options of gRPC's connections, such as interceptors. Our own
	// options win where both set the same thing.
	DialOptions []grpc.DialOption
	// Logger gets what an operator needs to know; nil means silent.
	Logger *slog.Logger
	// Observer is told of every decision about a server; the zero value is off.
	Observer dcs.Observer

	tls      *credentials.TLS // nil: plain text
	password *credentials.Secret

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
)

func (c Config) check() (Config, error) {
	var faults backend.Faults
	c.Endpoints, c.Root = faults.Servers(c.Endpoints, defaultPort, c.SRV, c.SRVSuffix), faults.Root(c.Root)
	faults.Slots(c.Slots)
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	if (c.Username == "") != (c.Password == "" && c.PasswordFile == "") {
		faults.Add("Username and Password or PasswordFile belong together: set both or neither")
	}
	if c.Token != "" && c.Username != "" {
		faults.Add("Token and Username exclude each other: set one of them")
	}
	c.password = faults.Secret("Password", c.Password, c.PasswordFile, c.Logger)
	c.tls = faults.TLS(c.TLS, c.TLSFiles, c.Logger)
	c.Timing = faults.Timing(c.Timing, caps)
	if c.name == nil {
		c.name = func(ctx context.Context, _ string) context.Context { return ctx }
	}
	return c, faults.Err(backendName)
}

// srv is the discovery of SRV.
func (c Config) srv() backend.SRV {
	service := "etcd-client"
	if c.TLS != nil || c.TLSFiles != nil {
		service = "etcd-client-ssl"
	}
	return backend.SRV{Service: service, Suffix: c.SRVSuffix, Domain: c.SRV, Resolver: c.Resolver}
}

var caps = dcs.Caps{
	MinTTL: minTTL, MaxTTL: maxTTL, MaxValue: maxValue, MaxTxnOps: maxTxnOps, MaxTxnBytes: maxTxnBytes,
	Rebind: true, SelfExpiry: true,
}
