package memstore

import (
	"log/slog"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Options configure a Server. The zero value is a store that can do
// everything; each field takes something away, as a foreign store would.
type Options struct {
	// MinTTL and MaxTTL bound what Grant gives; a TTL outside is moved to the
	// nearer one. Zero means 100 ms and 1000 h.
	MinTTL, MaxTTL time.Duration
	// ExpiryFactor is how many times its TTL a lease lives at the server after
	// the last renewal arrived: 2 is what Consul does. Less than 1 means 1.
	ExpiryFactor float64
	// NoRebind makes a put with another binding re-create the entry, with a
	// new Created, as ZooKeeper does.
	NoRebind bool
	// NoSelfExpiry leaves the keys of an expired lease in place until somebody
	// with a live lease is there to remove them. Here the server does that in
	// the participants' name, at once when there is another live lease, else
	// when one is granted or renewed.
	NoSelfExpiry bool
	// LeasesRunOn keeps the leases' time running while the server is Down:
	// those that ended meanwhile are gone when it is Up. Without it every
	// lease begins anew then, as after a change of a store's leader.
	LeasesRunOn bool
	// ModifiedOnly makes the store check conditions on Modified only, as etcd
	// does not but Consul and ZooKeeper do: conditions on Created are resolved
	// by the client.
	ModifiedOnly bool
	// Duplicating says that the network may deliver a request twice, the
	// second time late, and makes the clients count with it: each conflict
	// costs them one more request (attempt.Options.Duplicates). Without it the
	// verb Duplicate breaks the rules that Commits rely on.
	Duplicating bool
	// MaxValue, MaxTxnOps and MaxTxnBytes are declared in Caps. Zero means
	// 1 MiB, 128 and 1.5 MiB.
	MaxValue, MaxTxnOps, MaxTxnBytes int
	// Endpoints is the number of doors that the server has, named "m1", "m2"
	// and so on; a client's hedges and retries go through another one, and a
	// fault can be told to a single one. Zero means 3.
	Endpoints int
	// Latency is what each message takes, there and back. Zero means that a
	// call is answered within itself, without a goroutine.
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
	// Name is what faults and counts call the client. Empty means "c1", "c2"
	// and so on, in the order of opening.
	Name string
	// Root is the tree in which the client works: clients with different
	// roots do not see each other. Empty means "default".
	Root string
	// Endpoints are the doors that the client uses, like "m2"; nil means all.
	Endpoints []string
	// Timing gives RetryTimeout, after which Wait takes a silent store for
	// unavailable, and the defaults of what follows. Zero means
	// [dcs.DefaultTiming].
	Timing dcs.Timing
	// AttemptTimeout bounds one copy of a request. Zero means a fifth of
	// Timing.RetryTimeout.
	AttemptTimeout time.Duration
	// HedgeAfter sends a second copy of a Commit beside one that has been
	// silent for so long. Zero means half of AttemptTimeout, less than zero
	// means never.
	HedgeAfter time.Duration
	// Slots is the number of the client's attempt markers, see
	// [attempt.Options]; zero means its default.
	Slots int
	// Seed makes the client's random choices repeatable (names of leases and
	// markers, back-off). Zero means that they are not.
	Seed uint64
	// Logger is told of switches between endpoints; nil means silent.
	Logger *slog.Logger
	// Observer is told of switches between endpoints.
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
