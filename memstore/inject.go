package memstore

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dcs/holdfast/dcs"
)

// Op is a kind of request, or a set of kinds combined with |.
type Op uint16

// The kinds of request that clients send.
const (
	// OpGet and OpSnapshot are the calls Get and Snapshot.
	OpGet Op = 1 << iota
	OpSnapshot
	// OpWait is the start of a watch and the watch itself. A fault on it holds back
	// the changes that the server would push.
	OpWait
	// OpProbe checks that the server behind a watch without changes is still there.
	OpProbe
	// OpCommit is a copy of a Commit.
	OpCommit
	// OpMark creates the marker of an attempt slot (docs/protocol.md P8).
	OpMark
	// OpSettle takes a marker, so that an ambiguous Commit cannot be applied (P11).
	OpSettle
	// OpRead is a read during a Commit.
	OpRead
	// OpGrant, OpRenew and OpRevoke are the calls of a Lease.
	OpGrant
	OpRenew
	OpRevoke

	// OpWatch is every request of a Wait.
	OpWatch = OpWait | OpProbe
	// OpWrites is every request that changes the store, including renewals.
	OpWrites = OpCommit | OpMark | OpSettle | OpGrant | OpRenew | OpRevoke
	// OpAll is every request, like the zero Op in a Match.
	OpAll = OpGet | OpSnapshot | OpWatch | OpRead | OpWrites
)

// Call is one copy of a request as the network sees it.
type Call struct {
	Op       Op
	Client   string
	Root     string
	Endpoint string
	Copy     int         // the number of the copy of its request, from 0
	Keys     []string    // the keys in the request, markers included
	Lease    dcs.LeaseID // of a Renew or Revoke, or of a Commit's puts
}

// Match selects the calls that a fault applies to. An empty field matches every call.
type Match struct {
	Op       Op
	Client   string
	Endpoint string
	// Key matches calls with this key or a key below it.
	Key   string
	Lease dcs.LeaseID
	// When is called last, under the server's lock, and must not call the server.
	When func(Call) bool
}

func (m Match) matches(c Call) bool {
	return (m.Op == 0 || m.Op&c.Op != 0) &&
		(m.Client == "" || m.Client == c.Client) &&
		(m.Endpoint == "" || m.Endpoint == c.Endpoint) &&
		(m.Lease == "" || m.Lease == c.Lease) &&
		(m.Key == "" || slices.ContainsFunc(c.Keys, func(k string) bool { return dcs.Under(m.Key, k) })) &&
		(m.When == nil || m.When(c))
}

// Fault is one action of the injector. Faults combine, both those of one Inject and
// those of several Injects that match the same call.
type Fault struct {
	apply  func(*Injection, *plan)
	times  int  // > 0: no action, but the number of calls
	random bool // has no effect on a watch that has begun
}

func newFault(apply func(*Injection, *plan)) Fault { return Fault{apply: apply} }

// plan lists the faults of one call.
type plan struct {
	refuse    error // not sent
	fail      error // the answer of a server that does not apply the call
	silent    bool  // the call never arrives
	lost      bool  // the answer never arrives
	reset     bool  // the client sees a broken connection at once instead of silence
	delay     time.Duration
	late      time.Duration // of the answer
	twice     bool          // applied twice, and the second answer counts
	again     []time.Duration
	hold      *Injection
	holdReply *Injection
}

// Refuse fails the call before it is sent, with a definite error. If err is a
// *[dcs.Error], the client uses its Kind and does not try again.
func Refuse(err error) Fault { return newFault(func(_ *Injection, p *plan) { p.refuse = err }) }

// Full makes the call fail like a write to a full store, with ErrUnavailable and with
// nothing written (P14). It should be matched with OpWrites.
func Full() Fault {
	return Refuse(&dcs.Error{Backend: name, Kind: dcs.ErrUnavailable, Err: errors.New("no space left in the store")})
}

// Fail answers the call with err and does not apply it. The client cannot know that it
// was not applied.
func Fail(err error) Fault { return newFault(func(_ *Injection, p *plan) { p.fail = err }) }

// Hang drops the call. It never arrives, and the client gets no answer.
func Hang() Fault { return newFault(func(_ *Injection, p *plan) { p.silent = true }) }

// DropReply applies the call and drops its answer.
func DropReply() Fault { return newFault(func(_ *Injection, p *plan) { p.lost = true }) }

// Reset is combined with Hang or DropReply. The client sees at once that the connection
// broke, instead of silence.
func Reset() Fault { return newFault(func(_ *Injection, p *plan) { p.reset = true }) }

// Delay delays the request by d. It arrives even if the client has given up by then.
func Delay(d time.Duration) Fault { return newFault(func(_ *Injection, p *plan) { p.delay += d }) }

// DelayReply applies the call and delays its answer by d.
func DelayReply(d time.Duration) Fault { return newFault(func(_ *Injection, p *plan) { p.late += d }) }

// Duplicate makes the call arrive a second time, after d. The second answer is lost. For
// a Commit see Options.Duplicating.
func Duplicate(d time.Duration) Fault {
	return newFault(func(_ *Injection, p *plan) { p.again = append(p.again, d) })
}

// Repeat applies the call twice in a row and returns the second answer, like a proxy that
// retries by itself. Without Options.Duplicating a marker must not get lost at that
// moment.
func Repeat() Fault { return newFault(func(_ *Injection, p *plan) { p.twice = true }) }

// Hold holds the request until [Injection.Release]. It arrives then, even if the client
// has given up long before.
func Hold() Fault { return newFault(func(i *Injection, p *plan) { p.hold = i }) }

// HoldReply applies the call and holds the answer until [Injection.Release].
func HoldReply() Fault { return newFault(func(i *Injection, p *plan) { p.holdReply = i }) }

// Loss describes the quality of a network. The figures are probabilities from 0 to 1 and
// apply to each call separately.
type Loss struct {
	// Seed makes the faults repeatable for the same calls in the same order.
	Seed uint64
	// Request and Reply are the probabilities that a request or an answer is lost.
	Request, Reply float64
	// Duplicate is the probability of a second arrival (see [Duplicate]).
	Duplicate float64
	// Delay is the probability of a delay of up to MaxDelay, for the request and for
	// the answer. Delayed messages can be overtaken.
	Delay    float64
	MaxDelay time.Duration
}

// Lossy applies faults at random, like a bad network.
func Lossy(l Loss) Fault {
	rng := rand.New(rand.NewPCG(l.Seed, l.Seed)) //nolint:gosec // G404: it must be repeatable
	late := func() time.Duration { return time.Duration(rng.Int64N(int64(max(l.MaxDelay, 1)))) + 1 }
	return Fault{random: true, apply: func(_ *Injection, p *plan) { // under the server's lock
		p.silent = p.silent || rng.Float64() < l.Request
		p.lost = p.lost || rng.Float64() < l.Reply
		if rng.Float64() < l.Duplicate {
			p.again = append(p.again, late())
		}
		if rng.Float64() < l.Delay {
			p.delay += late()
		}
		if rng.Float64() < l.Delay {
			p.late += late()
		}
	}}
}

// Once ends the injection after its first call.
func Once() Fault { return Times(1) }

// Times ends the injection after n calls. Held calls and answers stay held.
func Times(n int) Fault { return Fault{times: max(n, 1)} }

// Injection is a set of faults in force.
type Injection struct {
	s      *Server
	match  Match
	faults []Fault
	left   int // calls until it ends, < 0 for no limit
	hits   int
	held   []func()
}

// faults is the state of the server's faults. Guarded by Server.mu.
type faults struct {
	down     bool
	readOnly bool
	active   []*Injection
	changed  chan struct{} // closed at every change, for watches
}

func newFaults() faults { return faults{changed: make(chan struct{})} }

func (f *faults) change() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Inject applies faults to the calls that match, from now until Lift, or until Once or
// Times is used up. If several injections match a call, all of them apply.
func (s *Server) Inject(m Match, faults ...Fault) *Injection {
	i := &Injection{s: s, match: m, left: -1}
	for _, v := range faults {
		if v.times > 0 {
			i.left = v.times
		} else if v.apply != nil {
			i.faults = append(i.faults, v)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.active = append(s.faults.active, i)
	s.faults.change()
	return i
}

// Lift ends the injection for further calls. Held calls and answers stay held until
// Release or Drop.
func (i *Injection) Lift() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.lift(i)
}

func (s *Server) lift(i *Injection) {
	s.faults.active = slices.DeleteFunc(s.faults.active, func(a *Injection) bool { return a == i })
	s.faults.change()
}

// Hits returns the number of calls to which the injection has applied so far.
func (i *Injection) Hits() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.hits
}

// Held returns the number of held calls and answers.
func (i *Injection) Held() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return len(i.held)
}

// Release delivers all held calls and answers, in the order in which they were sent,
// before it returns. Later calls are held again unless the injection was lifted.
func (i *Injection) Release() {
	for _, deliver := range i.takeHeld() {
		deliver()
	}
}

// Drop discards all held calls and answers. They never arrive.
func (i *Injection) Drop() { i.takeHeld() }

func (i *Injection) takeHeld() []func() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	held := i.held
	i.held = nil
	return held
}

// plan returns the faults of c, and counts the call. Called under s.mu.
func (s *Server) plan(c Call) *plan {
	if s.faults.down {
		return &plan{refuse: errDown}
	}
	var p *plan
	for _, i := range slices.Clone(s.faults.active) {
		if !i.match.matches(c) {
			continue
		}
		if p == nil {
			p = &plan{}
		}
		for _, v := range i.faults {
			v.apply(i, p)
		}
		i.hits++
		if i.left > 0 {
			if i.left--; i.left == 0 {
				s.lift(i)
			}
		}
	}
	return p
}

// muted reports whether changes that the server pushes to a watch do not arrive. Called
// under s.mu.
func (s *Server) muted(c Call) bool {
	for _, i := range s.faults.active {
		if !i.match.matches(c) {
			continue
		}
		var p plan
		for _, v := range i.faults {
			if !v.random {
				v.apply(i, &p)
			}
		}
		if p.silent || p.lost || p.hold != nil || p.holdReply != nil {
			return true
		}
	}
	return false
}
