package endpoint

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
	"github.com/holdfast-dcs/holdfast/internal/backoff"
)

// Class separates calls whose latencies differ by nature.
type Class uint8

// The classes.
const (
	Read  Class = iota // answered by the quorum, nothing written
	Write              // waits for disks
	Renew              // a renewal of a lease
	classes
)

// Verdict is what the error of an attempt says. A nil error is an answer.
type Verdict struct {
	// Final says that it is the store's own word, only a no: the call returns
	// it as it is, and the endpoint is well.
	Final bool
	// Unconfirmed says that the endpoint refused the call for a reason that may
	// be its own, such as a token that it does not know yet. The call goes on at
	// the other endpoints. It ends with the refusal once all that can be reached
	// have given one; if another one serves it, those that refused are at fault.
	Unconfirmed bool
	// Refused says that this copy wrote nothing and never will: it never
	// left, or was refused outright. It says nothing of the endpoint.
	Refused bool
	// Local says that the cause is on our side: no endpoint is at fault.
	Local bool
	// Blame says that the endpoint is at fault.
	Blame bool
	// Unreachable says that the endpoint cannot be used at all, such as one that
	// refuses connections. It is ejected at once. Blame is not looked at then.
	Unreachable bool
	// Doubt says that the endpoint lives and could not serve, for a reason that
	// may be the store's, such as an election. It becomes a fault when another
	// endpoint answers what was sent later. Blame is not looked at then.
	Doubt bool
	// Busy is for how long the endpoint asks to be left alone. Calls prefer the
	// others meanwhile. It is no fault.
	Busy time.Duration
	// Throttled says that the endpoint refuses requests because there are too
	// many. While every endpoint does, [Pool.Admit] lets one request a second
	// pass.
	Throttled bool
	// Reason says it in words, for the log and the event. No secrets.
	Reason string
}

// Options configure a Pool. Backend, Seeds, Budget and Judge are required.
type Options struct {
	// Backend is the name in logs and events.
	Backend string
	// Seeds are the endpoints to begin with. They are kept for ever, for the
	// day when every member that was listed has been replaced.
	Seeds []string
	// Budget is what a call may take: Timing.RetryTimeout.
	Budget time.Duration

	// AttemptFloor is the time that one copy gets in the first three rounds,
	// which is when a store elects a leader; later ones are twice as long
	// each. Zero means a sixth of Budget, at most 450 ms. An endpoint that is
	// usually slower gets four times its usual latency.
	AttemptFloor time.Duration
	// HedgeFloor is the shortest silence after which a second copy is sent:
	// zero means 5 ms for reads and renewals; it is doubled for writes. Above
	// it four times the usual latency counts, and the usual deviation.
	HedgeFloor time.Duration
	// ProbeInterval is the pause before an endpoint that was left out is
	// probed; it doubles up to ten times with every failure. Zero means
	// Budget/10, within 100 ms and 1 s.
	ProbeInterval time.Duration
	// SampleInterval is how often an endpoint that is well and not in use is
	// asked, to learn its latency and who leads. Zero means 30 s or Budget,
	// whichever is longer; less than zero means never.
	SampleInterval time.Duration
	// TopologyInterval is how often Topology is asked when nothing is wrong:
	// replacing every member in less time would lose a client that is quiet.
	// Zero means three Budgets.
	TopologyInterval time.Duration

	// DialsPerSecond is how many connections AllowDial allows, after as many
	// again at once; zero means 20, after 10. A store whose leases have
	// connections of their own needs more.
	DialsPerSecond int

	// Judge says what an attempt's error means. The end of the attempt's
	// context is judged by the Pool itself.
	Judge func(error) Verdict
	// Probe asks the quorum through one endpoint. leads says that the
	// endpoint leads the store. Nil means that an endpoint which was left out
	// is tried again with ordinary calls when its pause is over.
	Probe func(ctx context.Context, endpoint string) (leads bool, err error)
	// Topology returns the members' endpoints. Nil means the seeds for ever.
	Topology func(ctx context.Context) ([]Listed, error)
	// Lookup returns the addresses of a host. Each is an endpoint of its own where
	// there are several: see [Pool.Address]. It is called at the start, when an
	// endpoint fails, and every TopologyInterval. Nil means that names are
	// endpoints as they are.
	Lookup LookupFunc
	// Drop gives up the connections to an endpoint, because it was ejected and has
	// been silent for Budget, was removed, or its name has another address. Calls
	// under way there may go on. It is called with no lock held and must not block.
	// Nil means that there are none.
	Drop func(endpoint string)

	// Logger gets one line for each decision; nil means silent.
	Logger *slog.Logger
	// Observer gets one event for each decision. It is called with no lock
	// held, in the order of the decisions, and must not block.
	Observer func(dcs.EndpointEvent)
	// Rand returns a random number in [0, n), for jitter. Nil means
	// math/rand/v2; a test gives a seeded one. It is called under a lock.
	Rand func(n int64) int64
}

// Patience is how many times its own time a write's copy is left alone, within
// the third of what is left of the call that any copy has at most, though
// another one is sent beside it (see [Attempt.Late]): a store that is slow gets
// through with what it was asked, where copies that are given up are only asked
// again.
const Patience = 3

const (
	// maxAttemptFloor leaves time for the next copy: a call whose first copy is
	// sent to a silent server must be answered within 500 ms all the same
	// (conformance, Rotate), also when no hedge may be sent.
	maxAttemptFloor = 450 * time.Millisecond
	minAttempt      = 10 * time.Millisecond
	hedgeFloor      = 5 * time.Millisecond
	// steadyRounds are as long as the first one.
	steadyRounds = 3
	// maxCopies bounds the unanswered copies of one call.
	maxCopies = 3
	// strikesOut is how many times in a row an endpoint may be at fault, in a
	// soft way, before it is left out.
	strikesOut = 2
	// provenBy is how many probes in a row bring it back.
	provenBy = 2
	// Hedges may be hedgeBurst at a time. One that is overtaken by the first
	// copy costs uselessHedge of them; a call earns a hedgeShare of one.
	hedgeShare   = 5
	hedgeBurst   = 5
	uselessHedge = 5
	// dialsPerSecond and dialBurst bound AllowDial, probesPerSecond the
	// background's questions.
	dialsPerSecond  = 20
	dialBurst       = 10
	probesPerSecond = 5
	probeBurst      = 10
	// maxPause is the longest pause between probes, in ProbeIntervals.
	maxPause = 10
)

// betweenRounds is the pause between two rounds.
var betweenRounds = backoff.Exponential{First: 5 * time.Millisecond, Most: 250 * time.Millisecond}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Budget, 10*time.Second)
	def(&o.AttemptFloor, min(maxAttemptFloor, max(o.Budget/6, minAttempt)))
	def(&o.HedgeFloor, hedgeFloor)
	def(&o.ProbeInterval, min(time.Second, max(o.Budget/10, 100*time.Millisecond)))
	def(&o.SampleInterval, max(30*time.Second, o.Budget))
	def(&o.TopologyInterval, 3*o.Budget)
	if o.Judge == nil {
		o.Judge = func(err error) Verdict { return Verdict{Blame: true, Reason: err.Error()} }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Int64N
	}
	return o
}

// ErrOvertaken ends an attempt that was given up because another copy of the
// call had been answered.
var ErrOvertaken = errors.New("another copy was answered")

// bucket is a token bucket.
type bucket struct {
	tokens, burst, perSecond float64
	at                       time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	b.tokens = min(b.burst, b.tokens+b.perSecond*(now-b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
