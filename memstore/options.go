package memstore

import (
	"log/slog"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Options configure a Server. The zero value is a store with every capability. Each field
// removes one, so that the store behaves like a foreign one.
type Options struct {
	// MinTTL and MaxTTL bound the TTL of a Grant. A TTL outside is moved to the
	// nearer bound. Zero means 100 ms and 1000 h.
	MinTTL, MaxTTL time.Duration
	// ExpiryFactor is how many times its TTL a lease lives at the server after the
	// last renewal arrived. Consul's factor is 2. Less than 1 means 1.
	ExpiryFactor float64
	// NoRebind makes a put with another binding re-create the entry with a new
	// Created, like ZooKeeper.
	NoRebind bool
	// NoSelfExpiry leaves the keys of an expired lease in place until another client
	// with a live lease can remove them. Here the server removes them on behalf of
	// the clients: at once if there is another live lease, and otherwise when a lease
	// is granted or renewed.
	NoSelfExpiry bool
	// LeasesRunOn keeps the time of the leases running while the server is Down.
	// Leases that end meanwhile are gone when it is Up again. Without it every lease
	// then has its whole time again, as after a change of a store's leader.
	LeasesRunOn bool
	// ModifiedOnly makes the store check conditions on Modified only, like Consul and
	// ZooKeeper and unlike etcd. The client then resolves conditions on Created.
	ModifiedOnly bool
	// Duplicating reports that the network may deliver a request twice, the second
	// time late. The clients then expect it, and each conflict costs them one more
	// request (attempt.Options.Duplicates). Without it, the fault Duplicate breaks the
	// rules that Commits rely on.
	Duplicating bool
	// MaxValue, MaxTxnOps and MaxTxnBytes are declared in Caps. Zero means
	// 1 MiB, 128 and 1.5 MiB.
	MaxValue, MaxTxnOps, MaxTxnBytes int
	// Endpoints is the number of the server's endpoints, named "m1", "m2" and so on. A
	// client's hedges and retries go through another one, and a fault can apply to a
	// single one. Zero means 3.
	Endpoints int
	// Latency is the time that each message takes in each direction. Zero means that
	// the server answers a call directly, without a goroutine.
	Latency time.Duration
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if o.MinTTL <= 0 {
		o.MinTTL = 100 * time.Millisecond
	}
	if o.MaxTTL <= 0 {
		o.MaxTTL = 1000 * time.Hour
	}
	o.MaxTTL = max(o.MaxTTL, o.MinTTL)
	o.ExpiryFactor = max(o.ExpiryFactor, 1)
	def(&o.MaxValue, 1<<20)
	def(&o.MaxTxnOps, 128)
	def(&o.MaxTxnBytes, 3<<19)
	def(&o.Endpoints, 3)
	return o
}

// expiry returns how long a lease of ttl lives after a renewal arrived.
func (o Options) expiry(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl) * o.ExpiryFactor)
}

// ClientOptions configure one client of a Server.
type ClientOptions struct {
	// Name is the client's name in faults and counts. Empty means "c1", "c2" and so
	// on, in the order of opening.
	Name string
	// Root is the client's tree. Clients with different roots do not see each other.
	// Empty means "default".
	Root string
	// Endpoints are the endpoints that the client uses, like "m2". Nil means all.
	Endpoints []string
	// Timing sets RetryTimeout, after which Wait reports a silent store as
	// unavailable, and the defaults of the following fields. Zero means
	// [dcs.DefaultTiming].
	Timing dcs.Timing
	// AttemptTimeout bounds one copy of a request. Zero means a fifth of
	// Timing.RetryTimeout.
	AttemptTimeout time.Duration
	// HedgeAfter is the time after which a second copy of a Commit is sent while the
	// first one is unanswered. Zero means half of AttemptTimeout, and less than zero
	// means never.
	HedgeAfter time.Duration
	// Slots is the number of the client's attempt markers (see [attempt.Options]).
	// Zero means the default of that.
	Slots int
	// Seed makes the client's random choices repeatable, which are the names of
	// leases and markers and the back-off. Zero means that they are not.
	Seed uint64
	// Logger receives switches between endpoints. Nil discards them.
	Logger *slog.Logger
	// Observer receives switches between endpoints.
	Observer dcs.Observer
}

func (o ClientOptions) withDefaults() ClientOptions {
	if o.Root == "" {
		o.Root = "default"
	}
	o.Timing = o.Timing.WithDefaults()
	if o.AttemptTimeout <= 0 {
		o.AttemptTimeout = o.Timing.RetryTimeout / 5
	}
	if o.HedgeAfter == 0 {
		o.HedgeAfter = o.AttemptTimeout / 2
	}
	o.Logger, o.Observer = dcs.Detached(o.Logger, o.Observer)
	return o
}
