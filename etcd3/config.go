package etcd3

import (
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// Config configures a [Backend]. Endpoints, or SRV in their place, and Root are
// required.
type Config struct {
	// Endpoints are the addresses of some members as host:port. The default port is
	// 2379. The other members are discovered from etcd.
	Endpoints []string
	// SRV is a domain whose SRV records name the members, in place of Endpoints. The
	// records are those of _etcd-client._tcp, or of _etcd-client-ssl._tcp with TLS.
	// New looks them up within RetryTimeout. SRVSuffix is appended to the name of the
	// service after a hyphen.
	SRV, SRVSuffix string
	// Root is the tree of the Store, like "pg/main". Every key is stored below
	// "/pg/main/". Stores with different roots do not see each other.
	Root string
	// Username and Password log in if etcd's authentication is enabled. A new
	// token is fetched inside the budget of the call that finds the old one
	// expired.
	Username, Password string
	// PasswordFile holds the password, in place of Password. It is read again for each
	// login. While a password changes, logins try the new one and the last one that
	// etcd accepted, and are repeated for RetryTimeout.
	PasswordFile string
	// Token is a token that etcd accepts as it is, such as a signed one, in place
	// of Username and Password. It is not renewed.
	Token string
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
	// NoDiscovery restricts the Backend to Endpoints, without asking etcd for its
	// members. Set it if the advertised addresses of the members cannot be reached
	// from the client.
	NoDiscovery bool
	// DialOptions are options of the gRPC connections, such as interceptors. The
	// Backend's own options take precedence.
	DialOptions []grpc.DialOption
	// Logger receives the records that an operator needs. Nil means no logging.
	Logger *slog.Logger
	// Observer is notified of every decision about a server. The zero value ignores
	// them.
	Observer dcs.Observer

	tls      *credentials.TLS // nil: plain text
	password *credentials.Secret
}

const (
	backendName = "etcd3"
	defaultPort = "2379"

	// The limits of etcd's default settings are --max-request-bytes 1.5 MiB,
	// --max-txn-ops 128 and lease.MaxLeaseTTL.
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
		faults.Add("Username and Password or PasswordFile must be set together: set both or neither")
	}
	if c.Token != "" && c.Username != "" {
		faults.Add("Token and Username exclude each other: set one of them")
	}
	c.password = faults.Secret("Password", c.Password, c.PasswordFile, c.Logger)
	c.tls = faults.TLS(c.TLS, c.TLSFiles, c.Logger)
	c.Timing = faults.Timing(c.Timing, caps)
	return c, faults.Err(backendName)
}

// srv returns the discovery of the members by SRV records.
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
