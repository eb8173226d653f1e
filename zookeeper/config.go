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

// Config describes how to reach ZooKeeper. Endpoints and Root are mandatory.
type Config struct {
	// Endpoints are the servers' addresses as host:port. The default port is
	// 2181.
	Endpoints []string
	// Root is the tree to work in, like "pg/main": every key is a node below
	// /pg/main. It replaces the chroot of other clients. Stores with different
	// roots do not see each other.
	Root string
	// User and Password are digest credentials; empty means none. The nodes
	// that the Store makes then belong to that user alone, unless ACL says
	// otherwise.
	User, Password string
	// PasswordFile holds the password and replaces Password. It is read again
	// for each session, and when ZooKeeper denies a permission.
	PasswordFile string
	// AuthFile holds further credentials, one entry a line, like
	// "digest:user:password": a scheme and its credentials. Empty lines and
	// lines that begin with "#" are ignored. It is read again like
	// PasswordFile. While a password changes, it should have the old one and
	// the new one.
	AuthFile string
	// ACL is the ACL of all nodes that the Store makes, like
	// "world:anyone:cdrwa". Several entries are separated by commas. A comma
	// or a backslash in an id must have a backslash before it, as in
	// "x509:CN=a\\,O=b:cdrwa". Empty means all permissions for clients with
	// the Store's credentials, or for all clients if the Store has none. The
	// permissions are the letters c(reate), d(elete), r(ead), w(rite) and
	// a(dminister).
	ACL string
	// Tick is the servers' tickTime, which decides how soon a renewal is
	// proven. Zero means that the Store derives it: half the shortest session
	// that the servers grant or a twentieth of the longest, whichever is
	// longer. That is the tick unless both minSessionTimeout and
	// maxSessionTimeout were lowered. A longer Tick than the servers' is safe.
	Tick time.Duration
	// MinTTL and MaxTTL are the servers' minSessionTimeout and
	// maxSessionTimeout. Zero means that Open, or the first call that needs
	// them, asks the servers.
	MinTTL, MaxTTL time.Duration
	// MaxBuffer is the size in bytes of the longest answer of a server that
	// the Store reads, like jute.maxbuffer of ZooKeeper's own clients. It
	// limits the names of the nodes below one node together. Zero means 64
	// MiB.
	MaxBuffer int
	// TLS enables TLS. Endpoints must then name the servers' secureClientPort.
	// Nil means plain text, unless TLSFiles is set.
	TLS *tls.Config
	// TLSFiles enables TLS with files that are read again for each connection.
	// It replaces TLS. The x509 ACLs of ZooKeeper refer to the certificate
	// that is named here.
	TLSFiles *dcs.TLSFiles
	// Timing holds the times of the programs that use this store. Timeouts and
	// keepalive are derived from it. See dcs.Timing.WithDefaults for zero
	// fields.
	Timing dcs.Timing
	// Slots is the number of Commits in flight at once; further ones wait.
	// Zero means that the number follows the load, from 8 to 64. See
	// [attempt.Options].
	Slots int
	// Resolver looks up host names; nil means the system's. Each address of a
	// name is an endpoint. Names are looked up again when an endpoint fails,
	// and every three RetryTimeouts.
	Resolver *net.Resolver
	// Logger receives the messages for operators; nil disables logging.
	Logger *slog.Logger
	// Observer is notified of every decision about an endpoint; the zero value
	// disables it.
	Observer dcs.Observer

	acl  []zk.ACL
	auth authSource
	tls  *credentials.TLS // nil: plain text
}

const (
	backendName = "zookeeper"
	defaultPort = "2181"

	// ZooKeeper's defaults: tickTime 2 s, sessions of 2 to 20 ticks, and
	// jute.maxbuffer, 1 MiB a packet.
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

// limits are the session timeouts that the servers grant, and their tick.
type limits struct {
	MinTTL, MaxTTL, tick time.Duration
}

func (l limits) caps() dcs.Caps {
	return dcs.Caps{
		MinTTL: l.MinTTL, MaxTTL: l.MaxTTL, MaxValue: maxValue, MaxTxnOps: maxTxnOps, MaxTxnBytes: maxTxnBytes,
		SelfExpiry: true,
	}
}

// limited reports whether the settings name all of the limits.
func (c Config) limited() bool { return c.Tick > 0 && c.MinTTL > 0 && c.MaxTTL > 0 }

// limits returns the configured limits, completed by the servers' defaults.
func (c Config) limits() limits {
	tick := c.Tick
	if tick == 0 {
		tick = defaultTick
	}
	return c.measured(fewestTicks*tick, mostTicks*max(tick, defaultTick))
}

// measured returns the configured limits, completed by the shortest and the
// longest session that the servers granted.
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
		faults.Add("Root %q: the tree /zookeeper is reserved for ZooKeeper itself", c.Root)
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
			faults.Add("%s %v must not be negative", name, d)
		}
	}
	if c.MinTTL > 0 && c.MaxTTL > 0 && c.MinTTL > c.MaxTTL {
		faults.Add("MinTTL %v is above MaxTTL %v", c.MinTTL, c.MaxTTL)
	}
	if c.MaxBuffer < 0 || c.MaxBuffer > 0 && c.MaxBuffer < 1<<20 {
		faults.Add("MaxBuffer %d must be at least %d, the size of the largest value", c.MaxBuffer, 1<<20)
	}
	c.MaxBuffer = cmp.Or(c.MaxBuffer, maxBuffer)
	c.Timing = faults.Timing(c.Timing, c.limits().caps())
	faults.Slots(c.Slots)
	return c, faults.Err(backendName)
}
