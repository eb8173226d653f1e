package zookeeper

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backend"
	"github.com/holdfast-dcs/holdfast/internal/credentials"
)

// Config says how to reach ZooKeeper. Endpoints and Root are mandatory.
type Config struct {
	// Endpoints are host:port of the servers, the port 2181 where it is left
	// out.
	Endpoints []string
	// Root is the tree to work in, like "pg/main": every key is a node below
	// /pg/main. It takes the place of what other clients call a chroot. Stores
	// with different roots do not see each other.
	Root string
	// User and Password are digest credentials; empty means none. What we make
	// then belongs to that user alone, unless ACL says otherwise.
	User, Password string
	// PasswordFile holds the password, in place of Password. It is read again
	// for each session, and when ZooKeeper denies a right.
	PasswordFile string
	// AuthFile holds further credentials, one entry a line, like
	// "digest:user:password": a scheme and its credentials. Empty lines and those
	// that begin with "#" are left out. It is read again like PasswordFile.
	// While a password changes, it can have the old one and the new one.
	AuthFile string
	// ACL is that of all that we make, like "world:anyone:cdrwa", several with
	// commas between them. A comma or a backslash in an id is written with a
	// backslash before it, as in "x509:CN=a\\,O=b:cdrwa". Empty means everything
	// for clients with our credentials, or for all clients where there are none.
	// Permissions are the letters c(reate), d(elete), r(ead), w(rite) and
	// a(dminister).
	ACL string
	// Tick is the servers' tickTime, which decides how soon a renewal is
	// proven. Zero means that it is measured: half the shortest session that
	// the servers grant or a twentieth of the longest, whichever is longer,
	// which is the tick unless both minSessionTimeout and maxSessionTimeout
	// were lowered. A longer one than the servers' is safe.
	Tick time.Duration
	// MinTTL and MaxTTL are the servers' minSessionTimeout and
	// maxSessionTimeout. Zero means that the first call that needs them, or
	// Open, asks for them.
	MinTTL, MaxTTL time.Duration
	// MaxBuffer is the longest answer of a server, in bytes, that is read, like
	// jute.maxbuffer of ZooKeeper's own clients. It bounds the names of the nodes
	// below one node together. Zero means 64 MiB.
	MaxBuffer int
	// TLS switches TLS on: Endpoints are then of the servers' secureClientPort.
	// Nil means plain text, unless TLSFiles is set.
	TLS *tls.Config
	// TLSFiles switches TLS on, in place of TLS, with files that are read again.
	// ZooKeeper's x509 ACLs are about the certificate that is named there.
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

	acl  []zk.ACL
	auth authSource
	tls  *credentials.TLS // nil: plain text

	// A test's: what stands between a call and the library, and who is told of
	// each connection made.
	tap     tap
	dialled func(net.Conn)
}

const (
	backendName = "zookeeper"
	defaultPort = "2181"

	// What ZooKeeper does by default: tickTime 2 s, sessions of 2 to 20 ticks,
	// and jute.maxbuffer, 1 MiB a packet.
	defaultTick  = 2 * time.Second
	fewestTicks  = 2
	mostTicks    = 20
	maxFrame     = 1<<20 + 64<<10
	maxBuffer    = 64 << 20
	maxValue     = 1<<20 - 64<<10
	maxTxnOps    = 64
	maxTxnBytes  = maxValue + 2<<10
	shortestTick = time.Millisecond
)

// limits are what the servers grant.
type limits struct {
	MinTTL, MaxTTL, tick time.Duration
}

func (l limits) caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: l.MinTTL, MaxTTL: l.MaxTTL, MaxValue: maxValue, MaxTxnOps: maxTxnOps, MaxTxnBytes: maxTxnBytes,
		SelfExpiry: true,
	}
}

// limited reports whether the settings say all of it.
func (c Config) limited() bool { return c.Tick > 0 && c.MinTTL > 0 && c.MaxTTL > 0 }

// limits are the settings', and for what they leave out the servers' defaults.
func (c Config) limits() limits {
	tick := c.Tick
	if tick == 0 {
		tick = defaultTick
	}
	return c.measured(fewestTicks*tick, mostTicks*max(tick, defaultTick))
}

// measured are the settings', and for what they leave out what the servers
// granted.
func (c Config) measured(shortest, longest time.Duration) limits {
	l := limits{c.MinTTL, c.MaxTTL, c.Tick}
	if l.MinTTL == 0 {
		l.MinTTL = shortest
	}
	if l.MaxTTL == 0 {
		l.MaxTTL = longest
	}
	if l.tick == 0 {
		l.tick = max(shortest/fewestTicks, longest/mostTicks, shortestTick)
	}
	return l
}

func (c Config) check() (Config, error) {
	var faults backend.Faults
	c.Endpoints, c.Root = faults.Servers(c.Endpoints, defaultPort, "", ""), faults.Root(c.Root)
	if c.Root == "zookeeper" || strings.HasPrefix(c.Root, "zookeeper/") {
		faults.Add("Root %q: what is below /zookeeper is ZooKeeper's own", c.Root)
	}
	c.Logger, c.Observer = dcs.Detached(c.Logger, c.Observer)
	c.auth = c.checkAuth(&faults)
	c.tls = faults.TLS(c.TLS, c.TLSFiles, c.Logger)
	var err error
	if c.acl, err = parseACL(c.ACL, c.auth.any()); err != nil {
		faults.Add("ACL: %w", err)
	}
	for name, d := range map[string]time.Duration{"Tick": c.Tick, "MinTTL": c.MinTTL, "MaxTTL": c.MaxTTL} {
		if d < 0 {
			faults.Add("%s %v: it is not negative", name, d)
		}
	}
	if c.MinTTL > 0 && c.MaxTTL > 0 && c.MinTTL > c.MaxTTL {
		faults.Add("MinTTL %v is above MaxTTL %v", c.MinTTL, c.MaxTTL)
	}
	if c.MaxBuffer < 0 || c.MaxBuffer > 0 && c.MaxBuffer < 1<<20 {
		faults.Add("MaxBuffer %d: it is at least %d, the size of the largest value", c.MaxBuffer, 1<<20)
	}
	c.MaxBuffer = cmp.Or(c.MaxBuffer, maxBuffer)
	c.Timing = faults.Timing(c.Timing, c.limits().caps())
	faults.Slots(c.Slots)
	if c.tap == nil {
		c.tap = straight
	}
	return c, faults.Err(backendName)
}
