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

// Class distinguishes calls with different usual latencies.
type Class uint8

// The classes.
const (
	Read  Class = iota // answered by the quorum, writes nothing; the answer is small
	Write              // waits for the disks of a quorum
	Renew              // renews a lease
	List               // a Read of a tree, which takes longer the larger the tree is
	classes
)

// Verdict classifies the error of an attempt. A nil error is an answer.
type Verdict struct {
	// Final reports that the error is a definite answer of the store. The call
	// returns it unchanged, and the endpoint is healthy.
	Final bool
	// Unconfirmed reports that the endpoint refused the call for a reason that may
	// be limited to that endpoint, such as a token that it does not know yet. The
	// call continues at the other endpoints. It ends with the refusal once every
	// endpoint that can be reached has refused it. If one of them serves it, the
	// endpoints that refused are at fault.
	Unconfirmed bool
	// Refused reports that this copy wrote nothing and never will, because it was
	// not sent or was rejected. It does not concern the health of the endpoint.
	Refused bool
	// Local reports that the cause is in this process and no endpoint is at fault.
	Local bool
	// Blame reports that the endpoint is at fault.
	Blame bool
	// Unreachable reports that the endpoint cannot be used at all, for example
	// because it refuses connections. It is ejected at once, and Blame is ignored.
	Unreachable bool
	// Doubt reports that the endpoint answers and cannot serve, for a reason that
	// may affect the whole store, such as an election. It counts as a failure when
	// another endpoint answers a request that was sent later. Blame is ignored.
	Doubt bool
	// Busy is how long the endpoint asks not to be called. Calls prefer the other
	// endpoints for that time. It is not a failure.
	Busy time.Duration
	// Throttled reports that the endpoint refuses requests because there are too
	// many. While every endpoint does, [Pool.Admit] admits one request a second.
	Throttled bool
	// Reason is a short text for the log and the event. It must not contain secrets.
	Reason string
}

// Options configures a Pool. Backend, Seeds, Budget and Judge are required.
type Options struct {
	// Backend is the name of the backend in logs and events.
	Backend string
	// Seeds are the first endpoints. They are never removed, so that the store
	// can be found after every listed member has been replaced.
	Seeds []string
	// Budget is how long a call may take: Timing.RetryTimeout.
	Budget time.Duration

	// AttemptFloor is the timeout of one copy in the first three rounds, in which
	// a store may be electing a leader. It doubles with each later round. Zero
	// means a sixth of Budget, but at most 450 ms. The timeout is at least four
	// times the usual latency of the endpoint in use.
	AttemptFloor time.Duration
	// HedgeFloor is the shortest time without an answer after which a second copy
	// is sent. It is doubled for writes. Zero means 5 ms. The actual time is four
	// times the usual latency plus its usual deviation where that is longer, but at
	// most AttemptFloor/2.
	HedgeFloor time.Duration
	// ProbeInterval is the longest pause before an endpoint that was ejected is
	// probed. It doubles with every failed probe, up to ten times this value. Zero
	// means Budget/10, but at least 100 ms and at most 1 s.
	ProbeInterval time.Duration
	// SampleInterval is the average interval between probes of a healthy endpoint,
	// which measure its latency and determine the leader. Zero means the longer of
	// 30 s and Budget. A negative value means never.
	SampleInterval time.Duration
	// TopologyInterval is the average interval between calls of Topology while no
	// endpoint fails. An idle client loses a store whose members are all replaced
	// within a shorter time. Zero means three times Budget.
	TopologyInterval time.Duration

	// DialsPerSecond is the number of connections a second that AllowDial allows,
	// with a burst of the same number. Zero means 20 with a burst of 10. A store in
	// which each lease has its own connection needs more.
	DialsPerSecond int

	// Judge classifies the error of an attempt. The Pool judges an attempt that
	// ended with its context by itself.
	Judge func(error) Verdict
	// Probe sends a request to the quorum through one endpoint. leads reports
	// whether the endpoint is the leader. If Probe is nil, an ejected endpoint is
	// tried again with ordinary calls after its pause.
	Probe func(ctx context.Context, endpoint string) (leads bool, err error)
	// Topology returns the endpoints of the members. Nil means the seeds only.
	Topology func(ctx context.Context) ([]Listed, error)
	// Lookup returns the addresses of a host. If there are several, each is a
	// separate endpoint: see [Pool.Address]. It is called at the start, when an
	// endpoint fails, and every TopologyInterval. Nil means that names are not
	// looked up and each is one endpoint.
	Lookup LookupFunc
	// Drop closes the connections to an endpoint that was removed, that was ejected
	// and has not answered for Budget, or whose name has another address now. Calls
	// in flight may continue. It is called with no lock held and must not block. Nil
	// means that there are no connections to close.
	Drop func(endpoint string)

	// Logger receives one line for each decision, through [dcs.Detached]. Nil means
	// no log.
	Logger *slog.Logger
	// Observer receives one event for each decision, in their order. It is called
	// with a lock held. It must neither block nor call the Pool, so that a callback
	// of a program must be passed through [dcs.Detached] first.
	Observer func(dcs.EndpointEvent)
	// Rand returns a random number in [0, n), for jitter. Nil means math/rand/v2.
	// It is called with a lock held.
	Rand func(n int64) int64
}

// LateWriteFactor is how long a copy of a write may run, as a multiple of its
// attempt timeout, after another copy has been sent (see [Attempt.Late]). It never
// exceeds a third of the remaining time of the call. A slow store can thus complete a
// request that it has begun, instead of starting over with another copy.
const LateWriteFactor = 3

const (
	// maxAttemptFloor leaves time for the next copy. A call whose first copy is
	// sent to a silent server must be answered within 500 ms even if no hedge may be
	// sent (conformance, Rotate).
	maxAttemptFloor = 450 * time.Millisecond
	minAttempt      = 10 * time.Millisecond
	hedgeFloor      = 5 * time.Millisecond
	// steadyRounds is the number of rounds before the timeouts double.
	steadyRounds = 3
	// maxCopies bounds the unanswered copies of one call.
	maxCopies = 3
	// ejectAfter is the number of failures in a row that eject an endpoint, unless
	// one is certain.
	ejectAfter = 2
	// restoreAfter is the number of successful probes in a row that restore it.
	restoreAfter = 2
	// hedgeBurst is the capacity of the hedge budget. A hedge that loses to the
	// original costs uselessHedge tokens, and a call earns 1/hedgeShare.
	hedgeShare   = 5
	hedgeBurst   = 5
	uselessHedge = 5
	// dialsPerSecond and dialBurst bound AllowDial. probesPerSecond and probeBurst
	// bound the probes.
	dialsPerSecond  = 20
	dialBurst       = 10
	probesPerSecond = 5
	probeBurst      = 10
	// maxPause is the longest pause between probes, as a multiple of ProbeInterval.
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
	o.Logger, _ = dcs.Detached(o.Logger, dcs.Observer{})
	if o.Rand == nil {
		o.Rand = rand.Int64N
	}
	return o
}

// ErrOvertaken ends an attempt that is given up because another copy of the call
// was answered.
var ErrOvertaken = errors.New("another copy of the call was answered first")

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
